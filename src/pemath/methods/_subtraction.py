"""What methods that subtract less than a whole module ask of their operands."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from pemath.errors import OperandError, PemathError, ShapeMismatch
from pemath.formats.floats import Stored
from pemath.kinds import refuse_non_finite
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Stack
from pemath.names import display, listing


def fitting(stack: Stack) -> PemathError | None:
    """ShapeMismatch where values differ in shape. A sum finds it too, but not for a value that
    weighs nothing there.
    """
    try:
        reduce(add, stack.values)
    except ShapeMismatch as error:
        return ShapeMismatch(
            f"{listing(list(stack.names))} do not go together: {error.what}",
            where=f"site `{display(stack.site)}`",
            found=error.found,
            expected=error.expected,
            hint="the adapters were trained on different base models",
        )
    return None


def operand_count(stack: Stack) -> int:
    """The number of the call's operands, whether they have the site or not."""
    return max(len(stack.operands), len(stack.values))


def refuse_number(stack: Stack, method: str, wanted: str) -> OperandError:
    """The error for a call with too many or too few operands."""
    return OperandError(
        f"`{method}` takes {wanted}",
        where=f"site `{display(stack.site)}`",
        found=f"{operand_count(stack)}: {listing(list(stack.names))}",
    )


def steering_only(stack: Stack, method: str) -> OperandError | None:
    """What is wrong where an operand after the first is given a weight."""
    if not any(stack.weights[1:]):
        return None
    return OperandError(
        f"`{method}` gives a part of its first operand; the others only steer and are not added",
        where=f"site `{display(stack.site)}`",
        found=f"weights {', '.join(f'{weight:g}' for weight in stack.weights)}",
        expected="0 for every operand but the first",
        hint=f"leave `weights` out and add in the expression: `b - 0.5*{method}(a, b)`",
    )


def check_finite(stack: Stack) -> None:
    """Raise NonFiniteValue where a value is not finite: what steers or is left out does not show
    in the result.
    """
    if not all(value.is_finite() for value in stack.values):
        refuse_non_finite([a for a in stack.operands if a is not None], stack.site)


def bias_of(value: Lora) -> FullDelta:
    """The delta of a LoRA's bias, as a vector; zero where it has none."""
    if value.bias is None:
        return FullDelta((value.geometry.outputs,))
    return FullDelta((value.geometry.outputs,), ((1.0, Stored.of(value.delta_bias())),))


def as_bias(vector: FullDelta) -> LowRank:
    """A delta [out] as LoRAs keep it."""
    column = Stored.of(vector.delta_weight().reshape(-1, 1))
    return LowRank((len(column.raw), 1), (Part(Stored.of(np.ones((1, 1))), column),))
