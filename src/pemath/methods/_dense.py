"""Dense deltas by blocks of rows, for methods that work on single entries, and the way back.

A LoRA's delta is never held at once: a method sees some rows of every operand, and what it makes of
them is factorised again while it streams by.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._subtraction import as_bias, bias_of

Rows = Callable[[int, int], Array]
"""rows(start, stop): these rows of a matrix, [stop - start, in]."""

# Entries held at once for each operand: 4 MB in float64.
_BLOCK = 1 << 19
# Columns of the sketch beyond the rank that is asked for, and passes that sharpen it.
_OVERSAMPLED = 10
_PASSES = 3


def row_blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows that are held at once."""
    step = max(1, _BLOCK // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def rows_of(value: LowRank | FullDelta) -> tuple[tuple[int, int], Rows]:
    """The shape of the value as a matrix, and its rows in float64.

    A full delta's rows are along its first axis; a vector is one row.
    """
    if isinstance(value, LowRank):
        simple = value.simplified()  # what cancels, cancels before anyone looks at signs
        a, b = simple.a(), simple.b()
        return value.shape, lambda start, stop: b[start:stop] @ a
    count = value.shape[0] if len(value.shape) > 1 else 1
    width = math.prod(value.shape) // max(count, 1)
    flat = [(scale, weight.flat()) for scale, weight in value.terms]

    def rows(start: int, stop: int) -> Array:
        total = np.zeros((stop - start) * width)
        for scale, weight in flat:
            total += scale * weight[start * width : stop * width].widen()
        return total.reshape(stop - start, width)

    return (count, width), rows


def elementwise(
    values: Sequence[Any], merge: Callable[[list[Array]], Array], rank: int, seed: str
) -> Any:
    """The value, of the same kind, whose delta is `merge` of the deltas of `values`.

    `merge` takes blocks of one shape and gives one; it treats every row by itself. (IA)³ and full
    deltas are exact, the matrices of a LoRA are brought to the site rank `rank` by `factored`.
    """
    first = values[0]
    if isinstance(first, Lora):
        allowed = max(1, first.geometry.block_rank(rank))
        blocks = tuple(
            factored(
                *_merged([v.blocks[index] for v in values], merge), allowed, f"{seed} {index}"
            )[0]
            for index in range(len(first.blocks))
        )
        bias = None
        if any(value.bias is not None for value in values):
            bias = as_bias(_whole([bias_of(value) for value in values], merge))
        return Lora(first.geometry, blocks, bias)
    if isinstance(first, Ia3):
        deviation = merge([value.deviation()[None] for value in values])
        vector = Stored.of((1.0 + deviation).reshape(first.shape))
        return replace(first, terms=((1.0, vector),))
    return _whole(values, merge)


def _merged(
    values: Sequence[LowRank | FullDelta], merge: Callable[[list[Array]], Array]
) -> tuple[tuple[int, int], Rows]:
    read = [rows_of(value) for value in values]
    return read[0][0], lambda start, stop: merge([rows(start, stop) for _, rows in read])


def _whole(values: Sequence[FullDelta], merge: Callable[[list[Array]], Array]) -> FullDelta:
    shape, rows = _merged(values, merge)
    dense = np.empty(shape)
    for start, stop in row_blocks(shape):
        dense[start:stop] = rows(start, stop)
    return FullDelta(values[0].shape, ((1.0, Stored.of(dense.reshape(values[0].shape))),))


def factored(shape: tuple[int, int], rows: Rows, rank: int, seed: str) -> tuple[LowRank, float]:
    """The matrix of `rows` within `rank`, and the relative Frobenius error of that.

    By a randomised singular value decomposition (Halko, Martinsson and Tropp 2011, algorithm 4.4):
    every row is asked for four times, and nothing of size out × in is held. `seed` names the
    matrix: the same name gives the same bits.
    """
    outputs, inputs = shape
    width = rank + _OVERSAMPLED
    if width >= min(shape):  # the matrix is no larger than its sketch
        whole = [rows(start, stop) for start, stop in row_blocks(shape)]
        return _kept(shape, np.concatenate([np.empty((0, inputs)), *whole]), None, rank)
    basis = _signs((inputs, width), seed)
    for _ in range(_PASSES):
        image = np.zeros((inputs, width))
        for start, stop in row_blocks(shape):
            block = rows(start, stop)
            image += block.T @ (block @ basis)
        basis = np.linalg.qr(image)[0]
    sketch = np.empty((outputs, width))
    squared = 0.0
    for start, stop in row_blocks(shape):
        block = rows(start, stop)
        np.matmul(block, basis, out=sketch[start:stop])
        squared += float(np.vdot(block, block))
    return _kept(shape, sketch, basis, rank, squared)


def _kept(
    shape: tuple[int, int],
    sketch: Array,
    basis: Array | None,
    rank: int,
    squared: float | None = None,
) -> tuple[LowRank, float]:
    """The leading `rank` singular triples of sketch basisᵀ, and the share of √squared left out."""
    left, values, right = np.linalg.svd(sketch, full_matrices=False)
    floor = max(shape) * 2.0**-52 * values.max(initial=0.0)
    rank = min(rank, int(np.count_nonzero(values > floor)))
    total = float(values @ values) if squared is None else squared
    lost = total - float(values[:rank] @ values[:rank])
    error = math.sqrt(max(lost, 0.0) / total) if total else 0.0
    if rank == 0:
        return LowRank(shape), error
    root = np.sqrt(values[:rank])
    rows = right[:rank] if basis is None else right[:rank] @ basis.T
    a, b = Stored.of(root[:, None] * rows), Stored.of(left[:, :rank] * root)
    return LowRank(shape, (Part(a, b),)), error


def _signs(shape: tuple[int, int], seed: str) -> Array:
    """Random signs that depend on `seed` alone, whatever the version of numpy."""
    count = math.prod(shape)
    digest = hashlib.shake_256(seed.encode()).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=count)
    return np.where(bits.reshape(shape), 1.0, -1.0)
