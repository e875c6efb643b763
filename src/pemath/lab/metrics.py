"""Metrics of labelled rows, for many predictions and many resamples of the rows at once.

Every metric is a function of sums over rows, so a bootstrap replicate needs no drawing of rows: it
is the same function with the rows counted as often as the replicate drew them. Values lie in 0..1
(correlations in -1..1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pemath.errors import RequestError
from pemath.lab.data.rows import Row, Task
from pemath.names import display, listing

Floats = NDArray[np.float64]
# labels [n], predictions [k, n], counts [r, n] -> [k, r]
_Counted = Callable[[NDArray[Any], NDArray[Any], Floats], Floats]

REPLICATES = 2_000
_CHUNK = 4_000_000  # counts held at a time: 32 MB


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; calling it with labels [n] and predictions [..., n] gives [...]."""

    name: str
    title: str
    counted: _Counted

    def __call__(self, labels: ArrayLike, predictions: ArrayLike) -> Floats:
        """The metric of every prediction vector; predictions [..., n] give an array [...]."""
        gold = np.asarray(labels)
        return self.resampled(gold, predictions, np.ones((1, gold.size)))[..., 0]

    def resampled(self, labels: ArrayLike, predictions: ArrayLike, counts: Floats) -> Floats:
        """The metric with row i counted `counts[r, i]` times: an array [..., r]."""
        gold, guessed = np.asarray(labels), np.asarray(predictions)
        if gold.ndim != 1 or not gold.size or guessed.shape[-1:] != gold.shape:
            raise ValueError(
                f"a metric needs labels [n] and predictions [..., n], n > 0, "
                f"not {gold.shape} and {guessed.shape}"
            )
        values = self.counted(gold, guessed.reshape(-1, gold.size), counts)
        return values.reshape(*guessed.shape[:-1], len(counts))


def metric(name: str) -> Metric:
    """The metric called `name`. Raises `RequestError` if there is none."""
    try:
        return METRICS[name]
    except KeyError:
        raise RequestError(
            "there is no such metric", found=display(name), expected=listing(list(METRICS))
        ) from None


