"""Floating-point storage types, widened to and rounded from float64.

numpy has no bfloat16: its bits are kept as uint16, widened by a shift, and rounded to nearest with
ties to even by integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def widen(raw: Raw, kind: FloatType, out: Array | None = None) -> Array:
    """The stored values in float64, exactly; into `out` (of the same shape) if it is given."""
    if kind.code == "BF16":
        bits = raw.astype(np.uint32)
        bits <<= 16
        raw = bits.view(np.float32)
    if out is None:
        return raw.astype(np.float64)
    np.copyto(out, raw)
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
        bits = values.astype(np.float32, order="C").view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    result = rounded.astype(np.uint16)
    if np.isnan(values).any():
        result[np.isnan(values)] = 0x7FC0
    return result


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

    def widen(self, out: Array | None = None) -> Array:
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
