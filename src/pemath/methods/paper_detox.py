"""The paper's subtraction for instruction-tuned models."""

from __future__ import annotations

from typing import Any

from pemath.errors import OperandError, PemathError
from pemath.formats.floats import weighted_sum
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import operand_count, refuse_number
from pemath.methods.exact import exact
from pemath.methods.paper import equal_ranks, kept_rank
from pemath.names import display

_NAME = "paper_detox"


def _more_of_one_less_of_the_other(stack: Stack) -> PemathError | None:
    if operand_count(stack) != 2:
        return refuse_number(stack, _NAME, "two operands: the module, and the one to subtract")
    if len(stack.weights) == 2 and not stack.weights[0] >= 0 >= stack.weights[1]:
        given, strength = stack.weights
        return OperandError(
            f"`{_NAME}` subtracts its second operand",
            where=f"site `{display(stack.site)}`",
            found=f"weights {given:g}, {strength:g}",
            expected="the weights c + λ and −λ of the exact sum",
            hint=f"for c = 1 and λ = 0.3 write `{_NAME}(a, b, weights=[1.3, -0.3])`",
        )
    return equal_ranks(stack)


@method(
    space="factor",
    source="Zhang et al. 2023 (arXiv 2306.14870), as in peft_negation of the authors' "
    "AlpacaLoRAcomposition/peft_merge.py",
    check=_more_of_one_less_of_the_other,
    rank=kept_rank,
)
def paper_detox(stack: Stack) -> Any:
    """The paper's detox: A' = cA₀ + λ(A₀ − A₁), B' = cB₀ + λ(B₀ + B₁) for the weights c + λ, −λ.

    It stands for (c + λ)ΔW₀ − λΔW₁, so `a + 0.3*(a - b)` under this arithmetic is
    `paper_detox(a, b, weights=[1.3, -0.3])`, which is the authors' code (c = 1). Kept to show what
    that is: with equal operands it gives (1 + 2λ)ΔW₀ where the sum gives ΔW₀. A module that is alone
    at a site is scaled; (IA)³ and full deltas are the sum.
    """
    if len(stack.values) == 1 or not isinstance(stack.values[0], Lora):
        return exact(stack)
    first, second = stack.values
    given, taken = stack.weights

    def merged(x: LowRank, y: LowRank) -> LowRank:
        p, q = x.joined(), y.joined()
        a = weighted_sum([(given, p.a), (taken, q.a)])
        b = weighted_sum([(given * p.scale, p.b), (-taken * q.scale, q.b)])
        return LowRank(x.shape, (Part(a, b),))

    blocks = tuple(map(merged, first.blocks, second.blocks))
    return Lora(first.geometry, blocks, exact(stack).bias)
