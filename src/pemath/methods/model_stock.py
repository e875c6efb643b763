"""The mean of deltas, shortened by how much their directions differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.methods._directions import combined, cosines, gram
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import check_finite, fitting, operand_count
from pemath.methods.exact import exact


@method(
    space="core",
    source="Jang et al. 2024 (arXiv 2403.19522), equation for N models in section 4; per site",
    check=fitting,
    weights="shares",
    any_kind=True,
)
def model_stock(stack: Stack) -> Any:
    """Model Stock: t·mean with t = T cos θ / ((T−1) cos θ + 1), θ the angle between T operands.

    It estimates the centre that more trainings from one start would have. cos θ is the mean over all
    pairs of the site's deltas, as in the authors' layer-wise code; a zero is at right angles to all.
    Where cos θ is not positive the operands agree in nothing, and t is 0: it is a share of the way
    to the mean, and mergekit's negative t goes the opposite way, ever farther. The mean is Σ wᵢΔᵢ
    with shares wᵢ = 1/T; a negative weight turns its delta round.
    """
    count = operand_count(stack)
    if count == 1:
        return exact(stack)
    check_finite(stack)
    signs = np.sign(stack.weights)
    _, cosine = cosines(gram(stack.values) * np.outer(signs, signs))
    pairs = cosine[np.triu_indices(len(cosine), 1)]
    between = max(float(pairs.sum()) / (count * (count - 1) / 2), 0.0)
    t = count * between / ((count - 1) * between + 1)
    return combined(stack, [t] * len(stack.values))
