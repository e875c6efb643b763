"""Values of every kind at one site, and a method's call on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method

OUT, IN = 11, 8


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def product(a: Array, b: Array, scale: float = 1.0) -> Lora:
    geometry = Geometry("linear", len(b), (a.shape[1],))
    return Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), scale))


def lora(rank: int, seed: int = 0, scale: float = 1.0) -> Lora:
    return product(random(rank, IN, seed=seed), random(OUT, rank, seed=seed + 50), scale)


def with_bias(value: Lora, bias: Array) -> Lora:
    column = product(np.ones((1, 1)), bias.reshape(-1, 1)).blocks[0]
    return Lora(value.geometry, value.blocks, column)


def ia3(vector: Array) -> Ia3:
    return Ia3("output", (len(vector), 1), ((1.0, Stored.of(vector.reshape(-1, 1))),))


def full(delta: Array) -> FullDelta:
    return FullDelta(delta.shape, ((1.0, Stored.of(delta)),))


def stack(values: list[Any], weights: list[float], count: int | None = None) -> Stack:
    """`count` operands, of which some may lack the site."""
    operands = [None] * (count or len(values))
    return Stack("q", values, weights, list("abcdef")[: len(values)], operands)


def run(
    name: str,
    values: list[Any],
    weights: list[float] | None = None,
    count: int | None = None,
    **options: Any,
) -> Any:
    found = named_method(name)
    usual = [float(weight) for weight in found.default_weights(count or len(values))]
    weights = weights or usual[: len(values)]
    return found.function(stack(values, weights, count), **options)


def dense(value: Any) -> Array:
    """What the value changes: the vector less one of an (IA)³, else the delta."""
    return value.deviation() if isinstance(value, Ia3) else value.delta_weight()


def size(*values: Any) -> float:
    """What an error is measured against: the norms of all that takes part."""
    return sum(float(np.linalg.norm(dense(value))) for value in values)


def close(found: Any, wanted: Array, scale: float, tolerance: float = 1e-8) -> None:
    assert dense(found).shape == wanted.shape
    error = float(np.linalg.norm(dense(found) - wanted))
    assert error <= tolerance * max(scale, 1e-300), error / max(scale, 1e-300)


A = random(3, IN)
SAME = lora(3, scale=0.5)
_PADDED = product(np.pad(random(2, IN, seed=3), ((0, 2), (0, 0))), random(OUT, 4, seed=4))
# Two LoRAs in every relation that makes arithmetic on factors go wrong.
PAIRS: dict[str, tuple[Lora, Lora]] = {
    "own factors": (lora(3, 1), lora(3, 2)),
    "shared A": (product(A, random(OUT, 3, seed=1)), product(A, random(OUT, 3, seed=2))),
    "drifted A": (
        product(A, random(OUT, 3, seed=1)),
        product(A + 1e-3 * random(3, IN, seed=4), random(OUT, 3, seed=2)),
    ),
    "equal": (SAME, SAME),
    "parallel": (SAME, SAME * 3.0),
    "opposite": (SAME, SAME * -2.0),
    "zero first": (product(A, np.zeros((OUT, 3))), lora(3, 2)),
    "no factors": (lora(3, 1), lora(3, 2) * 0.0),
    "padded": (lora(3, 1), _PADDED),
    "different ranks": (lora(1, 1), lora(5, 2)),
    "rank above the matrix": (lora(12, 1), lora(11, 2)),
    "scaled": (lora(3, 1, scale=-1e-3), lora(3, 2, scale=40.0)),
    "several parts": (lora(2, 1) + lora(2, 3), lora(1, 2) + lora(2, 1) * 0.5),
    "parts that cancel": (lora(3, 1) + lora(3, 2) + lora(3, 1) * (1e-5 - 1), lora(2, 5)),
    "wide singular values": (lora(3, 1), product(A, random(OUT, 3) * [1.0, 1e-2, 1e-4])),
}
