"""Dense deltas by blocks of rows, and their way back to factors."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.methods import Stack, _dense, named_method
from pemath.methods._dense import Entries, Merge, entrywise, factored, reduced, rows_of

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


def run(name: str, values: list[Any], **options: Any) -> Any:
    found = named_method(name)
    weights = [float(weight) for weight in found.default_weights(len(values))]
    return found.function(Stack("q", values, weights, list("abcdef")[: len(values)]), **options)


def assert_close(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-8 * np.linalg.norm(wanted)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix counts as too large to be decomposed as it is."""
    monkeypatch.setattr(_dense, "_SMALL", 0)


SHAPES = [(80, 300), (300, 80), (200, 200), (5, 400), (400, 3), (0, 4)]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("shape", SHAPES)
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
            assert lost <= 1.01 * optimum + 1e-7 * size
            assert abs(error * size - lost) <= 1e-6 * size
            again, _ = factored(shape, rows, rank, "q")
            np.testing.assert_array_equal(again.dense(), found.dense())
    low = random(shape[0], 3) @ random(3, shape[1])
    found, error = factored(shape, lambda i, j: low[i:j], 5, "q")
    size = float(np.linalg.norm(low))
    assert np.linalg.norm(found.dense() - low) <= 1e-8 * size
    assert error <= 1e-7
    assert all(stop - start <= max(shape[0], 1) for start, stop in asked)


def test_a_small_matrix_is_as_good_as_can_be() -> None:
    matrix = random(60, 50)
    for rank in (1, 7, 50, 90):
        found, left_out, size = reduced((60, 50), lambda i, j: matrix[i:j], rank, "q")
        lost = np.linalg.norm(best(matrix, rank) - matrix)
        assert_close(found.dense(), best(matrix, rank))
        assert abs(left_out - lost) <= 1e-12 * np.linalg.norm(matrix)
        assert size == pytest.approx(np.linalg.norm(matrix))


@pytest.mark.parametrize("small", [0, 1 << 18])
def test_what_is_not_finite_is_refused(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dense, "_SMALL", small)
    for bad in (np.nan, np.inf, 1e200):
        matrix = random(60, 50)
        matrix[3, 4] = bad
        if small and bad == 1e200:
            continue
        with pytest.raises(np.linalg.LinAlgError), np.errstate(all="ignore"):
            factored((60, 50), lambda i, j, m=matrix: m[i:j], 3, "q")


def test_a_start_is_only_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies outside of what is known beforehand is found too."""
    monkeypatch.setattr(_dense, "_SMALL", 0)
    left, right = np.linalg.qr(random(90, 6))[0], np.linalg.qr(random(120, 6, seed=1))[0]
    matrix = (left * [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]) @ right.T + 1e-3 * random(90, 120)
    for start in (right.T[:3], right.T[3:], random(4, 120, seed=2), np.zeros((2, 120))):
        found, *_ = reduced((90, 120), lambda i, j: matrix[i:j], 4, "q", start)
        lost = np.linalg.norm(found.dense() - matrix)
        assert lost <= 1.01 * np.linalg.norm(best(matrix, 4) - matrix)


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
    monkeypatch.setattr(_dense, "_BLOCK", 7 * 90)
    assert_close(run("negmerge", values).delta_weight(), whole)
    np.testing.assert_array_equal(run("negmerge", pieces).delta_weight(), plain)
    wanted = deficient(*(value.delta_weight() for value in values))
    assert_close(run("deficient", pieces).delta_weight(), wanted)


GEOMETRIES = [
    Geometry("linear", 12, (10,)),
    Geometry("embedding", 12, (10,)),
    Geometry("conv", 12, (5, 2), 3),
    Geometry("experts", 4, (10,), 3),
]


def keeping(seen: list[Entries], change: Callable[[Array], Array]) -> Callable[[Entries], Merge]:
    def prepare(entries: Entries) -> Merge:
        seen.append(entries)
        return lambda blocks, start: change(sum(blocks))

    return prepare


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.layout)
def test_every_layout(geometry: Geometry, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows are those of one matrix, and all of them together are the tensor."""
    if not small:
        monkeypatch.setattr(_dense, "_SMALL", 0)
    monkeypatch.setattr(_dense, "_BLOCK", 30)

    def value(seed: int) -> Lora:
        rank = geometry.site_rank(2)
        a, b = (
            random(*geometry.shape_a(rank), seed=seed),
            random(*geometry.shape_b(rank), seed=seed),
        )
        return Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), 0.5))

    values, seen = [value(1), value(2)], list[Entries]()
    found = entrywise(
        values, keeping(seen, lambda x: np.maximum(x, 0)), geometry.site_rank(20), "q"
    )
    (entries,) = seen
    wanted = (values[0] + values[1]).delta_weight()
    rows = [entries.readers[0](rows, slice(None)) for rows in entries.blocks()]
    rows = [
        x + entries.readers[1](r, slice(None)) for x, r in zip(rows, entries.blocks(), strict=True)
    ]
    tensor = np.concatenate(rows)
    assert tensor.shape == entries.shape
    assert tensor.dtype == (np.float64 if small else np.float32)
    assert all(len(x) <= max(1, 30 // entries.shape[1]) for x in rows)
    ratio = np.linalg.norm(tensor) / np.linalg.norm(wanted)
    assert np.log2(ratio) == pytest.approx(round(np.log2(ratio)), abs=1e-6)
    positive = np.maximum(wanted, 0)
    error = np.linalg.norm(found.delta_weight() - positive)
    assert error <= (1e-12 if small else 1e-6) * np.linalg.norm(positive)


@pytest.mark.usefixtures("large")
def test_float32_does_not_overflow() -> None:
    """Deltas of any size: only their ratio is looked at."""
    first, second = lora(40, 30, 1), lora(40, 30, 2)
    plain = run("negmerge", [first, second]).delta_weight()
    for factor in (1e60, 1e-60):
        found = run("negmerge", [first * factor, second * factor])
        assert np.linalg.norm(found.delta_weight() / factor - plain) <= 1e-6 * np.linalg.norm(plain)
    a, b = random(3, 30) * np.array([[1e38], [1.0], [1e-30]]), random(40, 3) * [1e-38, 1.0, 1e30]
    geometry = Geometry("linear", 40, (30,))
    value = Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), 1.0))
    found = run("negmerge", [value, value])
    assert np.linalg.norm(found.delta_weight() - b @ a) <= 1e-5 * np.linalg.norm(b @ a)


@pytest.mark.usefixtures("large")
def test_nothing_stays_nothing() -> None:
    value = lora(40, 30, 1)
    for values in ([value * 0.0] * 2, [value, value * -1.0]):
        found = run("negmerge", values)
        assert not found.delta_weight().any()
        assert found.left_out == 0


def test_what_is_left_out_is_stated() -> None:
    values = [lora(50, 40, seed) for seed in (1, 2)]
    wanted = run("negmerge", [full(value) for value in values]).delta_weight()
    for rank in (1, 5):
        found = run("negmerge", values, rank=rank)
        assert found.left_out == pytest.approx(np.linalg.norm(found.delta_weight() - wanted))


@pytest.mark.parametrize(
    "name",
    ["deficient", "negmerge", "unshared", "breadcrumbs", "consensus", "dare_linear", "dare_ties",
     "della", "magnitude_prune", "sce", "ties"],
)  # fmt: skip
def test_no_matrix_is_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 MB each in float32."""
    monkeypatch.setattr(_dense, "_BLOCK", 1 << 14)
    values = [lora(2000, 2000, seed) for seed in (1, 2)]
    tracemalloc.start()
    try:
        run(name, values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
