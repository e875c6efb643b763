"""Weights by a gradient-free search on a few labelled rows."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from pemath.lab.fitting._problem import Problem, cross_entropy
from pemath.lab.fitting._registry import fitting_method
from pemath.lab.search import Span, Weights, best, require, search

BOUND = Fraction(3, 2)
PENALTY = 0.05


@fitting_method(
    source="Huang et al. 2024 (COLM; arXiv 2307.13269), LoraHub",
    loss="mean cross-entropy of the labels + 0.05 mean |λ|",
    measure=cross_entropy,
    penalty=lambda weights: PENALTY * weights.abs().mean(),
    per=("module",),
)
def lorahub(problem: Problem, *, trials: int = 40) -> Any:
    """Search one weight for each operand within ±1.5 on a few labelled rows, without gradients.

    min over λ of mean −log p(y | x) + 0.05 Σ|λᵢ| / n. The authors add factors, (Σ λᵢAᵢ)ᵀ(Σ λᵢBᵢ), so
    that weights are squared and operands cross; ours is the exact Σ λᵢ BᵢAᵢ, of any ranks. They
    search with Nevergrad's NGOpt from zero; this is optuna's seeded TPE, zero first.
    """
    import torch

    require("optuna")
    done = 0

    def score(weights: Weights) -> float:
        nonlocal done
        done += 1
        problem.progress("fitting", done, trials)
        return -problem.loss(_tensor(weights, problem))

    spans = {name: Span(-BOUND, BOUND) for name in problem.names}
    tried = search(spans, score, kind="optuna", trials=trials, seed=problem.seed)
    found: torch.Tensor = _tensor(best(tried).weights, problem)
    return found


def _tensor(weights: Weights, problem: Problem) -> Any:
    import torch

    column = [float(weights[name]) for name in problem.names]
    return torch.tensor(column, dtype=problem.start.dtype).unsqueeze(-1).expand_as(problem.start)
