"""Two LoRAs in one joint basis: small factors with the same norms, inner products and angles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from pemath.diagnose.comparison import Angles, Pair
from pemath.formats.floats import Array, Stored
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part

# Rounding of this computation, relative to what it measures.
ROUNDOFF = 1e-12
# Rows of factors that are orthogonalised at a time: they stay in a core's cache.
_SLAB = 1024


def core(values: Sequence[Lora]) -> list[Lora]:
    """The values with each block in joint orthonormal bases. An opened adapter has one part per
    block. The geometry stays the base weight's, and no longer fits the blocks.
    """
    columns = [_core_blocks(blocks) for blocks in zip(*(v.blocks for v in values), strict=True)]
    return [
        replace(value, blocks=tuple(column[index] for column in columns))
        for index, value in enumerate(values)
    ]


def _core_blocks(blocks: Sequence[LowRank]) -> list[LowRank]:
    parts = [part for block in blocks for part in block.parts]
    rows = _coordinates([part.a for part in parts])
    columns = _coordinates([_transposed(part.b) for part in parts])
    shape = (columns[0].shape[1], rows[0].shape[1])
    return [
        LowRank(shape, (Part(a, _transposed(b), part.scale),))
        for part, a, b in zip(parts, rows, columns, strict=True)
    ]


def _transposed(factor: Stored) -> Stored:
    return Stored(factor.raw.T, factor.kind)


def _coordinates(factors: Sequence[Stored]) -> list[Stored]:
    """Each factor [r, n] in one orthonormal basis of all their rows, [r, k] with k at most Σr.

    By QR of slabs, each stacked below the triangle of those before it. Equal factors give one
    object.
    """
    distinct: list[Stored] = []
    places = []
    for factor in factors:
        same = [place for place, other in enumerate(distinct) if _equal(factor, other)]
        places.append(same[0] if same else len(distinct))
        if not same:
            distinct.append(factor)
    ends = [0, *accumulate(factor.shape[0] for factor in distinct)]
    spans = list(pairwise(ends))
    length = factors[0].shape[1]
    step = max(_SLAB, 2 * ends[-1])
    triangle = np.empty((0, ends[-1]))
    for start in range(0, length, step):
        stop, above = min(start + step, length), len(triangle)
        columns = np.empty((ends[-1], above + stop - start))
        columns[:, :above] = triangle.T
        for factor, (first, last) in zip(distinct, spans, strict=True):
            factor[:, start:stop].widen(columns[first:last, above:])
        triangle = np.asarray(np.linalg.qr(columns.T, mode="r"))
    found = [Stored.of(triangle[:, first:last].T) for first, last in spans]
    return [found[place] for place in places]


def _equal(x: Stored, y: Stored) -> bool:
    return x.kind is y.kind and x.shape == y.shape and bool(np.array_equal(x.raw, y.raw))


def pair(x: Array, y: Array) -> Pair:
    """Norms, inner product and distance of two arrays of one shape."""
    norms = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    return Pair(*norms, float(np.vdot(x, y)), float(np.linalg.norm(x - y)))


def angles(x: Array, y: Array) -> Angles | None:
    """Principal angles between the row spaces of x [r, k] and y [s, k]; None if one is zero."""
    wide, slim = sorted((_basis(x), _basis(y)), key=lambda basis: -basis.shape[1])
    if slim.shape[1] == 0:
        return None
    cross = wide.T @ slim
    cosines = np.linalg.svd(cross, compute_uv=False)
    sines = np.linalg.svd(slim - wide @ cross, compute_uv=False)[::-1]
    angles = np.degrees(np.arctan2(sines, cosines))
    similarity = min(1.0, float(np.mean(cosines**2)))
    return Angles(float(angles.mean()), float(angles.max()), similarity, len(angles))


def _basis(rows: Array) -> Array:
    """An orthonormal basis of the row space, [k, rank]."""
    left, values, _ = np.linalg.svd(rows.T, full_matrices=False)
    floor = values.max(initial=0.0) * max(rows.shape) * np.finfo(np.float64).eps
    return np.asarray(left[:, values > floor])
