"""Full delta: the change of a weight as a dense matrix, W_finetuned - W_base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pemath.errors import ShapeMismatch
from pemath.formats.floats import Array, Stored
from pemath.kinds._contract import Kind
from pemath.kinds._registry import register


@dataclass(frozen=True, eq=False)
class FullDelta:
    """sum_i scale_i W_i, each W_i a dense delta of the site's `shape`."""

    shape: tuple[int, ...]
    terms: tuple[tuple[float, Stored], ...] = ()

    def __add__(self, other: FullDelta) -> FullDelta:
        if self.shape != other.shape:
            raise ShapeMismatch(
                "full deltas differ in shape", found=other.shape, expected=self.shape
            )
        return FullDelta(self.shape, self.terms + other.terms)

    def __mul__(self, factor: float) -> FullDelta:
        terms = tuple((scale * factor, w) for scale, w in self.terms) if factor else ()
        return FullDelta(self.shape, terms)

    def delta_weight(self, base: Array | None = None) -> Array:
        """The delta itself, of the site's shape."""
        total = np.zeros(self.shape)
        for scale, weight in self.terms:
            total += scale * weight.widen()
        return total

    def is_finite(self) -> bool:
        """Whether all stored numbers are finite."""
        return all(weight.is_finite() for _, weight in self.terms)

    def norm(self) -> float:
        """Frobenius norm."""
        return float(np.linalg.norm(self.delta_weight()))

    def inner(self, other: FullDelta) -> float:
        """Sum of elementwise products."""
        return float(np.vdot(self.delta_weight(), other.delta_weight()))

    def distance(self, other: FullDelta) -> float:
        """Frobenius norm of the difference."""
        return (self + other * -1.0).norm()

    def gap(self, exact: FullDelta) -> tuple[float, float]:
        """The distance to `exact`, and the norm of `exact`."""
        return self.distance(exact), exact.norm()

    def describe(self) -> str:
        """Shape."""
        return "×".join(map(str, self.shape))


FULL = register(
    Kind(
        name="full",
        summary="dense delta W of any shape; arrays in Python, no PEFT folder stores it",
        value=FullDelta,
        zero_like=lambda value: FullDelta(value.shape),
        folders=None,
    )
)
