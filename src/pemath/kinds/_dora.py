"""The values of DoRA: a scaling of a base weight's rows, and a low-rank product beside it.

Source: Liu et al. 2024 (arXiv 2402.09353), section 4, as PEFT computes it, whose rows are the layer's
outputs (of an embedding, its dimensions). With c = m / ‖W + s B A‖ the change of the base weight W is
diag(c - 1) W + diag(c) s B A. Both parts add and scale, so that the kind is closed under weighted sums
where W is known; a plain LoRA is c = 1. Norms and the like go over the base weight by blocks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import ClassVar, Protocol

import numpy as np

from pemath.errors import NonFiniteValue, ShapeMismatch
from pemath.formats.checkpoint import Matrix
from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.names import display


class Change(Protocol):
    """A change of one base weight: `shift` [out] is what is added to the factor of each row, and
    `low_rank` what is added to the weight then.
    """

    @property
    def shift(self) -> Array:
        """c - 1."""

    @property
    def low_rank(self) -> LowRank:
        """diag(c) s B A."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What was trained: s B A and the magnitudes m, [out]; none of a plain LoRA."""

    base: Matrix
    update: Lora
    magnitude: Stored | None

    @cached_property
    def shift(self) -> Array:
        """c - 1. Raises NonFiniteValue where a row of W + s B A is zero and has no direction."""
        if self.magnitude is None:
            return np.zeros(self.base.shape[0])
        norms = row_norms(self.base, self.update.blocks[0])
        bad = np.flatnonzero(~(norms > 0))
        if len(bad):
            raise NonFiniteValue(
                "the adapted weight has a row without a direction, which DoRA divides by",
                where=f"row {bad[0]} of base parameter `{display(self.base.name)}`",
                found=f"norm {norms[bad[0]]:.6g}",
            )
        shift: Array = self.magnitude.widen() / norms - 1.0
        return shift

    @property
    def low_rank(self) -> LowRank:
        """diag(c) s B A."""
        block = self.update.blocks[0]
        if self.magnitude is None:
            return block
        factor = 1.0 + self.shift[:, None]
        parts = (Part(p.a, Stored.of(factor * p.b.widen()), p.scale) for p in block.parts)
        return LowRank(block.shape, tuple(parts))


@dataclass(frozen=True, eq=False)
class Computed:
    """A change that was computed, as by a truncation."""

    shift: Array
    low_rank: LowRank


@dataclass(frozen=True, eq=False)
class Dora:
    """sum_i scale_i change_i of one base weight."""

    base: Matrix
    geometry: Geometry
    terms: tuple[tuple[float, Change], ...] = ()

    bias: ClassVar[None] = None

    @property
    def rank(self) -> int:
        """The rank that storing the value as it is needs at most."""
        return sum(_rank(change) for _, change in self.terms)

    @property
    def shift(self) -> Array:
        """What the value adds to the factor of each row, [out]."""
        return sum(
            (scale * change.shift for scale, change in self.terms), np.zeros(self.base.shape[0])
        )

    @property
    def low_rank(self) -> LowRank:
        """What the value adds beside the scaling of rows; parts of one A are merged."""
        parts = (change.low_rank * scale for scale, change in self.terms)
        return reduce(add, parts, LowRank(self.geometry.block_shape)).simplified()

    @property
    def blocks(self) -> tuple[LowRank]:
        """The low-rank part, as a LoRA has it."""
        return (self.low_rank,)

    def __add__(self, other: Dora) -> Dora:
        if self.geometry != other.geometry or self.base.name != other.base.name:
            raise ShapeMismatch(
                "two DoRAs change different weights",
                found=other.geometry.describe(),
                expected=self.geometry.describe(),
            )
        return Dora(self.base, self.geometry, self.terms + other.terms)

    def __mul__(self, factor: float) -> Dora:
        terms = tuple((scale * factor, change) for scale, change in self.terms) if factor else ()
        return Dora(self.base, self.geometry, terms)

    def truncated(self, rank: int) -> Dora:
        """The value with a low-rank part of at most `rank`; itself if it fits."""
        return self if self.low_rank.rank <= rank else self.recomposed(rank)

    def recomposed(self, rank: int) -> Dora:
        """The best low-rank part within `rank` beside the same scaling of rows."""
        (best,) = Lora(self.geometry, (self.low_rank,)).recomposed(rank).blocks
        return Dora(self.base, self.geometry, ((1.0, Computed(self.shift, best)),))

    def rows(self) -> Callable[[int, int], Array]:
        """A function of (start, stop): rows of the change of the base weight, [stop - start, in]."""
        base, shift, part = self.base, self.shift[:, None], self.low_rank
        b, a = part.b(), part.a()
        return lambda start, stop: shift[start:stop] * base.rows(start, stop) + b[start:stop] @ a

    def delta_weight(self, base: Array | None = None) -> Array:
        """The change of the base weight, which the value knows: [out, in], [out, in, kernel…] or
        [embeddings, dim].
        """
        dense = np.concatenate([np.empty((0, self.base.shape[1])), *(r[0] for r in _rows([self]))])
        if self.geometry.layout == "embedding":
            return dense.T
        return dense.reshape(self.geometry.outputs, *self.geometry.inputs)

    def is_finite(self) -> bool:
        """Whether all that the value is made of is finite."""
        return self.base.stored.is_finite() and all(_is_finite(change) for _, change in self.terms)

    def norm(self) -> float:
        """Frobenius norm of the change of the base weight."""
        return math.sqrt(_total(float(np.vdot(x, x)) for (x,) in _rows([self])))

    def inner(self, other: Dora) -> float:
        """Inner product of the changes."""
        return _total(float(np.vdot(x, y)) for x, y in _rows([self, other]))

    def distance(self, other: Dora) -> float:
        """Frobenius norm of the difference."""
        return (self + other * -1.0).norm()

    def gap(self, exact: Dora) -> tuple[float, float]:
        """The distance to `exact` and the norm of `exact`, in one pass over the base weight."""
        off = size = 0.0
        for x, y in _rows([self + exact * -1.0, exact]):
            off += float(np.vdot(x, x))
            size += float(np.vdot(y, y))
        return math.sqrt(off), math.sqrt(size)

    def describe(self) -> str:
        """Shape of the base weight, and rank."""
        return f"{self.geometry.describe()}, rank {self.rank}"


def _is_finite(change: Change) -> bool:
    if isinstance(change, Learned):
        magnitude = change.magnitude
        return change.update.is_finite() and (magnitude is None or magnitude.is_finite())
    parts = change.low_rank.parts
    return bool(np.isfinite(change.shift).all()) and all(
        part.a.is_finite() and part.b.is_finite() for part in parts
    )


def _rank(change: Change) -> int:
    return (change.update if isinstance(change, Learned) else change.low_rank).rank


def _rows(values: Sequence[Dora]) -> Iterator[list[Array]]:
    """The changes of one base weight by blocks of rows."""
    readers = [value.rows() for value in values]
    for start, stop in values[0].base.blocks():
        yield [rows(start, stop) for rows in readers]


def _total(parts: Iterable[float]) -> float:
    """Their sum from left to right: the same bits in every version of Python."""
    return reduce(add, parts, 0.0)


def row_norms(base: Matrix, update: LowRank) -> Array:
    """Euclidean norm of each row of W + B A, [out]."""
    b, a = update.b(), update.a()
    norms = np.empty(base.shape[0])
    for start, stop in base.blocks():
        norms[start:stop] = np.linalg.norm(base.rows(start, stop) + b[start:stop] @ a, axis=1)
    return norms
