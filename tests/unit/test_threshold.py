"""The threshold of a density, against a sort."""

from __future__ import annotations

import numpy as np
import pytest

from pemath.formats.floats import Array
from pemath.methods import _dense, _threshold
from pemath.methods._dense import Entries
from pemath.methods._threshold import kept_count, magnitudes, nth_largest, thresholds


def entries_of(*operands: Array, height: int | None = None) -> Entries:
    shape = operands[0].shape
    readers = [lambda rows, columns, x=x: x[rows, columns].copy() for x in operands]
    return Entries("q", shape, height or shape[0], readers)


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as few, samples are small, and so are blocks."""
    monkeypatch.setattr(_threshold, "_FEW", 0)
    monkeypatch.setattr(_threshold, "_LINES", 16)
    monkeypatch.setattr(_threshold, "_SORTED", 128)
    monkeypatch.setattr(_dense, "_BLOCK", 1000)


rng = np.random.default_rng(0)
SPIKES = np.zeros((60, 80))
SPIKES[7::13, 5::17] = rng.standard_normal(SPIKES[7::13, 5::17].shape)
TENSORS: dict[str, Array] = {
    "normal": rng.standard_normal((60, 80)),
    "product": rng.standard_normal((60, 3)) @ rng.standard_normal((3, 80)),
    "heavy": rng.standard_t(1.0, (60, 2)) @ rng.standard_t(1.0, (2, 80)),
    "ties": np.round(rng.standard_normal((60, 80))),
    "equal": np.where(rng.random((60, 80)) < 0.5, 0.5, -0.5),
    "zero": np.zeros((60, 80)),
    "sparse": SPIKES,
    "missed by the sample": np.where(np.arange(80) % 5 == 2, 1e3, 1.0) * rng.random((60, 80)),
    "float32": rng.standard_normal((60, 80)).astype(np.float32),
    "one row": rng.standard_normal((1, 500)),
    "one column": rng.standard_normal((500, 1)),
    "one": np.array([[2.0]]),
}
every_tensor = pytest.mark.parametrize("tensor", TENSORS.values(), ids=list(TENSORS))


@pytest.mark.usefixtures("streaming")
@every_tensor
def test_it_is_that_of_a_sort(tensor: Array) -> None:
    descending = np.sort(np.abs(tensor).ravel())[::-1]
    entries = entries_of(tensor)
    places = sorted({max(1, round(s * tensor.size)) for s in (0, 0.01, 0.2, 0.5, 0.9, 1)})
    found = nth_largest(entries, magnitudes(entries, 0), [*places, places[0]])
    np.testing.assert_array_equal(found, descending[[p - 1 for p in [*places, places[0]]]])
    assert (np.abs(tensor) >= found[1 % len(places)]).sum() >= places[1 % len(places)]


@every_tensor
def test_few_entries_are_sorted(tensor: Array) -> None:
    descending = np.sort(np.abs(tensor).ravel())[::-1]
    for density in (1e-9, 0.2, 1.0):
        (found,) = thresholds(entries_of(tensor), density)
        assert found == descending[max(1, round(density * tensor.size)) - 1]


@pytest.mark.usefixtures("streaming")
def test_matrices_below_each_other_are_one_tensor() -> None:
    tensor = TENSORS["normal"] * np.repeat([1.0, 10.0, 0.1], 20)[:, None]
    found = thresholds(entries_of(tensor, -2 * tensor, height=20), 0.3)
    wanted = np.sort(np.abs(tensor).ravel())[::-1][round(0.3 * tensor.size) - 1]
    assert found == [wanted, 2 * wanted]


@pytest.mark.usefixtures("streaming")
def test_a_sample_that_misleads_costs_a_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = TENSORS["normal"]
    monkeypatch.setattr(_threshold, "_sample", lambda entries, magnitude: np.full(100, 99.0))
    (found,) = thresholds(entries_of(tensor), 0.25)
    assert found == np.sort(np.abs(tensor).ravel())[::-1][tensor.size // 4 - 1]


def test_a_share_is_a_number_of_entries() -> None:
    shares = [(0.2, 5), (0.2, 35), (0.29, 100), (1e-9, 100), (1.0, 7), (0.5, 0)]
    assert [kept_count(share, size) for share, size in shares] == [1, 7, 29, 1, 7, 0]
    empty = entries_of(np.empty((0, 4)))
    assert thresholds(empty, 0.5) == [0.0]
