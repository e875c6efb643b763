"""A kind as another package might write one, and ways to get it wrong.

`Bias` is a change of a base bias [out], kept as a sum of stored vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pemath.errors import LayoutError, ShapeMismatch
from pemath.formats.floats import Array, FloatType, Stored, common_type, narrow
from pemath.formats.peft import PREFIX, PeftFolder, module_name
from pemath.formats.safetensors import Spec
from pemath.kinds import Adapter, FolderFormat, Kind, StoredSite
from pemath.testing import Family, float_types, register_families

_NUMBERS = count()


@dataclass(frozen=True, eq=False)
class Bias:
    """The sum of scale * vector, [out]."""

    length: int
    terms: tuple[tuple[float, Stored], ...] = ()

    def __add__(self, other: Any) -> Any:
        self.fits(other)
        return type(self)(self.length, self.terms + other.terms)

    def fits(self, other: Any) -> None:
        if self.length != other.length:
            raise ShapeMismatch("biases differ", found=other.length, expected=self.length)

    def __mul__(self, factor: float) -> Any:
        terms = tuple((scale * factor, vector) for scale, vector in self.terms) if factor else ()
        return type(self)(self.length, terms)

    def delta_weight(self, base: Array | None = None) -> Array:
        return sum((scale * v.widen() for scale, v in self.terms), np.zeros(self.length))

    def is_finite(self) -> bool:
        return all(vector.is_finite() for _, vector in self.terms)

    def norm(self) -> float:
        return float(np.linalg.norm(self.delta_weight()))

    def inner(self, other: Any) -> float:
        return float(self.delta_weight() @ other.delta_weight())

    def distance(self, other: Any) -> float:
        return float(np.linalg.norm(self.delta_weight() - other.delta_weight()))

    def gap(self, exact: Any) -> tuple[float, float]:
        return self.distance(exact), exact.norm()

    def describe(self) -> str:
        return f"bias {self.length}"


class BiasFolders(FolderFormat):
    """One tensor `SITE.delta_bias` per site."""

    peft_types: ClassVar[tuple[str, ...]] = ("BIAS",)

    def __init__(self, value: type[Bias] = Bias) -> None:
        self.value = value

    def open(self, folder: PeftFolder) -> Adapter:
        sites, types = {}, []
        for tensor in folder.tensors.entries:
            site, dot, end = module_name(tensor).rpartition(".")
            if not dot or end != "delta_bias":
                self.refuse(tensor)
                continue
            stored = folder.tensors.stored(tensor)
            types.append(stored.kind)
            sites[site] = self.value(stored.shape[0], ((1.0, stored),))
        return Adapter(folder, kind_of(self.value, self), sites, {}, common_type(types))

    def refuse(self, tensor: str) -> None:
        raise LayoutError(f"tensor `{tensor}` is no bias")

    def layout(
        self, values: Mapping[str, Any], ranks: Mapping[str, int], dtype: FloatType
    ) -> list[Spec]:
        return [Spec(f"{PREFIX}{s}.delta_bias", dtype.code, (v.length,)) for s, v in values.items()]

    def store(self, site: str, value: Any, rank: int, dtype: FloatType) -> StoredSite:
        kept = self.rounded(value.delta_weight(), dtype)
        return StoredSite(
            [(f"{PREFIX}{site}.delta_bias", 0, kept.raw)], self.value(value.length, ((1.0, kept),))
        )

    def rounded(self, values: Array, dtype: FloatType) -> Stored:
        return Stored(narrow(values, dtype), dtype)

    def config(
        self, adapters: Sequence[Adapter], values: Mapping[str, Any], ranks: Mapping[str, int]
    ) -> dict[str, Any]:
        return dict(adapters[0].folder.config) | {"target_modules": sorted(values)}


def kind_of(value: type, folders: FolderFormat | None = None, **fields: Any) -> Kind:
    """A kind of this value class; `described` gives it a name and a strategy."""
    usual = {
        "name": "bias",
        "summary": "a change of a bias",
        "zero_like": lambda v: value(v.length),
    }
    return Kind(**{**usual, "value": value, "folders": folders, **fields})


def described(value: type[Bias], folders: FolderFormat | None = None, **fields: Any) -> Kind:
    """The kind of a value class under a name of its own, with families of values."""
    name = fields.pop("name", f"bias{next(_NUMBERS)}")

    def families(size: int) -> SearchStrategy[Family]:
        def family(length: int, dtype: FloatType, seed: int) -> Family:
            rng = np.random.default_rng(seed)
            values = []
            for scale in rng.choice([1.0, -0.5, 3.0], size):
                raw = narrow(rng.standard_normal(length), dtype)
                values.append(value(length, ((float(scale), Stored(raw, dtype)),)))
            return Family(tuple(values), Bias.delta_weight, Bias.delta_weight)

        return st.builds(family, st.integers(1, 6), float_types(), st.integers(0, 99))

    register_families(name, families)
    return kind_of(value, folders, name=name, **fields)


# ------------------------------------------------------------------------- what one can get wrong


class WrongSign(Bias):
    """−a is a."""

    def __mul__(self, factor: float) -> Any:
        return super().__mul__(abs(factor))


class NotAssociative(Bias):
    """a + b is the mean where both have terms."""

    def __add__(self, other: Any) -> Any:
        self.fits(other)
        total = type(self)(self.length, self.terms + other.terms)
        return total * 0.5 if self.terms and other.terms else total


class NotCommutative(Bias):
    """a + b forgets the half of b."""

    def __add__(self, other: Any) -> Any:
        self.fits(other)
        return type(self)(self.length, self.terms + tuple((s / 2, v) for s, v in other.terms))


class AnyShape(Bias):
    """Sites of different shapes add up."""

    def fits(self, other: Any) -> None:
        pass


class Affine(Bias):
    """A scale has no part in a delta below one."""

    def __mul__(self, factor: float) -> Any:
        return super().__mul__(max(factor, 1.0) if factor > 0 else factor)


class Eager(Bias):
    """Scaling reads the tensors."""

    def __mul__(self, factor: float) -> Any:
        if not factor:
            return type(self)(self.length)
        terms = tuple((1.0, Stored.of(scale * factor * v.widen())) for scale, v in self.terms)
        return type(self)(self.length, terms)


class Mutating(Bias):
    """norm() spoils the tensor."""

    def norm(self) -> float:
        found = super().norm()
        for _, vector in self.terms:
            vector.raw[:1] = 1
        return found


class WrongNorm(Bias):
    """The largest entry for the norm."""

    def norm(self) -> float:
        return float(np.abs(self.delta_weight()).max(initial=0.0))


class WrongInner(Bias):
    """An inner product of lengths."""

    def inner(self, other: Any) -> float:
        return self.norm() * other.norm()


class WrongDistance(Bias):
    """The difference of lengths."""

    def distance(self, other: Any) -> float:
        return abs(self.norm() - other.norm())

    def gap(self, exact: Any) -> tuple[float, float]:
        return Bias.distance(self, exact), exact.norm()


class WrongGap(Bias):
    """The own norm for that of the other."""

    def gap(self, exact: Any) -> tuple[float, float]:
        return self.distance(exact), self.norm()


class AlwaysFinite(Bias):
    """NaN is no matter."""

    def is_finite(self) -> bool:
        return True


class Talkative(Bias):
    """Shows its numbers."""

    def describe(self) -> str:
        return f"bias {self.delta_weight().max():.3f}"


class Open:
    """A class like any other."""

    def __init__(self, length: int, terms: tuple[tuple[float, Stored], ...] = ()) -> None:
        self.length, self.terms = length, terms

    __add__, __mul__, fits = Bias.__add__, Bias.__mul__, Bias.fits
    delta_weight, is_finite, norm = Bias.delta_weight, Bias.is_finite, Bias.norm
    inner, distance, gap, describe = Bias.inner, Bias.distance, Bias.gap, Bias.describe


class Halving(BiasFolders):
    """Stores the half."""

    def rounded(self, values: Array, dtype: FloatType) -> Stored:
        return super().rounded(values / 2, dtype)


class Rounding(BiasFolders):
    """Stores a little less each time."""

    def rounded(self, values: Array, dtype: FloatType) -> Stored:
        return super().rounded(values * (1 - 4 * dtype.roundoff), dtype)


class Promising(BiasFolders):
    """Says that a reader gets what there was before rounding."""

    def store(self, site: str, value: Any, rank: int, dtype: FloatType) -> StoredSite:
        return StoredSite(super().store(site, value, rank, dtype).pieces, value)


class Lenient(BiasFolders):
    """Ignores tensors that it does not know."""

    def refuse(self, tensor: str) -> None:
        pass


class Reading(BiasFolders):
    """Looks at the numbers when it opens a folder, and leaves NaN out."""

    def open(self, folder: PeftFolder) -> Adapter:
        found = super().open(folder)
        clean = {
            site: value if math.isfinite(value.norm()) else self.value(value.length)
            for site, value in found.sites.items()
        }
        return Adapter(folder, found.kind, clean, {}, found.dtype)
