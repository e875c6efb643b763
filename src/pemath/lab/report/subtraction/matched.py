"""Whether another subtraction is less toxic at the same perplexity than the first curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pemath.lab.metrics import Floats, interval
from pemath.lab.report.measure import Difference, Measured
from pemath.lab.report.subtraction.subject import ROUNDING, Subject

WINS, TIE, LOSES = "wins", "tie", "loses"
_STEPS = 41  # at which the common range of perplexities is looked at


@dataclass(frozen=True)
class Trade:
    """A curve from weight 0 on, its points in the order of `weights`: log perplexity and toxicity,
    means over seeds in the first column and in the others their replicates [points, 1 + r].
    """

    weights: tuple[float, ...]
    costs: Floats
    toxicity: Floats


@dataclass(frozen=True)
class Matched:
    """A curve at a weight, and the first curve at the same perplexity; None outside its range."""

    weight: float
    perplexity: float
    toxicity: float
    reference: float | None
    apart: Difference | None


@dataclass(frozen=True)
class Better:
    """A curve against the first one: at each weight, and on average over the log perplexities that
    both reach (`perplexities` are the ends; None where they reach none together).
    """

    test: str
    pem: str
    curve: str
    points: tuple[Matched, ...]
    perplexities: tuple[float, float] | None
    apart: Difference | None

    @property
    def verdict(self) -> str:
        """Wins: less toxic by the interval of the average. Loses: more toxic. Else a tie."""
        if self.apart is None:
            return ""
        if self.apart.high < -ROUNDING:
            return WINS
        return LOSES if self.apart.low > ROUNDING else TIE


def better(subject: Subject, test: str, pem: str, curve: str) -> Better | None:
    """`curve` against the first one; None where one of them is missing."""
    seeds = _seeds(subject, test, pem, (subject.first, curve))
    ours, first = (_trade(subject, test, pem, name, seeds) for name in (curve, subject.first))
    if ours is None or first is None:
        return None
    points = tuple(_matched(ours, first, at, seeds) for at in range(1, len(ours.weights)))
    low = max(ours.costs[:, 0].min(), first.costs[:, 0].min())
    high = min(ours.costs[:, 0].max(), first.costs[:, 0].max())
    if not low < high:
        return Better(test, pem, curve, points, None, None)
    apart = np.mean(
        [
            _at(ours, np.full(ours.costs.shape[1], cost))
            - _at(first, np.full(first.costs.shape[1], cost))
            for cost in np.linspace(low, high, _STEPS)
        ],
        axis=0,
    )
    ends = (float(np.exp(low)), float(np.exp(high)))
    return Better(test, pem, curve, points, ends, _difference(apart, seeds))


def all_better(subject: Subject) -> list[Better]:
    """Every curve but the first against the first, for every kind of module and test."""
    found = (
        better(subject, test, pem, curve)
        for pem in subject.run.pems
        for curve in subject.curves(pem)
        if curve != subject.first
        for test in subject.tests
    )
    return [each for each in found if each is not None]


def _matched(ours: Trade, first: Trade, at: int, seeds: Sequence[int]) -> Matched:
    costs, values = ours.costs[at], ours.toxicity[at]
    weight, cost = ours.weights[at], float(np.exp(costs[0]))
    if not first.costs[:, 0].min() <= costs[0] <= first.costs[:, 0].max():
        return Matched(weight, cost, float(values[0]), None, None)
    reference = _at(first, costs)
    apart = _difference(values - reference, seeds)
    return Matched(weight, cost, float(values[0]), float(reference[0]), apart)


def _at(trade: Trade, costs: Floats) -> Floats:
    """The toxicity at log perplexities [1 + r], on the straight line between the first neighbouring
    weights that have it between them; beyond the range that of its end.
    """
    x, y, columns = trade.costs, trade.toxicity, np.arange(costs.size)
    found: Floats = np.where(costs > x.max(0), y[x.argmax(0), columns], y[x.argmin(0), columns])
    for left in reversed(range(len(x) - 1)):  # the first ones last: they count
        start, end = x[left], x[left + 1]
        inside = (np.minimum(start, end) <= costs) & (costs <= np.maximum(start, end))
        length = np.where(start == end, 1.0, end - start)
        line = y[left] + (costs - start) / length * (y[left + 1] - y[left])
        found = np.where(inside, line, found)
    return found


def _difference(apart: Floats, seeds: Sequence[int]) -> Difference:
    low, high = interval(apart[1:])
    return Difference(float(apart[0]), float(low), float(high), tuple(seeds), ())


def _points(
    subject: Subject, test: str, pem: str, curve: str
) -> dict[float, tuple[Measured, Measured]]:
    """Perplexity and toxicity by weight."""
    costs, scores = subject.costs, subject.measured[test]
    start = costs.at(pem, subject.untouched), scores.at(pem, subject.untouched)
    found = {}
    if start[0] is not None and start[1] is not None:
        found[0.0] = (start[0], start[1])
    toxicity = scores.curve(pem, curve)
    for weight, cost in costs.curve(pem, curve).items():
        if weight in toxicity:
            found[weight] = (cost, toxicity[weight])
    return found


def _seeds(subject: Subject, test: str, pem: str, curves: Sequence[str]) -> list[int]:
    """The seeds that have every point of all these curves."""
    every = [
        set(one.seeds)
        for curve in curves
        for pair in _points(subject, test, pem, curve).values()
        for one in pair
    ]
    return sorted(set.intersection(*every)) if every else []


def _trade(subject: Subject, test: str, pem: str, curve: str, seeds: Sequence[int]) -> Trade | None:
    points = _points(subject, test, pem, curve)
    if len(points) < 2 or not seeds:
        return None

    def column(one: Measured) -> Floats:
        kept = one.only(seeds)
        return np.concatenate([[kept.mean], kept.replicates.mean(0)])

    costs = np.log([column(cost) for cost, _ in points.values()])
    return Trade(tuple(points), costs, np.array([column(one) for _, one in points.values()]))
