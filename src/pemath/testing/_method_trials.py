"""What a merge method is tried on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from pemath.errors import PemathError
from pemath.formats.floats import Array, Stored
from pemath.kinds import kinds
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Method, Stack
from pemath.methods._statistics import gram_shape
from pemath.testing import _arrays as arrays
from pemath.testing import _conformance as conformance
from pemath.testing.strategies import Family, families

# Draws of one kind, of each size; and calls where every one is made several times.
_DRAWS = {1: 6, 2: 20, 3: 12}
_REPEATED = 8
_MIXED = (0.75, -0.5, 0.3)


def kinds_taken(method: Method) -> dict[str, PemathError | None]:
    """What becomes of values of each kind: None where the method takes them, else why it does not.

    Kinds without a strategy are left out.
    """
    subject = Subject(method)
    found: dict[str, PemathError | None] = {}
    for trial in subject.trials:
        if found.get(trial.kind, trial) is not None:
            value = subject.call(trial)
            if not isinstance(value, PemathError):
                found[trial.kind] = None
            else:
                found.setdefault(trial.kind, value)
    return found


@dataclass(frozen=True, eq=False)
class Trial:
    """Operands at one site, with their weights.

    `places` says which of the call's `count` operands have the site; `nested` that the operands are
    expressions, not adapters.
    """

    kind: str
    family: Family
    values: Sequence[Any]
    weights: Sequence[float]
    count: int
    places: Sequence[int]
    nested: bool = False

    def stack(self, change: Callable[[Any], Any] = tuple) -> Stack:
        """What a method gets. Its tensors cannot be written to, as those of a mapped file."""
        values = change(tuple(self.values))
        known: Any = [
            _Known(value, place) for value, place in zip(values, self.places, strict=True)
        ]
        names = ["abcdefgh"[place] for place in self.places]
        at = dict(zip(self.places, values, strict=True))
        operands = [
            None if self.nested else conformance.adapter(kinds()[self.kind], at.get(place))
            for place in range(self.count)
        ]
        return Stack(
            conformance.site_of(values[0]), values, list(self.weights), names, operands, known
        )

    def ranks(self) -> list[int]:
        """The rank of each of the call's operands here."""
        at = dict(zip(self.places, self.values, strict=True))
        return [getattr(at.get(place), "rank", 0) for place in range(self.count)]

    def size(self) -> float:
        """The norms of all that is added up."""
        norms = (float(np.linalg.norm(self.family.delta(value))) for value in self.values)
        return sum(abs(w) * norm for w, norm in zip(self.weights, norms, strict=True))

    def changed(self, change: Callable[[Any], Any]) -> Trial:
        """The same with other values."""
        return replace(self, values=[change(value) for value in self.values])

    def __str__(self) -> str:
        shown = "; ".join(value.describe() for value in self.values)
        weights = ", ".join(f"{weight:g}" for weight in self.weights)
        absent = f", {self.count - len(self.values)} without the site" * (
            self.count > len(self.values)
        )
        return f"{self.kind} ({shown}) with weights {weights}{absent}"


@dataclass(frozen=True, eq=False)
class Subject:
    """A method and what it is tried on."""

    method: Method

    @cached_property
    def trials(self) -> list[Trial]:
        """One to three operands of every kind, with the usual weights and others."""
        found = []
        for kind in kinds():
            for size, draws in _DRAWS.items():
                for index, family in enumerate(_families(kind, size, draws)):
                    usual = [float(weight) for weight in self.method.default_weights(size)]
                    weights = usual if index % 2 == 0 else list(_MIXED[:size])
                    trial = trial_of(kind, family, weights)
                    found.append(replace(trial, nested=index % 3 == 2))
        return [*found, *self.plain]

    @cached_property
    def plain(self) -> list[Trial]:
        """LoRAs of one rank that have nothing in common, at one linear weight."""
        found: list[Trial] = []
        for size in (2, 3):
            family = plain_family(size, 24, 16, 3)
            usual = [float(weight) for weight in self.method.default_weights(size)]
            found += [trial_of("lora", family, weights) for weights in (usual, _MIXED[:size])]
        return found

    @cached_property
    def admitted(self) -> list[Trial]:
        """The trials that the method's `check` has nothing against."""
        return [trial for trial in self.trials if self.method.check(trial.stack()) is None]

    @cached_property
    def computed(self) -> list[tuple[Trial, Any]]:
        """The trials that gave a value."""
        found = []
        for trial in self.admitted:
            with suppress(Exception):  # `gives_a_value_or_refuses` says so
                value = self.call(trial)
                if not isinstance(value, PemathError):
                    found.append((trial, value))
        return found

    @property
    def repeated(self) -> list[Trial]:
        """A few trials of different kinds that gave a value."""
        found = [trial for trial, _ in self.computed]
        return found[:: max(1, len(found) // _REPEATED)]

    def call(self, trial: Trial, **options: Any) -> Any:
        """The method's value, or the error by which it refuses."""
        stack = trial.stack()
        refused = self.method.check(stack)
        if refused is not None:
            return refused
        try:
            with np.errstate(all="ignore"):
                return self.method.function(stack, **options)
        except PemathError as error:
            return error

    def delta(self, trial: Trial, **options: Any) -> Array | None:
        """The delta of the method's value; None where it refuses."""
        value = self.call(trial, **options)
        if isinstance(value, PemathError):
            return None
        with np.errstate(all="ignore"):
            return trial.family.delta(value)


class _Known:
    """Statistics of an operand, as a method that is driven by data asks for them."""

    def __init__(self, value: Any, seed: int) -> None:
        self._value, self._seed = value, seed

    def _random(self, *shape: int) -> Array:
        return np.random.default_rng([self._seed, *shape]).standard_normal(shape)

    def has_gram(self) -> bool:
        return gram_shape(self._value) is not None

    def gram(self) -> Array:
        shape = gram_shape(self._value) or (0,)
        inputs = self._random(20, shape[0])
        return inputs.T @ inputs / 20 if len(shape) == 2 else np.square(inputs).mean(axis=0)

    def fisher(self, read: Callable[[Any], Array], *, normalize: bool) -> Array:
        value = self._value
        if isinstance(value, Ia3 | FullDelta):  # the file of Fisher information has every tensor
            value = replace(value, terms=((1.0, Stored.of(np.ones(value.shape))),))
        return np.square(self._random(*read(value).shape))


@cache
def _families(kind: str, size: int, count: int) -> list[Family]:
    try:
        found = conformance.drawn(families(kind, size), count)
        return [replace(f, values=arrays.locked(f.values)) for f in found]
    except LookupError:  # `check_kind` says so
        return []


def trial_of(kind: str, family: Family, weights: Sequence[float]) -> Trial:
    """All operands of a call have the site."""
    size = len(family.values)
    return Trial(kind, family, family.values, weights, size, range(size))


@cache
def plain_family(size: int, outputs: int, inputs: int, rank: int) -> Family:
    """LoRAs of one linear weight that have nothing in common."""
    rng = np.random.default_rng([size, outputs, inputs, rank])
    geometry = Geometry("linear", outputs, (inputs,))
    values = []
    for _ in range(size):
        a = rng.standard_normal((rank, inputs)) / math.sqrt(inputs)
        b = 0.1 * rng.standard_normal((outputs, rank))
        values.append(Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), 2.0)))

    def delta(value: Any) -> Array:
        return np.concatenate([value.delta_weight().ravel(), value.delta_bias()])

    return Family(arrays.locked(tuple(values)), delta, delta)
