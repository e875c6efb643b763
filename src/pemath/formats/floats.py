"""Floating-point storage types, widened to and rounded from float64.

numpy has no bfloat16: its bits are kept as uint16, widened by a shift, and rounded to nearest with
ties to even by integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Raw = NDArray[Any]


@dataclass(frozen=True)
class FloatType:
    """A storage type: its safetensors code, its usual name, its numpy carrier and unit roundoff."""

    code: str
    name: str
    carrier: np.dtype[Any]
    roundoff: float

    @property
    def size(self) -> int:
        """Bytes per element."""
        return self.carrier.itemsize


FLOAT_TYPES = {
    kind.code: kind
    for kind in (
        FloatType("F64", "float64", np.dtype("<f8"), 2.0**-53),
        FloatType("F32", "float32", np.dtype("<f4"), 2.0**-24),
        FloatType("F16", "float16", np.dtype("<f2"), 2.0**-11),
        FloatType("BF16", "bfloat16", np.dtype("<u2"), 2.0**-8),
    )
}
BY_NAME = {kind.name: kind for kind in FLOAT_TYPES.values()}


def common_type(types: Iterable[FloatType]) -> FloatType:
    """The narrowest type that holds every value of `types` (float16 with bfloat16: float32)."""
    codes = {kind.code for kind in types}
    if len(codes) == 1:
        return FLOAT_TYPES[codes.pop()]
    return FLOAT_TYPES["F64" if "F64" in codes else "F32"]


def widen(raw: Raw, kind: FloatType, out: NDArray[Any] | None = None) -> Array:
    """The stored values in float64, exactly; or in `out`, which may be float32 for all but float64.

    `out` has the shape of `raw`.
    """
    if out is None:
        out = np.empty(raw.shape, np.float64)
    if kind.code != "BF16":
        with np.errstate(invalid="ignore"):
            np.copyto(out, raw, casting="same_kind")
    elif out.dtype == np.float32:
        bits = out.view(np.uint32)
        np.copyto(bits, raw)
        np.left_shift(bits, 16, out=bits)
    else:
        wide = raw.astype(np.uint32)
        wide <<= 16
        with np.errstate(invalid="ignore"):  # a signalling NaN is one like any other
            np.copyto(out, wide.view(np.float32))
    return out


def is_finite(raw: Raw, kind: FloatType) -> bool:
    """Whether no stored value is NaN or infinite."""
    if kind.code == "BF16":
        # All exponent bits are set in what is not finite; the sign is shifted out.
        return bool(((raw << 1) < 0xFF00).all())
    return bool(np.isfinite(raw).all())


def narrow(values: NDArray[np.floating[Any]], kind: FloatType) -> Raw:
    """Values rounded to nearest (ties to even) as `kind` stores them; overflow gives infinity."""
    with np.errstate(over="ignore"):
        if kind.code != "BF16":
            return values.astype(kind.carrier)
        single = np.asarray(values, np.float32, order="C")
    bits = single.view(np.uint32)
    if values.dtype != np.float32:
        # Where float32 lies halfway, the digits that it has lost decide.
        ties = (bits & 0xFFFF) == 0x8000
        if ties.any():
            lost = np.abs(values[ties]) - np.abs(single[ties].astype(np.float64))
            bits[ties] += np.sign(lost).astype(np.int64).astype(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    result = rounded.astype(np.uint16)
    # The carry can turn NaN into a number. A sum of squares is the quickest look for one.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(single.reshape(-1), single.reshape(-1))
    if not np.isfinite(squares):
        result[np.isnan(single)] = 0x7FC0
    return result


def stack(items: Sequence[Stored], axis: int, dtype: type[Any]) -> NDArray[Any]:
    """Matrices side by side (axis 1) or below each other (axis 0), widened to `dtype`.

    `dtype` is float64, or float32 if no item is stored as float64.
    """
    shape = list(items[0].shape)
    shape[axis] = sum(item.shape[axis] for item in items)
    all_bfloat16 = all(item.kind.code == "BF16" for item in items)
    # bfloat16 is gathered first and shifted in one go.
    result = np.empty(shape, np.uint32 if all_bfloat16 else dtype)
    start = 0
    for item in items:
        stop = start + item.shape[axis]
        into = result[start:stop] if axis == 0 else result[:, start:stop]
        np.copyto(into, item.raw) if all_bfloat16 else item.widen(into)
        start = stop
    if not all_bfloat16:
        return result
    result <<= 16
    single = result.view(np.float32)
    return single if dtype == np.float32 else single.astype(np.float64)


def weighted_sum(terms: Sequence[tuple[float, Stored]]) -> Stored:
    """sum_i c_i x_i over one or more terms, in float64."""
    (coefficient, first), *rest = terms
    total = first.widen()
    if coefficient != 1.0:
        total *= coefficient
    for coefficient, stored in rest:
        term = stored.widen()
        if coefficient != 1.0:
            term *= coefficient
        total += term
    return Stored.of(total)


@dataclass(frozen=True, eq=False)
class Stored:
    """A matrix or vector as it lies in a file (or in memory): raw carrier values and their type."""

    raw: Raw
    kind: FloatType

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> Stored:
        """Wrap computed values as float64."""
        return cls(np.asarray(values, dtype=np.float64), FLOAT_TYPES["F64"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.raw.shape

    def widen(self, out: NDArray[np.floating[Any]] | None = None) -> Array:
        """The values in float64; into `out` if it is given."""
        return widen(self.raw, self.kind, out)

    def flat(self) -> Stored:
        """The same values in one dimension, as a view."""
        return Stored(self.raw.reshape(-1), self.kind)

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return is_finite(self.raw, self.kind)

    def __getitem__(self, index: Any) -> Stored:
        """A part of it, as a view."""
        return Stored(self.raw[index], self.kind)
