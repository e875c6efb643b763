"""The mean of delta weights."""

from __future__ import annotations

from typing import Any

from pemath.methods._registry import Stack, method
from pemath.methods.exact import exact


@method(
    space="factor",
    source="Wortsman et al. 2022 (arXiv 2203.05482), the uniform soup, here of deltas",
    weights="shares",
    any_kind=True,
)
def mean(stack: Stack) -> Any:
    """The mean of the delta weights, Σ wᵢ Δᵢ with equal shares wᵢ = 1/n: exact, LoRA ranks add up.

    Weights are shares and used as they are, so give ones that add up to 1; mergekit's `linear`
    divides them by their sum. A site that an operand lacks counts as zero and keeps its share, where
    mergekit's mean is over the models that have the tensor.
    """
    return exact(stack)
