"""The mean direction of deltas on the sphere."""

from __future__ import annotations

import math
from typing import Any

from pemath.errors import RequestError
from pemath.methods._directions import mean_on_sphere
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import check_finite, fitting, operand_count
from pemath.methods.exact import exact


@method(
    space="core",
    source="Karcher 1977 (CPAM 30), as mergekit applies it to weights; iterations on the Gram matrix",
    check=fitting,
    weights="shares",
    any_kind=True,
)
def karcher(stack: Stack, *, max_iter: int = 100, tol: float = 1e-10) -> Any:
    """Karcher mean: Σ|wᵢ|‖Δᵢ‖ times the weighted Fréchet mean of the directions Δᵢ/‖Δᵢ‖.

    The mean direction m has Σ|wᵢ| log_m(uᵢ) = 0. It is sought from the normalised mean on, in at
    most `max_iter` steps, until one is shorter than `tol`; 0 steps leave the normalised mean. The
    steps act on T numbers, so they cost nothing. A negative weight turns its delta round. A zero has
    no direction and only shortens. Where the directions cancel there is no mean, and Σ wᵢΔᵢ is
    taken; mergekit starts from the first operand there, so that its result depends on the order.
    mergekit has no weights and stops after 10 steps or at 1e-5. Each site is one vector.
    """
    if max_iter < 0:
        raise RequestError("`max_iter` must not be negative", found=max_iter)
    if not 0 <= tol < math.inf:
        raise RequestError("`tol` must not be negative", found=tol)
    if operand_count(stack) == 1:
        return exact(stack)
    check_finite(stack)
    return mean_on_sphere(stack, max_iter, tol)
