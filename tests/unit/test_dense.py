"""Dense deltas by blocks of rows, and their way back to factors."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method
from pemath.methods._dense import factored, rows_of

from .subtraction import best, deficient


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def lora(outputs: int, inputs: int, seed: int) -> Lora:
    geometry = Geometry("linear", outputs, (inputs,))
    a, b = random(3, inputs, seed=seed), random(outputs, 3, seed=seed)
    return Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), 1.0))


def full(value: Lora) -> FullDelta:
    delta = value.delta_weight()
    return FullDelta(delta.shape, ((1.0, Stored.of(delta)),))


def run(name: str, values: list[Any]) -> Any:
    found = named_method(name)
    weights = [float(weight) for weight in found.default_weights(len(values))]
    return found.function(Stack("q", values, weights, list("abcdef")[: len(values)]))


def assert_close(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-8 * np.linalg.norm(wanted)


@pytest.mark.parametrize("shape", [(80, 300), (300, 80), (200, 200), (5, 400), (400, 3), (0, 4)])
def test_factored_is_close_to_the_best(shape: tuple[int, int]) -> None:
    """Also for a flat spectrum, which is the hardest."""
    flat = random(*shape)
    asked: list[tuple[int, int]] = []

    def rows(start: int, stop: int) -> Array:
        asked.append((start, stop))
        return matrix[start:stop]

    for matrix in (flat, flat * np.geomspace(1, 1e-9, shape[1]), 0 * flat):
        for rank in (1, 8):
            found, error = factored(shape, rows, rank, "q")
            lost = float(np.linalg.norm(found.dense() - matrix))
            optimum = float(np.linalg.norm(best(matrix, rank) - matrix))
            size = float(np.linalg.norm(matrix))
            assert lost <= 1.02 * optimum + 1e-7 * size
            assert abs(error * size - lost) <= 1e-6 * size
            again, _ = factored(shape, rows, rank, "q")
            np.testing.assert_array_equal(again.dense(), found.dense())
    low = random(shape[0], 3) @ random(3, shape[1])
    found, error = factored(shape, lambda i, j: low[i:j], 5, "q")
    assert np.linalg.norm(found.dense() - low) <= 1e-8 * np.linalg.norm(low)
    assert error <= 1e-7
    assert all(stop - start <= max(shape[0], 1) for start, stop in asked)


def test_rows_of_what_cancels_are_zero() -> None:
    """Rounding errors have signs too."""
    value = lora(60, 40, 1)
    block = (value + lora(60, 40, 2) * 0.0 + value * -1.0).blocks[0]
    shape, rows = rows_of(block)
    assert not rows(0, shape[0]).any()


def test_rows_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fits at once, the result is the same to roundoff, and no more rows are held."""
    values = [lora(70, 90, seed) for seed in (1, 2)]
    pieces = [full(value) for value in values]
    whole, plain = (run("negmerge", v).delta_weight() for v in (values, pieces))
    monkeypatch.setattr("pemath.methods._dense._BLOCK", 7 * 90)
    assert_close(run("negmerge", values).delta_weight(), whole)
    np.testing.assert_array_equal(run("negmerge", pieces).delta_weight(), plain)
    wanted = deficient(*(value.delta_weight() for value in values))
    assert_close(run("deficient", pieces).delta_weight(), wanted)


@pytest.mark.parametrize("name", ["deficient", "negmerge", "unshared"])
def test_no_matrix_is_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 MB each in float64."""
    monkeypatch.setattr("pemath.methods._dense._BLOCK", 1 << 14)
    values = [lora(2000, 2000, seed) for seed in (1, 2)]
    tracemalloc.start()
    try:
        run(name, values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