def bootstrap(
    name: str,
    labels: ArrayLike,
    predictions: ArrayLike,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Floats:
    """The metric of predictions [..., n] in `replicates` resamples of the rows: [..., replicates].

    All predictions meet the same resamples, so differences along the leading axes are paired.
    B. Efron, The Annals of Statistics 7 (1979), 1-26.
    """
    judge, gold = metric(name), np.asarray(labels)
    drawn = _drawn(gold.size, replicates, seed)
    return np.concatenate([judge.resampled(gold, predictions, counts) for counts in drawn], axis=-1)


def interval(values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """The percentile interval along the last axis."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return low, high


def _drawn(rows: int, replicates: int, seed: int) -> Iterator[Floats]:
    """How often each of `replicates` samples with replacement drew each row, in chunks."""
    draw = np.random.default_rng([seed, rows])
    step = max(1, _CHUNK // rows)
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        drawn = draw.integers(rows, size=(count, rows)) + np.arange(count)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=count * rows)
        yield counts.reshape(count, rows).astype(np.float64)


def _ratio(upper: Floats, lower: Floats) -> Floats:
    """upper / lower, and 0 where there is nothing to divide by."""
    upper, lower = np.broadcast_arrays(upper, lower)
    return np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)


def _accuracy(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    return _ratio((labels == guessed).astype(np.float64) @ counts.T, counts.sum(-1))


def _f1(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    """F1 of label 1, as GLUE defines it; 0 where label 1 is neither there nor predicted."""
    if not (np.isin(labels, (0, 1)).all() and np.isin(guessed, (0, 1)).all()):
        raise RequestError(
            "F1 is that of label 1 against label 0, and there are other labels",
            hint="choose accuracy or matthews for more than two labels",
        )
    true, positive = labels.astype(np.float64), guessed.astype(np.float64)
    return _ratio(2 * ((true * positive) @ counts.T), (true + positive) @ counts.T)


def _matthews(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    """Matthews' correlation of any number of labels; 0 where one side is constant.

    J. Gorodkin, Computational Biology and Chemistry 28 (2004), 367-374.
    """
    total = counts.sum(-1)
    right = (labels == guessed).astype(np.float64) @ counts.T
    products, squares_true, squares_said = 0.0 * right, 0.0 * total, 0.0 * right
    for kind in np.union1d(labels, guessed):
        true = (labels == kind).astype(np.float64) @ counts.T
        said = (guessed == kind).astype(np.float64) @ counts.T
        products += true * said
        squares_true += true**2
        squares_said += said**2
    spread = (total**2 - squares_true) * (total**2 - squares_said)
    return _ratio(right * total - products, np.sqrt(np.maximum(spread, 0.0)))


def _pearson(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    """Pearson's correlation; 0 where one side is constant."""
    x, y = labels.astype(np.float64), guessed.astype(np.float64)
    x, y = x - x.mean(), y - y.mean(-1, keepdims=True)  # or far-off means cancel in the squares
    total = counts.sum(-1)
    mean_x, mean_y = _ratio(x @ counts.T, total), _ratio(y @ counts.T, total)
    square_x = _spread(_ratio(x**2 @ counts.T, total) - mean_x**2, x)
    square_y = _spread(_ratio(y**2 @ counts.T, total) - mean_y**2, y)
    product = _ratio((x * y) @ counts.T, total) - mean_x * mean_y
    return _ratio(product, np.sqrt(square_x * square_y))


def _spread(variance: Floats, values: Floats) -> Floats:
    """The variance, or exactly 0 where it is nothing but rounding."""
    largest = np.max(np.abs(values), axis=-1, initial=0.0, keepdims=True)
    return np.where(variance > 1e-14 * largest**2, variance, 0.0)


def _spearman(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    """Pearson's correlation of the ranks in each resample, ties at their mean rank."""
    drawn = np.ascontiguousarray(counts.T)  # whole rows move then, which is several times faster
    middle = (drawn.sum(0) + 1) / 2  # the mean of the ranks, whatever the ties
    x = _ranks(labels, drawn) - middle
    square_x = np.einsum("nr,nr,nr->r", drawn, x, x)
    x *= drawn
    values = np.empty((len(guessed), len(counts)))
    for row, one in enumerate(guessed):
        y = _ranks(one, drawn) - middle
        square_y = np.einsum("nr,nr,nr->r", drawn, y, y)
        values[row] = _ratio(np.einsum("nr,nr->r", x, y), np.sqrt(square_x * square_y))
    return values


def _ranks(values: NDArray[Any], drawn: Floats) -> Floats:
    """Mean ranks [n, r] of the rows in each resample."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(drawn[order], starts, axis=0)
    return np.asarray((np.cumsum(sizes, axis=0) - (sizes - 1) / 2)[group], dtype=np.float64)


def _mean_of(one: _Counted, other: _Counted) -> _Counted:
    return lambda *data: (one(*data) + other(*data)) / 2


def _mean(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    """The mean of what was measured; labels are not looked at."""
    return _ratio(guessed.astype(np.float64) @ counts.T, counts.sum(-1))


def _perplexity(labels: NDArray[Any], guessed: NDArray[Any], counts: Floats) -> Floats:
    """exp of the mean loss per token: losses in nats are predicted, labels are numbers of tokens."""
    if not labels.sum() > 0:
        raise ValueError("a perplexity needs at least one token")
    tokens = labels.astype(np.float64) @ counts.T
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(_ratio(guessed.astype(np.float64) @ counts.T, tokens)))


METRICS = {
    each.name: each
    for each in (
        Metric("accuracy", "accuracy", _accuracy),
        Metric("f1", "F1", _f1),
        Metric("accuracy_f1", "mean of accuracy and F1", _mean_of(_accuracy, _f1)),
        Metric("matthews", "Matthews correlation", _matthews),
        Metric("pearson", "Pearson correlation", _pearson),
        Metric("spearman", "Spearman correlation", _spearman),
        Metric("mean", "mean", _mean),
        Metric("perplexity", "perplexity", _perplexity),
        Metric("pearson_spearman", "mean of Pearson and Spearman", _mean_of(_pearson, _spearman)),
    )
}


def score_of(task: Task, rows: Sequence[Row], predictions: Sequence[int | float]) -> float:
    """The task's metric of `predictions` for `rows`."""
    labels = np.array([row.label for row in rows])
    return float(metric(task.metric)(labels, np.array(predictions)))
