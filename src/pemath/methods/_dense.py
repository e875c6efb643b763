"""Dense deltas by blocks of rows, for methods that work on single entries, and the way back.

A LoRA's delta is never held at once, unless it is small: a method sees some rows of every operand,
and what it makes of them is factorised again while it streams by.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part, svd
from pemath.methods._subtraction import as_bias, bias_of

Rows = Callable[[int, int], Array]
"""rows(start, stop): these rows of a matrix, [stop - start, in]."""
Reader = Callable[[slice, slice], Array]
"""read(rows, columns): entries of a matrix, in an array that is the caller's. The rows have a start
and a stop; they are of one of the matrices that lie below each other.
"""
Merge = Callable[[list[Array], int], Array]
"""merge(blocks, start): one block made of the same rows, from `start`, of every operand. It may
write into the blocks.
"""

ALL = slice(None)
# Entries held at once for each operand: half a megabyte in float32, which stays in a core's cache.
_BLOCK = 1 << 17
# A LoRA's delta with more entries is computed in float32, and its result factorised as it streams.
_SMALL = 1 << 18
# Columns of the sketch beyond the rank that is asked for, and how often all rows are asked for.
_OVERSAMPLED = 8
_PASSES = 6
# Enough is what another step would make better by so much, and what a step has made better by so
# much: shares of the square of what is left out.
_TO_COME, _CLOSE = 0.006, 0.02


@dataclass(frozen=True, eq=False)
class Entries:
    """One tensor of every operand, as matrices of one shape that are read by blocks of rows.

    Every `height` rows are a matrix of their own (a group of a convolution, an expert); no block has
    rows of two. `label` tells tensors apart: site, and which tensor it is there.
    """

    label: str
    shape: tuple[int, int]
    height: int
    readers: Sequence[Reader]

    def blocks(self) -> Iterator[slice]:
        """Rows that are held at once."""
        for first in range(0, self.shape[0], max(self.height, 1)):
            for start, stop in row_blocks((self.height, self.shape[1])):
                yield slice(first + start, first + stop)


Prepare = Callable[[Entries], Merge]


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
    shape, read = _reader(value)
    return shape, lambda start, stop: read(slice(start, stop), ALL)


def elementwise(
    values: Sequence[Any], merge: Callable[[list[Array]], Array], rank: int, label: str
) -> Any:
    """The value, of the same kind, whose delta is `merge` of the deltas of `values`.

    `merge` looks at nothing but the entries that it is given, and merges multiples to the same
    multiple.
    """
    return entrywise(values, lambda _: lambda blocks, _: merge(blocks), rank, label)


def entrywise(values: Sequence[Any], prepare: Prepare, rank: int, label: str) -> Any:
    """The value, of the same kind, that `prepare` makes of the deltas of `values`, tensor by tensor.

    `prepare` may read all entries before it says how blocks of them are merged; c times the deltas
    must give c times the result, for positive c. (IA)³ and full deltas are exact. The matrices of a
    LoRA are brought to the site rank `rank`; where they are larger than 2¹⁸ entries, in float32:
    what a rank has no room for is orders above that rounding.
    """
    first = values[0]
    if isinstance(first, Lora):
        blocks, left_out = _products([value.blocks for value in values], prepare,
                                     max(1, first.geometry.block_rank(rank)), label)  # fmt: skip
        bias = None
        if any(value.bias is not None for value in values):
            bias = as_bias(_whole([bias_of(value) for value in values], prepare, f"{label} bias"))
        return Lora(first.geometry, blocks, bias, left_out)
    if isinstance(first, Ia3):
        deviations = [_full(value.deviation()) for value in values]
        vector = 1.0 + _whole(deviations, prepare, label).delta_weight()
        return replace(first, terms=((1.0, Stored.of(vector.reshape(first.shape))),))
    return _whole(values, prepare, label)


def _whole(values: Sequence[FullDelta], prepare: Prepare, label: str) -> FullDelta:
    shapes, readers = zip(*map(_reader, values), strict=True)
    entries = Entries(label, shapes[0], shapes[0][0], readers)
    merge = prepare(entries)
    dense = np.empty(entries.shape)
    for rows in entries.blocks():
        dense[rows] = merge([read(rows, ALL) for read in readers], rows.start)
    return _full(dense.reshape(values[0].shape))


def _full(dense: Array) -> FullDelta:
    return FullDelta(dense.shape, ((1.0, Stored.of(dense)),))


def _reader(value: FullDelta) -> tuple[tuple[int, int], Reader]:
    count = value.shape[0] if len(value.shape) > 1 else 1
    shape = count, math.prod(value.shape) // max(count, 1)
    terms = [(scale, Stored(w.raw.reshape(shape), w.kind)) for scale, w in value.terms]

    def read(rows: slice, columns: slice) -> Array:
        total = np.zeros(
            (len(range(*rows.indices(shape[0]))), len(range(*columns.indices(shape[1]))))
        )
        for scale, weight in terms:
            total += scale * weight[rows, columns].widen()
        return total

    return shape, read


def _products(
    operands: Sequence[Sequence[LowRank]], prepare: Prepare, rank: int, label: str
) -> tuple[tuple[LowRank, ...], float]:
    """The merged blocks of LoRAs within `rank` each, and the norm of what that leaves out."""
    (height, width), count = operands[0][0].shape, len(operands[0])
    dtype: Any = np.float64 if count * height * width <= _SMALL else np.float32
    balanced = [[_balanced(block) for block in blocks] for blocks in operands]
    # A power of two, so that no entry overflows float32, and no digit is lost.
    bound = max(
        float(abs(b).max(axis=0, initial=0.0).sum()) for pairs in balanced for _, b in pairs
    )
    unit = 2.0 ** math.frexp(bound)[1] if 0 < bound < math.inf else 1.0
    scaled = [[(a.astype(dtype), (b / unit).astype(dtype)) for a, b in pairs] for pairs in balanced]
    readers = [_product_reader(pairs, height) for pairs in scaled]
    merge = prepare(Entries(label, (count * height, width), height, readers))
    blocks, left_out = [], []
    for index in range(count):
        offset = index * height

        def rows(start: int, stop: int, offset: int = offset) -> Array:
            place = slice(offset + start, offset + stop)
            return merge([read(place, ALL) for read in readers], place.start)

        known = None
        if height * width > _SMALL:
            # More than are kept: what lies next to those would slow the search down.
            known = _leading([pairs[index] for pairs in scaled], max(2 * rank, 16))
        block, lost, _ = reduced((height, width), rows, rank, f"{label} {index}", known)
        blocks.append(block * unit)
        left_out.append(lost * unit)
    return tuple(blocks), math.hypot(*left_out)


def _balanced(block: LowRank) -> tuple[Array, Array]:
    """A and B of the same product; the entries of A are at most 1, about."""
    simple = block.simplified()  # what cancels, cancels before anyone looks at signs
    a, b = simple.a(), simple.b()
    exponents = np.frexp(abs(a).max(axis=1, initial=0.0))[1]
    return np.ldexp(a, -exponents[:, None]), np.ldexp(b, exponents)


def _product_reader(pairs: Sequence[tuple[Array, Array]], height: int) -> Reader:
    def read(rows: slice, columns: slice) -> Array:
        index = rows.start // height
        a, b = pairs[index]
        own = slice(rows.start - index * height, rows.stop - index * height, rows.step)
        found: Array = b[own] @ a[:, columns]
        return found

    return read


def _leading(pairs: Sequence[tuple[Array, Array]], count: int) -> Array:
    """Rows that span the `count` leading right singular directions of all products B A stacked."""
    stacked = np.concatenate([np.linalg.qr(b.astype(np.float64), mode="r") @ a for a, b in pairs])
    values, mix = np.linalg.eigh(stacked @ stacked.T)
    leading = mix[:, values > 1e-12 * values.max(initial=0.0)][:, ::-1][:, :count]
    found: Array = leading.T @ stacked
    return found


def factored(shape: tuple[int, int], rows: Rows, rank: int, seed: str) -> tuple[LowRank, float]:
    """The matrix of `rows` within `rank`, and the relative Frobenius error of that.

    See `reduced`, which it is for what has no LoRAs to begin with.
    """
    found, left_out, size = reduced(shape, rows, rank, seed)
    return found, left_out / size if size else 0.0


def reduced(
    shape: tuple[int, int], rows: Rows, rank: int, seed: str, start: Array | None = None
) -> tuple[LowRank, float, float]:
    """The matrix of `rows` within `rank`, the Frobenius norm of what that leaves out, and its own.

    A matrix that is small, or no larger than its sketch, is decomposed as it is. Of another Y = M Q and
    Z = Mᵀ Y are computed in one stream of its rows, with Q orthonormal and eight columns wider than
    what is looked for: M Q Qᵀ and U Uᵀ M, with U a basis of Y and Uᵀ M from Z, are successive steps of
    subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4). Where the second leaves out
    hardly less than the first it is the result; else its right singular vectors are the next Q.
    Nothing of size out × in is held. The first Q spans the rows of `start` and random signs, which
    `seed` names: the same name gives the same bits. Raises LinAlgError for what is not finite.
    """
    outputs, inputs = shape
    known = np.empty((inputs, 0)) if start is None else start.T
    width = max(rank, known.shape[1]) + _OVERSAMPLED
    if width >= min(shape) or outputs * inputs <= _SMALL:
        whole = [rows(first, last) for first, last in row_blocks(shape)]
        return _decomposed(shape, np.concatenate([np.empty((0, inputs)), *whole]), rank)
    signs = _signs((inputs, width), seed)
    roundoff = 4 * float(np.finfo(rows(0, 1).dtype).eps)
    found, left_out, squared = LowRank(shape), 0.0, 0.0
    for _ in range(_PASSES):
        basis = np.linalg.qr(np.concatenate([known, signs[:, known.shape[1] :]], axis=1))[0]
        sketch, image, squared = _streamed(shape, rows, basis)
        if not math.isfinite(squared):
            raise np.linalg.LinAlgError("the numbers are too large")
        if squared == 0.0:
            return LowRank(shape), 0.0, 0.0
        gram = sketch.T @ sketch
        left, values, known = _triples(sketch, image, gram)
        by_columns, by_rows = (
            max(squared - float(energies[:rank].sum()), 0.0)
            for energies in (np.linalg.eigvalsh(gram)[::-1], values)
        )
        root = values[:rank] ** 0.25
        a, b = known[:, :rank].T / root[:, None], left[:, :rank] * root
        found, left_out = LowRank(shape, (Part(Stored.of(a), Stored.of(b)),)), math.sqrt(by_rows)
        # Each step gains about `rate` times what the one before gained.
        gained, rate = by_columns - by_rows, float(values[-1] / values[:rank][-1])
        known_to = roundoff * squared
        is_close = gained <= _CLOSE * by_rows + known_to
        if is_close and gained * rate <= (1 - rate) * _TO_COME * by_rows + known_to:
            break
    return found, left_out, math.sqrt(squared)


def _triples(sketch: Array, image: Array, gram: Array) -> tuple[Array, Array, Array]:
    """U, σ² and V Σ of the part of M in the span of Y = M Q, from Y, Z = Mᵀ Y and Yᵀ Y, not zero."""
    lengths = np.sqrt(np.diagonal(gram))
    usable = lengths > 1e-6 * lengths.max()
    unit = np.where(usable, 1 / np.where(usable, lengths, 1.0), 0.0)
    values, mix = np.linalg.eigh(gram * np.outer(unit, unit))
    kept = values > 1e-6 * values.max()
    mix = unit[:, None] * mix[:, kept] / np.sqrt(values[kept])  # Y times it is orthonormal
    right = mix.T @ image.T
    values, turn = (x[..., ::-1] for x in np.linalg.eigh(right @ right.T))
    kept = values > 1e-13 * values.max()
    return sketch @ (mix @ turn[:, kept]), values[kept], right.T @ turn[:, kept]


def _streamed(shape: tuple[int, int], rows: Rows, basis: Array) -> tuple[Array, Array, float]:
    """M Q, Mᵀ M Q and the squared Frobenius norm of M."""
    sketch, image, squared = np.empty((shape[0], basis.shape[1])), np.zeros_like(basis), 0.0
    narrow = basis
    for start, stop in row_blocks(shape):
        block = rows(start, stop)
        if narrow.dtype != block.dtype:
            narrow = basis.astype(block.dtype)
        part = block @ narrow
        sketch[start:stop] = part
        image += block.T @ part
        squares = block[:, None, :] @ block[:, :, None]  # row by row: float32 adds few numbers well
        squared += float(squares.sum(dtype=np.float64))
    return sketch, image, squared


def _decomposed(shape: tuple[int, int], whole: Array, rank: int) -> tuple[LowRank, float, float]:
    left, values, right = svd(whole)
    floor = max(shape) * 2.0**-52 * values.max(initial=0.0)
    rank = min(rank, int(np.count_nonzero(values > floor)))
    left_out, size = float(np.linalg.norm(values[rank:])), float(np.linalg.norm(values))
    if rank == 0:
        return LowRank(shape), left_out, size
    root = np.sqrt(values[:rank])
    a, b = Stored.of(root[:, None] * right[:rank]), Stored.of(left[:, :rank] * root)
    return LowRank(shape, (Part(a, b),)), left_out, size


def _signs(shape: tuple[int, int], seed: str) -> Array:
    """Random signs that depend on `seed` alone, whatever the version of numpy."""
    count = math.prod(shape)
    digest = hashlib.shake_256(seed.encode()).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=count)
    return np.where(bits.reshape(shape), 1.0, -1.0)
