"""Products with an identity matrix: matrices of full rank that are kept as a LoRA's factors.

Gram matrices of such factors cost far more than the matrix itself, which is at hand: what is measured
here is measured on it, by blocks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pemath.formats.floats import FLOAT_TYPES, Array, FloatType, Stored, narrow
from pemath.kinds._computed import Computed
from pemath.lowrank import LowRank, Part

# Elements of a matrix in float64 that are looked at in one go.
_SLAB = 1 << 20

_identities: dict[tuple[int, str], Computed] = {}


def identity(size: int, kind: FloatType = FLOAT_TYPES["F64"]) -> Computed:
    """The identity matrix, the same object for each size and type: sums of products with it merge."""
    made = Computed((size, size), lambda: narrow(np.eye(size), kind), kind=kind)
    return _identities.setdefault((size, kind.code), made)


def is_identity(factor: Stored) -> bool:
    """Whether it is an identity matrix that `identity` made."""
    return _identities.get((factor.shape[0], factor.kind.code)) is factor


def is_full(product: LowRank) -> bool:
    """Whether one of its parts is a matrix beside the identity."""
    return any(is_identity(part.a) or is_identity(part.b) for part in product.parts)


def norm(product: LowRank) -> float:
    """The Frobenius norm."""
    return math.sqrt(_total(float(np.vdot(rows, rows)) for rows in _slabs(product)))


def inner(x: LowRank, y: LowRank) -> float:
    """The sum of elementwise products."""
    return _total(float(np.vdot(a, b)) for a, b in zip(_slabs(x), _slabs(y), strict=True))


def gap(found: LowRank, exact: LowRank) -> tuple[float, float]:
    """The distance of two products, and the norm of `exact`."""
    off = size = 0.0
    for rows, wanted in zip(_slabs(found), _slabs(exact), strict=True):
        size += float(np.vdot(wanted, wanted))
        np.subtract(rows, wanted, out=rows)
        off += float(np.vdot(rows, rows))
    return math.sqrt(off), math.sqrt(size)


def _slabs(product: LowRank) -> Iterator[Array]:
    outputs, inputs = product.shape
    step = max(1, _SLAB // inputs)
    parts = [Part(_held(part.a), _held(part.b), part.scale) for part in product.parts]
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        total = np.zeros((stop - start, inputs))
        for part in parts:
            rows = _rows(part, start, stop)
            if part.scale != 1.0:
                rows *= part.scale
            total += rows
        yield total


def _held(factor: Stored) -> Stored:
    """The factor with its values at hand for as long as it is used; the identity as it is."""
    return factor if is_identity(factor) else Stored(factor.raw, factor.kind)


def _rows(part: Part, start: int, stop: int) -> Array:
    if is_identity(part.a):
        return part.b[start:stop].widen()
    if is_identity(part.b):
        return part.a[start:stop].widen()
    return part.b[start:stop].widen() @ part.a.widen()


def _total(parts: Iterator[float]) -> float:
    """Their sum from left to right: the same bits in every version of Python."""
    total = 0.0
    for part in parts:
        total += part
    return total
