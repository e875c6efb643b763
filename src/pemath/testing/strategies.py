"""Hypothesis strategies for values of every registered kind, and for expressions.

Values come in families: they belong to one site, and are related in the ways in which arithmetic on
adapters goes wrong, with factors that are shared, copied, almost equal, opposite, or zero.
Structure is drawn by hypothesis and shrinks; the numbers come from a drawn seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pemath.expression.tree import Call, Expression, Operand, call
from pemath.formats.checkpoint import Matrix
from pemath.formats.floats import FLOAT_TYPES, Array, FloatType, Stored, narrow
from pemath.kinds._dora import Dora, Learned
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3, Side
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part

Relation = Literal["own", "same", "copied", "shared", "mixed", "near", "nearer", "opposite"]
Hole = Literal["none", "row", "column", "A", "B"]

_RELATIONS: tuple[Relation, ...] = (
    "own", "own", "same", "copied", "shared", "mixed", "near", "nearer", "opposite",
)  # fmt: skip
_HOLES: tuple[Hole, ...] = ("none", "none", "none", "row", "column", "A", "B")
_SCALES = (1.0, 1.0, 2.0, 0.5, -1.0, -0.7, 1 / 3, 0.0, 1e-4, -3e3)
_SEEDS = st.integers(0, 2**32 - 1)
# How far almost equal values are apart, relative to their size.
_DISTANCES: Mapping[Relation, float] = {"near": 1e-3, "nearer": 1e-6}


@dataclass(frozen=True, eq=False)
class Family:
    """Values of one kind at one site.

    `delta(value)` is all that a value changes there, flat in float64: the weight, then the bias.
    `deviation(value)` is what the value's `norm`, `inner` and `distance` measure, flat as well.
    """

    values: tuple[Any, ...]
    delta: Callable[[Any], Array]
    deviation: Callable[[Any], Array]


@dataclass(frozen=True, eq=False)
class Factors:
    """A LoRA as it lies in a file: tensors in the shapes of `geometry`, and their scale alpha / r.

    `rank` is the site's. `a` and `b` are None for rank zero, which no file holds.
    """

    geometry: Geometry
    rank: int
    scale: float
    a: Stored | None
    b: Stored | None
    bias: Stored | None

    def value(self) -> Lora:
        """The LoRA as pemath holds it."""
        geometry = self.geometry
        blocks = tuple(LowRank(geometry.block_shape) for _ in range(geometry.blocks))
        if self.a is not None and self.b is not None:
            blocks = geometry.products(self.a, self.b, self.scale)
        bias = None
        if self.bias is not None:
            column = Stored(self.bias.raw.reshape(-1, 1), self.bias.kind)
            part = Part(Stored.of(np.ones((1, 1))), column, self.scale)
            bias = LowRank((geometry.outputs, 1), (part,))
        return Lora(geometry, blocks, bias)


def families(kind: str, size: int) -> SearchStrategy[Family]:
    """Families of `size` values of the registered kind `kind`.

    Raises: LookupError if no strategy is known for the kind: see `register_families`.
    """
    if kind not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise LookupError(f"no strategy draws values of kind {kind}; there are some for {known}")
    return _made_families(kind, size)


def register_families(kind: str, make: Callable[[int], SearchStrategy[Family]]) -> None:
    """Let `families(kind, size)` draw from `make(size)`. Raises ValueError if the kind has one."""
    if kind in _FAMILIES:
        raise ValueError(f"kind {kind} has a strategy already")
    _FAMILIES[kind] = make


def float_types() -> SearchStrategy[FloatType]:
    """The four storage types."""
    return st.sampled_from(list(FLOAT_TYPES.values()))


@cache
def scalars() -> SearchStrategy[float]:
    """Coefficients: the special ones, and any between -4 and 4 in steps that are no binary ones."""
    hundredths = [number / 100 for number in range(-400, 401)]
    return st.sampled_from([*_SCALES * 20, *hundredths])


# ------------------------------------------------------------------------------------------ LoRA


@dataclass(frozen=True)
class _Recipe:
    """How one member of a family is made from the first one."""

    relation: Relation
    kind: FloatType
    rank: int
    scale: float
    hole: Hole
    has_bias: bool


def _recipes(size: int, ranks: range) -> SearchStrategy[tuple[_Recipe, ...]]:
    """One recipe for each of `size` members. Each is a single draw: many small ones are slow."""
    fields = (_RELATIONS, tuple(FLOAT_TYPES.values()), ranks, _SCALES, _HOLES, (False, True))

    def recipe(number: int) -> _Recipe:
        chosen: list[Any] = []
        for choices in fields:
            number, index = divmod(number, len(choices))
            chosen.append(choices[index])
        return _Recipe(*chosen)

    one = st.integers(0, math.prod(map(len, fields)) - 1).map(recipe)
    return st.tuples(*[one] * size)


def _geometries() -> list[Geometry]:
    """Small sites of every layout, plain ones first and more often."""
    few = range(1, 6)
    linear = [Geometry("linear", o, (i,)) for o, i in product(few, few)]
    embedding = [Geometry("embedding", o, (i,)) for o, i in product(few, few)]
    kernels = ((1,), (2,), (1, 2), (2, 1), (1, 1, 2))
    convolution = [
        Geometry("conv", groups * outputs, (channels, *kernel), groups)
        for groups, outputs, channels, kernel in product((1, 2, 3), (1, 2), (1, 2), kernels)
    ]
    experts = [Geometry("experts", o, (i,), e) for e, o, i in product((2, 3), (1, 3, 4), (2, 5))]
    return [*linear, *linear, *embedding, *convolution, *experts]


_GEOMETRIES = st.sampled_from(_geometries())


@cache
def factors(size: int, *, smallest_rank: int = 0) -> SearchStrategy[tuple[Factors, ...]]:
    """`size` LoRAs of one site, of block ranks `smallest_rank` to 5."""
    recipes = _recipes(size, range(smallest_rank, 6))
    return st.builds(_lora_members, _GEOMETRIES, recipes, _SEEDS)


def _lora_members(geometry: Geometry, recipes: Sequence[_Recipe], seed: int) -> tuple[Factors, ...]:
    rng = np.random.default_rng(seed)
    members: list[Factors] = []
    for recipe in recipes:
        if not members or recipe.relation == "own":
            members.append(_own(geometry, recipe, rng))
        else:
            members.append(_related(members[0], recipe, rng))
    return tuple(members)


def _own(geometry: Geometry, recipe: _Recipe, rng: np.random.Generator) -> Factors:
    rank = geometry.site_rank(recipe.rank)
    bias = None
    if recipe.has_bias:
        bias = _stored(0.3 * rng.standard_normal(geometry.outputs), recipe.kind)
    if rank == 0:
        return Factors(geometry, 0, recipe.scale, None, None, bias)
    a = rng.standard_normal(geometry.shape_a(rank))
    b = 0.3 * rng.standard_normal(geometry.shape_b(rank))
    a, b = _with_hole(recipe.hole, a, b)
    kind = recipe.kind
    return Factors(geometry, rank, recipe.scale, _stored(a, kind), _stored(b, kind), bias)


def _with_hole(hole: Hole, a: Array, b: Array) -> tuple[Array, Array]:
    if hole in ("row", "A"):
        a[slice(0, 1) if hole == "row" else slice(None)] = 0.0
    if hole in ("column", "B"):
        b[:, slice(0, 1) if hole == "column" else slice(None)] = 0.0
    return a, b


def _related(first: Factors, recipe: _Recipe, rng: np.random.Generator) -> Factors:
    """A member that has something in common with the first."""
    if first.a is None or first.b is None or recipe.relation == "same":
        return first
    if recipe.relation == "opposite":
        return replace(first, scale=-first.scale)
    if recipe.relation == "copied":
        a, b = Stored(first.a.raw.copy(), first.a.kind), Stored(first.b.raw.copy(), first.b.kind)
        return replace(first, a=a, b=b)
    if recipe.relation == "shared":
        fresh = 0.3 * rng.standard_normal(first.b.shape)
        return replace(first, b=_stored(fresh, first.b.kind), scale=recipe.scale)
    wide_a, wide_b = first.a.widen(), first.b.widen()
    if recipe.relation == "mixed":
        # The rows of each block's A, mixed among themselves: another basis of the same space.
        rows = wide_a.reshape(first.geometry.blocks, -1, math.prod(first.geometry.inputs))
        mixing = rng.standard_normal((rows.shape[1], rows.shape[1]))
        wide_a = (mixing @ rows).reshape(wide_a.shape)
        return replace(first, a=_stored(wide_a, recipe.kind), scale=recipe.scale)
    step = _DISTANCES[recipe.relation]
    wide_a = wide_a + step * rng.standard_normal(wide_a.shape)
    if recipe.has_bias:
        wide_b = wide_b + step * rng.standard_normal(wide_b.shape)
    scale = -first.scale if recipe.scale < 0 else first.scale
    a, b = _stored(wide_a, recipe.kind), _stored(wide_b, first.b.kind)
    return replace(first, a=a, b=b, scale=scale)


def _stored(values: Array, kind: FloatType) -> Stored:
    return Stored(narrow(values, kind), kind)


def _lora_families(size: int) -> SearchStrategy[Family]:
    def family(members: Sequence[Factors]) -> Family:
        values = tuple(member.value() for member in members)
        return Family(values, _lora_delta, _lora_delta)

    return factors(size).map(family)


def _lora_delta(value: Lora) -> Array:
    return np.concatenate([value.delta_weight().ravel(), value.delta_bias()])


def _dora_families(size: int) -> SearchStrategy[Family]:
    """LoRAs on one base weight, some of them with magnitudes."""
    geometries = [g for g in _geometries() if g.blocks == 1 and g.layout != "experts"]

    def family(geometry: Geometry, recipes: Sequence[_Recipe], seed: int) -> Family:
        rng = np.random.default_rng(seed)
        turned = seed % 2 == 1
        weight = rng.standard_normal(geometry.block_shape)
        transposed = geometry.layout == "embedding" or (geometry.layout == "linear" and turned)
        stored = weight.T if transposed else weight.reshape(geometry.outputs, *geometry.inputs)
        base = Matrix("base.weight", Stored.of(stored), transposed)
        values = []
        for recipe, member in zip(recipes, _lora_members(geometry, recipes, seed), strict=True):
            lengths = 1.0 + 0.3 * rng.standard_normal(geometry.outputs)
            magnitude = _stored(lengths, recipe.kind) if recipe.has_bias else None
            learned = Learned(base, replace(member.value(), bias=None), magnitude)
            values.append(Dora(base, geometry, ((recipe.scale, learned),) if recipe.rank else ()))
        return Family(tuple(values), _dora_delta, _dora_delta)

    recipes = _recipes(size, range(6))
    return st.builds(family, st.sampled_from(geometries), recipes, _SEEDS)


def _dora_delta(value: Dora) -> Array:
    return value.delta_weight().ravel()


# --------------------------------------------------------------------------------- (IA)³ and full


def _members(shape: tuple[int, ...], recipes: Sequence[_Recipe], seed: int) -> list[Stored]:
    """Arrays of one shape, related as `recipes` say."""
    rng = np.random.default_rng(seed)
    members: list[Stored] = []
    for recipe in recipes:
        values = rng.standard_normal(shape)
        if recipe.hole in ("row", "column"):
            values[tuple(slice(0, 1) for _ in shape)] = 0.0
        elif recipe.hole in ("A", "B"):
            values[...] = 0.0 if recipe.hole == "A" else 1.0
        if members and recipe.relation in ("same", "shared"):
            members.append(members[0])
        elif members and recipe.relation == "copied":
            members.append(Stored(members[0].raw.copy(), members[0].kind))
        elif members and recipe.relation == "opposite":
            members.append(_stored(2.0 - members[0].widen(), recipe.kind))
        elif members and recipe.relation in _DISTANCES:
            step = _DISTANCES[recipe.relation] * values
            members.append(_stored(members[0].widen() + step, recipe.kind))
        else:
            members.append(_stored(values, recipe.kind))
    return members


_SHAPES = [shape for length in (1, 2, 3) for shape in product(range(1, 5), repeat=length)]
_LAYERS: list[tuple[int, ...]] = [
    (outputs, inputs, *kernel)
    for kernel in ((), (), (2, 1))
    for outputs, inputs in product(range(1, 6), repeat=2)
]


def _ia3_families(size: int) -> SearchStrategy[Family]:
    def family(side: Side, layer: tuple[int, ...], recipes: Sequence[_Recipe], seed: int) -> Family:
        rng = np.random.default_rng(seed)
        weight, bias = rng.standard_normal(layer), rng.standard_normal(layer[0])
        shape: tuple[int, ...] = (layer[0], 1) if side == "output" else (1, layer[1])
        if len(layer) > 2:
            shape = (1, layer[0 if side == "output" else 1], *(1 for _ in layer[2:]))
        vectors = _members(shape, recipes, seed)
        values = tuple(
            Ia3(side, shape, ((recipe.scale, vector),) if recipe.rank else ())
            for recipe, vector in zip(recipes, vectors, strict=True)
        )

        def delta(value: Ia3) -> Array:
            return np.concatenate([value.delta_weight(weight).ravel(), value.delta_bias(bias)])

        def deviation(value: Ia3) -> Array:
            total = np.zeros(math.prod(shape))
            for scale, vector in value.terms:
                total += scale * (vector.widen().ravel() - 1.0)
            return total

        return Family(values, delta, deviation)

    sides: SearchStrategy[Side] = st.sampled_from(("output", "input"))
    return st.builds(family, sides, st.sampled_from(_LAYERS), _recipes(size, range(2)), _SEEDS)


def _full_families(size: int) -> SearchStrategy[Family]:
    def family(shape: tuple[int, ...], recipes: Sequence[_Recipe], seed: int) -> Family:
        weights = _members(shape, recipes, seed)
        values = tuple(
            FullDelta(shape, ((recipe.scale, weight),) if recipe.rank else ())
            for recipe, weight in zip(recipes, weights, strict=True)
        )
        return Family(values, _full_delta, _full_delta)

    return st.builds(family, st.sampled_from(_SHAPES), _recipes(size, range(2)), _SEEDS)


def _full_delta(value: FullDelta) -> Array:
    return value.delta_weight().ravel()


@cache
def _made_families(kind: str, size: int) -> SearchStrategy[Family]:
    return _FAMILIES[kind](size)


_FAMILIES: dict[str, Callable[[int], SearchStrategy[Family]]] = {
    "dora": _dora_families,
    "full": _full_families,
    "ia3": _ia3_families,
    "lora": _lora_families,
}


# ----------------------------------------------------------------------------------- expressions


def expressions(
    operands: Sequence[Operand],
    *,
    methods: Sequence[str] = (),
    keys: Sequence[str] = (),
    leaves: int = 8,
) -> SearchStrategy[Expression]:
    """Trees of at most about `leaves` operands, built by `+ - * /`, unary minus, method calls, and
    weights by layer with some of `keys`.

    Without `methods` the trees are linear.
    """
    small = st.fractions(-3, 3, max_denominator=12)
    numbers = small | st.sampled_from([0.1, -0.3, 1e-9, 2.5e10, 0, 1, -1]).map(_exact)
    divisors = numbers.filter(bool)

    def larger(inner: SearchStrategy[Expression]) -> SearchStrategy[Expression]:
        branches = [
            st.builds(lambda x, y: x + y, inner, inner),
            st.builds(lambda x, y: x - y, inner, inner),
            st.builds(lambda x, c: x * c, inner, numbers),
            st.builds(lambda x, c: c * x, inner, numbers),
            st.builds(lambda x, c: x / c, inner, divisors),
            st.builds(lambda x: -x, inner),
        ]
        if methods:
            branches.append(
                st.builds(_call, st.sampled_from(list(methods)), inner, inner, _OPTIONS)
            )
        if keys:
            layers = st.dictionaries(st.sampled_from(list(keys)), numbers, min_size=1, max_size=3)
            branches.append(st.builds(lambda x, w: x * w, inner, layers))
        return st.one_of(branches)

    return st.recursive(st.sampled_from(list(operands)), larger, max_leaves=leaves)


def _exact(number: float) -> Fraction:
    return Fraction(repr(number))


def _call(method: str, left: Expression, right: Expression, options: dict[str, Any]) -> Call:
    return call(method, left, right, **options)


_SINGLE = (
    st.booleans()
    | st.fractions(-9, 9, max_denominator=99)
    | st.text(max_size=8)
    | st.sampled_from([1e-20, 1e20, -2.5])
)
_OPTIONS = st.dictionaries(
    st.sampled_from(["weights", "normalize", "rank", "text", "_x9"]),
    st.recursive(_SINGLE, lambda inner: st.lists(inner, max_size=3), max_leaves=4),
    max_size=2,
)
