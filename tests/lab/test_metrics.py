"""Metrics against scikit-learn and SciPy, and the bootstrap against resampling by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.errors import RequestError
from pemath.lab.metrics import METRICS, bootstrap, interval, metric

sklearn = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")


def judged(name: str, labels: np.ndarray, guessed: np.ndarray) -> float:
    """The same metric by other people's code; 0 where it is not defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = {
            "accuracy": lambda: sklearn.accuracy_score(labels, guessed),
            "f1": lambda: sklearn.f1_score(labels, guessed, zero_division=0),
            "matthews": lambda: sklearn.matthews_corrcoef(labels, guessed),
            "pearson": lambda: stats.pearsonr(labels, guessed)[0],
            "spearman": lambda: stats.spearmanr(labels, guessed)[0],
            "mean": lambda: np.average(guessed),
            "perplexity": lambda: np.exp(guessed.sum() / labels.sum()),
        }
        if name == "accuracy_f1":
            return (judged("accuracy", labels, guessed) + judged("f1", labels, guessed)) / 2
        if name == "pearson_spearman":
            return (judged("pearson", labels, guessed) + judged("spearman", labels, guessed)) / 2
        return float(np.nan_to_num(value[name]()))


@pytest.mark.parametrize("name", ["accuracy", "f1", "accuracy_f1", "matthews"])
@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30))
def test_two_labels(name: str, pairs: list[tuple[int, int]]) -> None:
    labels, guessed = np.array(pairs).T
    assert metric(name)(labels, guessed) == pytest.approx(judged(name, labels, guessed), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "matthews"])
@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_many_labels(name: str, pairs: list[tuple[int, int]]) -> None:
    labels, guessed = np.array(pairs).T
    assert metric(name)(labels, guessed) == pytest.approx(judged(name, labels, guessed), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman", "pearson_spearman"])
@pytest.mark.parametrize("shift", [0.0, 1e5])
@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-4, 4)), min_size=3, max_size=30))
def test_numbers(name: str, shift: float, pairs: list[tuple[int, int]]) -> None:
    labels, guessed = np.array(pairs, dtype=np.float64).T / 4
    if np.ptp(labels) == 0 or np.ptp(guessed) == 0:
        assert metric(name)(labels + shift, guessed + shift) == 0
        return
    expected = judged(name, labels, guessed)
    assert metric(name)(labels + shift, guessed + shift) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_leading_axes(name: str) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(2, size=40)
    guessed = draw.integers(2, size=(3, 2, 40))
    values = metric(name)(labels, guessed)
    assert (values.shape, values.dtype) == ((3, 2), np.float64)
    for place in np.ndindex(3, 2):
        assert values[place] == pytest.approx(metric(name)(labels, guessed[place]), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_counted_rows_are_drawn_rows(name: str) -> None:
    """Counting rows is the same as repeating them."""
    draw = np.random.default_rng(1)
    real = "pearson" in name or "spearman" in name
    labels = draw.integers(6 if real else 2, size=30)
    guessed = draw.normal(labels, 2).round(1) if real else draw.integers(2, size=30)
    rows = draw.integers(30, size=(8, 30))
    counts = np.stack([np.bincount(one, minlength=30) for one in rows]).astype(float)
    values = metric(name).resampled(labels, guessed, counts)
    expected = [judged(name, labels[one], guessed[one]) for one in rows]
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_bootstrap_is_paired_and_repeats() -> None:
    draw = np.random.default_rng(2)
    labels = draw.integers(2, size=200)
    guessed = np.where(np.arange(200) < 50, 1 - labels, labels)
    guessed = np.stack([guessed, guessed, 1 - guessed])
    values = bootstrap("accuracy", labels, guessed, replicates=500)
    assert values.shape == (3, 500)
    np.testing.assert_array_equal(values[0], values[1])  # same predictions, same resamples
    np.testing.assert_allclose(values[0] + values[2], 1.0)
    np.testing.assert_array_equal(values, bootstrap("accuracy", labels, guessed, replicates=500))


def test_interval_has_the_width_that_theory_gives() -> None:
    labels = np.zeros(400, dtype=int)
    guessed = (np.arange(400) < 80).astype(int)  # accuracy .8
    low, high = interval(bootstrap("accuracy", labels, guessed, replicates=4_000))
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert (low, high) == (
        pytest.approx(0.8 - half, abs=0.005),
        pytest.approx(0.8 + half, abs=0.005),
    )


def test_bootstrap_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, guessed = np.arange(20) % 2, np.arange(20) % 3 % 2
    whole = bootstrap("matthews", labels, guessed, replicates=50)
    monkeypatch.setattr("pemath.lab.metrics._CHUNK", 140)
    np.testing.assert_array_equal(bootstrap("matthews", labels, guessed, replicates=50), whole)


def test_perplexity() -> None:
    losses = np.array([[2.0, 4.0], [0.0, 0.0]])
    measure = METRICS["perplexity"]
    np.testing.assert_allclose(measure([1, 3], losses), [np.exp(1.5), 1.0])
    with pytest.raises(ValueError, match="token"):
        measure([0, 0], losses)
    with pytest.raises(ValueError, match="n > 0"):
        measure([], [])


def test_the_perplexity_of_a_resample_is_that_of_its_rows() -> None:
    tokens, losses = np.array([1, 3, 4]), np.array([2.0, 4.0, 10.0])
    counts = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    found = METRICS["perplexity"].resampled(tokens, losses, counts)
    np.testing.assert_allclose(found, [np.exp(14 / 6), np.exp(12 / 9)])


def test_the_mean_looks_at_no_labels() -> None:
    values = np.array([[0.1, 0.5, 0.9], [0.0, 0.0, 1.5]])
    np.testing.assert_allclose(METRICS["mean"]([0, 0, 0], values), [0.5, 0.5])
    np.testing.assert_array_equal(
        METRICS["mean"]([7, 8, 9], values), METRICS["mean"]([0] * 3, values)
    )
    counts = np.array([[1.0, 2.0, 0.0]])
    np.testing.assert_allclose(METRICS["mean"].resampled([0] * 3, values[0], counts), [1.1 / 3])


def test_refusals() -> None:
    with pytest.raises(RequestError, match="no such metric"):
        metric("bleu")
    with pytest.raises(RequestError, match="label 1"):
        metric("f1")([0, 1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="predictions"):
        metric("accuracy")([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="n > 0"):
        metric("accuracy")([], [])
