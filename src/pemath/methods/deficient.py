"""What a module changes in a direction of its own, row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pemath.errors import PemathError
from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.methods._dense import row_blocks, rows_of
from pemath.methods._directions import rows_scaled
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import (
    as_bias,
    bias_of,
    check_finite,
    fitting,
    operand_count,
    refuse_number,
    steering_only,
)
from pemath.methods.exact import exact

_NAME = "deficient"


def _two(stack: Stack) -> PemathError | None:
    if operand_count(stack) != 2:
        return refuse_number(
            stack, _NAME, "two operands: the module, and one that it is held against"
        )
    return steering_only(stack, _NAME) or fitting(stack)


@method(
    space="factor",
    source="Hu et al. 2024 (arXiv 2308.08090), as in the authors' ext_sub.py; the closed form is our own",
    check=_two,
    weights="first",
)
def deficient(stack: Stack) -> Any:
    """The deficient part of the first operand beside the second, as Ext-Sub extracts it.

    For a row w of the first delta and v of the second it is ½(w − (‖w‖/‖v‖) v): what is left of w
    without its projection on the bisector of both, which is what they have in common. Ext-Sub is
    `useful - 0.6*deficient(toxic, useful)`. A row is what feeds one output of a LoRA, or lies along
    the first axis of a full delta; a vector, an (IA)³ too, is one row. Where v is zero, nothing is
    in common. The ranks add up, and nothing is lost.
    """
    if len(stack.values) == 1:
        return exact(stack)
    check_finite(stack)
    first, second, *_ = stack.values
    return _part(first, second) * stack.weights[0]


def _part(first: Any, second: Any) -> Any:
    if isinstance(first, Lora):
        blocks = tuple(map(_of_product, first.blocks, second.blocks))
        bias = None
        if first.bias is not None:
            bias = as_bias(_of_delta(bias_of(first), bias_of(second)))
        return Lora(first.geometry, blocks, bias)
    if isinstance(first, Ia3):
        w, v = first.deviation()[None], second.deviation()[None]
        vector = 1.0 + _of_rows(w, v)
        return replace(first, terms=((1.0, Stored.of(vector.reshape(first.shape))),))
    return _of_delta(first, second)


def _of_delta(first: FullDelta, second: FullDelta) -> FullDelta:
    (shape, w), (_, v) = rows_of(first), rows_of(second)
    dense = np.empty(shape)
    for start, stop in row_blocks(shape):
        dense[start:stop] = _of_rows(w(start, stop), v(start, stop))
    return FullDelta(first.shape, ((1.0, Stored.of(dense.reshape(first.shape))),))


def _of_rows(w: Array, v: Array) -> Array:
    own, other = _shares(np.linalg.norm(w, axis=1), np.linalg.norm(v, axis=1))
    return own[:, None] * w - other[:, None] * v


def _of_product(first: LowRank, second: LowRank) -> LowRank:
    """Rows of B are scaled; each part keeps its A."""
    own, other = _shares(_row_norms(first), _row_norms(second))
    return rows_scaled(first, own) + rows_scaled(second, -other)


def _shares(w: Array, v: Array) -> tuple[Array, Array]:
    """The factors of w and v in each row, from the norms of the rows."""
    shared = v > 0
    ratio = np.divide(w, v, out=np.zeros_like(w), where=shared)
    return np.where(shared, 0.5, 1.0), 0.5 * ratio


def _row_norms(block: LowRank) -> Array:
    """The norm of every row of B A, zero where only rounding is left of it, [out]."""
    a, b = block.a(), block.b()
    triangle = np.asarray(np.linalg.qr(a.T, mode="r"))
    norms = np.linalg.norm(b @ triangle.T, axis=1)
    terms = np.abs(b) @ np.linalg.norm(a, axis=1)
    return np.where(norms > 4 * block.rank * 2.0**-52 * terms, norms, 0.0)
