"""Weights by the certainty of the predictions, without labels."""

from __future__ import annotations

from typing import Any

from pemath.lab.fitting._descent import descend
from pemath.lab.fitting._problem import Problem, entropy
from pemath.lab.fitting._registry import fitting_method


@fitting_method(
    source="Yang et al. 2024 (ICLR; arXiv 2310.02575), AdaMerging",
    loss="mean entropy of the predictions",
    measure=entropy,
    per=("layer", "module"),
    labelled=False,
)
def adamerging(problem: Problem, *, steps: int = 50, learning_rate: float = 0.01) -> Any:
    """Make the entropy of the predictions small by gradient; labels are not looked at.

    min over λ of mean_x H(p(y | x; W₀ + Σᵢ λᵢₗ BᵢAᵢ)), by Adam, one λ for each operand and layer l
    or one for each operand. The authors begin at 0.3 for eight full fine-tunings, each with its own
    head; ours share one head, and begin at equal shares. A generative model's p is over the label
    words.
    """
    return descend(problem, steps, learning_rate)
