"""The arc between two deltas, or between each row of them, with weights for its ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pemath.errors import PemathError
from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.methods._directions import arc, combined, cosines, gram, rows_scaled
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import (
    as_bias,
    bias_of,
    check_finite,
    fitting,
    operand_count,
    refuse_number,
)
from pemath.methods.exact import exact

_NAME = "nuslerp"


def _two(stack: Stack) -> PemathError | None:
    if operand_count(stack) != 2:
        return refuse_number(stack, _NAME, "two operands, the ends of the arc")
    return fitting(stack)


@method(
    space="core",
    source="mergekit 0.1, nuslerp (Goddard 2024); in closed form on the factors",
    check=_two,
    weights="shares",
)
def nuslerp(stack: Stack, *, row_wise: bool = False) -> Any:
    """Spherical interpolation with weights: `slerp` at t = |w₂|/(|w₁|+|w₂|), times |w₁|+|w₂|.

    A negative weight turns its delta round. `row_wise` takes an arc of its own for each row, which is
    what feeds one output of a LoRA, or lies along the first axis of a full delta; a vector is one
    row. Of LoRAs that is diag(c₁)B₁A₁ + diag(c₂)B₂A₂, so ranks add up and nothing is lost. mergekit
    calls these rows `nuslerp_flatten: false`; its `nuslerp_row_wise` means columns. It divides the
    weights by their sum, so that 2 and 2 give what ½ and ½ do. Zero and opposite ones as in `slerp`.
    """
    total = sum(abs(weight) for weight in stack.weights)
    if len(stack.values) == 1 or total == 0:
        return exact(stack)  # beside zero, the straight line
    check_finite(stack)
    signs = [float(np.sign(weight)) for weight in stack.weights]
    first, second = (value * sign for value, sign in zip(stack.values, signs, strict=True))
    t = abs(stack.weights[1]) / total
    if row_wise and isinstance(first, Lora | FullDelta):
        return _by_rows(first, second, t) * total
    norms, cosine = cosines(gram([first, second]))
    between = cosine[0, 1] if norms.all() else 1.0
    ends = arc(np.array(between), t)
    signed = replace(stack, weights=signs)
    return combined(signed, [float(c) * total for c in ends])


def _by_rows(first: Any, second: Any, t: float) -> Any:
    if isinstance(first, Lora):
        blocks = tuple(
            _of_products(x, y, t) for x, y in zip(first.blocks, second.blocks, strict=True)
        )
        bias = None
        if first.bias is not None or second.bias is not None:
            bias = as_bias(_of_deltas(bias_of(first), bias_of(second), t))
        return Lora(first.geometry, blocks, bias)
    return _of_deltas(first, second, t)


def _of_deltas(first: FullDelta, second: FullDelta, t: float) -> FullDelta:
    x, y = _rows(first), _rows(second)
    own, other = _ends(_squares(x, x), _squares(y, y), _squares(x, y), t)
    rows = own[:, None] * x + other[:, None] * y
    return FullDelta(first.shape, ((1.0, Stored.of(rows.reshape(first.shape))),))


def _rows(value: FullDelta) -> Array:
    """The delta as rows along its first axis; a vector is one row."""
    delta = value.delta_weight()
    return delta.reshape(len(delta), -1) if delta.ndim > 1 else delta.reshape(1, -1)


def _of_products(first: LowRank, second: LowRank, t: float) -> LowRank:
    """Inner products of rows of BA are those of rows of B times the triangle of A."""
    a = np.concatenate([first.a(), second.a()])
    triangle = np.asarray(np.linalg.qr(a.T, mode="r")).T
    x = _without_rounding(first, first.b() @ triangle[: first.rank])
    y = _without_rounding(second, second.b() @ triangle[first.rank :])
    own, other = _ends(_squares(x, x), _squares(y, y), _squares(x, y), t)
    return rows_scaled(first, own) + rows_scaled(second, other)


def _without_rounding(block: LowRank, rows: Array) -> Array:
    """The rows, zero where nothing but rounding is left of their terms."""
    terms = np.abs(block.b()) @ np.linalg.norm(block.a(), axis=1)
    zero = np.linalg.norm(rows, axis=1) <= 4 * block.rank * 2.0**-52 * terms
    return np.where(zero[:, None], 0.0, rows)


def _squares(x: Array, y: Array) -> Array:
    found: Array = np.einsum("ij,ij->i", x, y)
    return found


def _ends(x: Array, y: Array, both: Array, t: float) -> tuple[Array, Array]:
    lengths = np.sqrt(x) * np.sqrt(y)
    return arc(np.divide(both, lengths, out=np.ones_like(both), where=lengths > 0), t)
