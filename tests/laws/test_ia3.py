"""(IA)³ is affine around one: a composed layer computes the base's outputs plus the weighted sum of
the operands' changes, biases included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pemath.formats.floats import FLOAT_TYPES, Array, Stored, narrow
from pemath.kinds.ia3 import Ia3, Side
from pemath.testing import scalars

from .dense import assert_equal


@dataclass(frozen=True)
class Layer:
    """A linear layer, vectors that scale its outputs or its inputs, and what goes in."""

    side: Side
    weight: Array
    bias: Array
    vectors: list[Array]
    inputs: Array

    def forward(self, vector: Array) -> Array:
        """What PEFT computes: l ⊙ (W x + b), or W (l ⊙ x) + b."""
        if self.side == "output":
            return vector * (self.weight @ self.inputs + self.bias)
        return self.weight @ (vector * self.inputs) + self.bias


def value(layer: Layer, vector: Array) -> Ia3:
    shape = (len(vector), 1) if layer.side == "output" else (1, len(vector))
    return Ia3(layer.side, shape, ((1.0, Stored.of(vector.reshape(shape))),))


def made(side: Side, outputs: int, inputs: int, count: int, seed: int) -> Layer:
    rng = np.random.default_rng(seed)
    kinds = list(FLOAT_TYPES.values())
    vectors = []
    for _ in range(count):
        drawn = 1.0 + rng.standard_normal(outputs if side == "output" else inputs)
        kind = kinds[rng.integers(len(kinds))]
        vectors.append(Stored(narrow(drawn, kind), kind).widen())
    numbers = rng.standard_normal
    return Layer(side, numbers((outputs, inputs)), numbers(outputs), vectors, numbers(inputs))


layers = st.builds(
    made,
    st.sampled_from(("output", "input")),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)


@given(layers, st.lists(scalars(), min_size=4, max_size=4))
def test_the_composed_layer_adds_the_changes(layer: Layer, numbers: list[float]) -> None:
    weights = numbers[: len(layer.vectors)]
    before = layer.weight @ layer.inputs + layer.bias
    changes = [layer.forward(vector) - before for vector in layer.vectors]
    wanted = before + reduce(add, (c * change for c, change in zip(weights, changes, strict=True)))
    composed = reduce(
        add, (value(layer, vector) * c for c, vector in zip(weights, layer.vectors, strict=True))
    )
    terms = np.linalg.norm(before) + sum(
        abs(c) * np.linalg.norm(change) for c, change in zip(weights, changes, strict=True)
    )
    assert_equal(layer.forward(composed.vector()), wanted, float(terms))
    # The same through what is folded into the base: weight and bias.
    folded_weight = layer.weight + composed.delta_weight(layer.weight)
    folded_bias = layer.bias + composed.delta_bias(layer.bias)
    assert_equal(folded_weight @ layer.inputs + folded_bias, wanted, float(terms))


@given(layers, scalars())
def test_the_vector_is_affine_around_one(layer: Layer, c: float) -> None:
    first, *rest = layer.vectors
    second = rest[0] if rest else first[::-1]
    a, b = value(layer, first), value(layer, second)
    size = float(np.linalg.norm(first) + np.linalg.norm(second) + len(first))
    assert_equal((a + b).vector(), first + second - 1, size)
    assert_equal((a * -1.0).vector(), 2 - first, size)
    assert_equal((a * c).vector(), 1 + c * (first - 1), (1 + abs(c)) * size)
    mixed = a * c + b * (1 - c)
    assert_equal(mixed.vector(), c * first + (1 - c) * second, (2 + 2 * abs(c)) * size)
    assert (a * 0.0).vector().tolist() == [1.0] * len(first)
