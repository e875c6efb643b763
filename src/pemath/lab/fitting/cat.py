"""Weights by labelled rows, by gradient."""

from __future__ import annotations

from typing import Any

from pemath.lab.fitting._descent import descend
from pemath.lab.fitting._problem import Problem, cross_entropy
from pemath.lab.fitting._registry import fitting_method


@fitting_method(
    source="Prabhakar et al. 2025 (COLING; arXiv 2410.13025), LoRA Soups: CAT",
    loss="mean cross-entropy of the labels",
    measure=cross_entropy,
    per=("layer", "module"),
)
def cat(problem: Problem, *, steps: int = 50, learning_rate: float = 0.01) -> Any:
    """Make the loss on labelled rows small by gradient, with a weight for each operand and layer.

    min over λ of mean −log p(y | x; W₀ + Σᵢ λᵢₗ BᵢAᵢ), by Adam: concatenated factors are the exact
    sum, so CAT is learned weights in it. The loss of numbers is the squared error.
    """
    return descend(problem, steps, learning_rate)
