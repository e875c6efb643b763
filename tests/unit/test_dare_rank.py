"""DARE on rank-one terms, against a loop over the terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pemath.errors import KindMismatch, RequestError
from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method
from pemath.methods._entrywise import Draws

GEOMETRIES = [
    Geometry("linear", 6, (5,)),
    Geometry("conv", 6, (5,), 3),
    Geometry("experts", 4, (5,), 2),
]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def lora(geometry: Geometry, rank: int, seed: int) -> Lora:
    site_rank = geometry.site_rank(rank)
    a, b = geometry.shape_a(site_rank), geometry.shape_b(site_rank)
    factors = Stored.of(random(*a, seed=seed)), Stored.of(random(*b, seed=seed))
    return Lora(geometry, geometry.products(*factors, 0.5))


def run(values: list[Any], weights: list[float], **options: Any) -> Any:
    stack = Stack("q", values, weights, list("abc")[: len(values)], [None] * len(values))
    return named_method("dare_rank").function(stack, **options)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.layout)
@pytest.mark.parametrize("density", [0.3, 0.5, 1.0])
def test_it_is_the_sum_of_the_terms_kept(geometry: Geometry, density: float) -> None:
    values, weights = [lora(geometry, 4, 1), lora(geometry, 7, 2)], [1.0, -0.5]
    found = run(values, weights, density=density, seed=9)
    chance = round(density * 65536) / 65536
    kept_terms = 0
    for index, block in enumerate(found.blocks):
        wanted = np.zeros(block.shape)
        for name, value, weight in zip("ab", values, weights, strict=True):
            a, b = value.blocks[index].a(), value.blocks[index].b()
            numbers = Draws(9, f"q rank {index}", name, len(a)).rows(0, 1)[0]
            for k, number in enumerate(numbers):
                if number / 65536 < chance:
                    wanted += weight / chance * np.outer(b[:, k], a[k])
                    kept_terms += 1
        np.testing.assert_allclose(block.dense(), wanted, atol=1e-12)
    assert sum(block.rank for block in found.blocks) == kept_terms
    if density == 1:
        exact = values[0] + values[1] * -0.5
        np.testing.assert_allclose(found.delta_weight(), exact.delta_weight(), atol=1e-12)


def test_its_expectation_is_the_exact_sum() -> None:
    value = lora(GEOMETRIES[0], 5, 1)
    found = np.mean([run([value], [1.0], seed=s).delta_weight() for s in range(3000)], axis=0)
    wanted = value.delta_weight()
    assert np.linalg.norm(found - wanted) <= 0.1 * np.linalg.norm(wanted)


def test_a_bias_is_one_term() -> None:
    plain = lora(GEOMETRIES[0], 2, 1)
    column = Geometry("linear", 6, (1,)).products(
        Stored.of(np.ones((1, 1))), Stored.of(random(6, 1)), 1.0
    )
    value = Lora(plain.geometry, plain.blocks, column[0])
    kept = [run([value], [1.0], seed=s).delta_bias() for s in range(40)]
    for bias in kept:
        assert not bias.any() or np.allclose(bias, 2 * random(6, 1)[:, 0])
    assert 8 < sum(bias.any() for bias in kept) < 32


def test_what_is_refused() -> None:
    full = FullDelta((4, 3), ((1.0, Stored.of(random(4, 3))),))
    stack = Stack("q", [full], [1.0], ["a"], [None])
    assert isinstance(named_method("dare_rank").check(stack), KindMismatch)
    for density in (0.0, 1.5, float("nan")):
        with pytest.raises(RequestError, match="density"):
            run([lora(GEOMETRIES[0], 2, 1)], [1.0], density=density)
