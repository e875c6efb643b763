"""The metric of every composition: per seed, and in paired resamples of the test rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

import numpy as np

from pemath.lab.metrics import Floats, bootstrap, interval, metric
from pemath.lab.report.lines import Record
from pemath.lab.report.read import Run

_Name = TypeVar("_Name", bound=Hashable)

MEAN = "mean"  # stands for all tasks together
PARTS = ("a", "b")


@dataclass(frozen=True)
class Measured:
    """A composition's metric [seeds] and its bootstrap replicates [seeds, r], by position."""

    seeds: tuple[int, ...]
    values: Floats
    replicates: Floats

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds; None for a single seed."""
        return float(self.values.std(ddof=1)) if len(self.seeds) > 1 else None

    def only(self, seeds: Sequence[int]) -> Measured:
        """The same for some of its seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Measured(tuple(seeds), self.values[rows], self.replicates[rows])


@dataclass(frozen=True)
class Difference:
    """A difference of means over common seeds, with its 95 % interval over test rows."""

    value: float
    low: float
    high: float
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]


# A cell: task (or MEAN), kind of module, initialisation. In it: compositions by name.
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Measures:
    """Everything on test rows. `cells` hold compositions by name; `sweeps` hold, by part of the
    rows, a measured value for each weight.
    """

    cells: Mapping[Place, Mapping[str, Measured]]
    sweeps: Mapping[tuple[Place, str], Mapping[float, Measured]]

    def cell(self, task: str, pem: str, initialisation: str = "shared") -> Mapping[str, Measured]:
        """The compositions of a cell; of all tasks together for `MEAN`."""
        return self.cells.get((task, pem, initialisation), {})

    def sweep(
        self, task: str, pem: str, initialisation: str = "shared"
    ) -> tuple[str, Mapping[float, Measured]]:
        """The part of the rows that was swept (test if it was) and the metric for each weight."""
        for part in ("test", "validation"):
            found = self.sweeps.get(((task, pem, initialisation), part))
            if found:
                return part, found
        return "", {}


def measure(run: Run) -> Measures:
    """Measure all records of a run."""
    grouped: dict[Place, dict[str, list[Record]]] = {}
    swept: dict[tuple[Place, str], dict[float, list[Record]]] = {}
    for record in run.records:
        place = (record.task, record.pem, record.initialisation)
        if record.composition != "sweep" and record.part == "test":
            grouped.setdefault(place, {}).setdefault(record.composition, []).append(record)
        elif record.composition == "sweep" and len(record.weights) == 1:
            weight = next(iter(record.weights.values()))
            swept.setdefault((place, record.part), {}).setdefault(weight, []).append(record)
    cells = {place: _measured(run, place[0], "test", named) for place, named in grouped.items()}
    sweeps = {
        (place, part): dict(sorted(_measured(run, place[0], part, by_weight).items()))
        for (place, part), by_weight in swept.items()
    }
    if len(run.tasks) > 1:
        cells |= _over_tasks(run, cells)
        for part in ("test", "validation"):
            of_part = {place: found for (place, p), found in sweeps.items() if p == part}
            sweeps |= {(place, part): found for place, found in _over_tasks(run, of_part).items()}
    return Measures(cells, sweeps)


def difference(one: Measured, other: Measured) -> Difference | None:
    """`one` − `other` over the seeds that both have; None if there are none."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    if not seeds:
        return None
    one, other = one.only(seeds), other.only(seeds)
    low, high = interval((one.replicates - other.replicates).mean(0))
    apart = one.values - other.values
    return Difference(
        float(apart.mean()), float(low), float(high), tuple(seeds), tuple(map(float, apart))
    )


def band(one: Measured) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds."""
    low, high = interval(one.replicates.mean(0))
    return float(low), float(high)


def average(several: Iterable[Measured]) -> Measured | None:
    """The mean over tasks, for the seeds that all have."""
    found = list(several)
    seeds = [seed for seed in found[0].seeds if all(seed in one.seeds for one in found)]
    if not seeds:
        return None
    found = [one.only(seeds) for one in found]
    values = np.mean([one.values for one in found], axis=0)
    return Measured(tuple(seeds), values, np.mean([one.replicates for one in found], axis=0))


def measured(
    metric_name: str,
    gold: Floats,
    named: Mapping[_Name, Sequence[tuple[int, Floats]]],
    drawn_for: str,
) -> dict[_Name, Measured]:
    """Of each name, which has a seed and predictions [n] per training, the metric against `gold` [n].

    All meet the same resamples, which depend on n and on the text `drawn_for` alone: two names, or
    two kinds of module, are compared row by row, and what is drawn for other texts is independent.
    """
    pairs = {name: sorted(each, key=lambda pair: pair[0]) for name, each in named.items()}
    guessed = np.array([predictions for each in pairs.values() for _, predictions in each])
    values = metric(metric_name)(gold, guessed)
    drawn = bootstrap(metric_name, gold, guessed, seed=crc32(drawn_for.encode()))
    found, start = {}, 0
    for name, each in pairs.items():
        rows = slice(start, start + len(each))
        found[name] = Measured(tuple(seed for seed, _ in each), values[rows], drawn[rows])
        start += len(each)
    return found


def _measured(
    run: Run, task: str, part: str, named: Mapping[_Name, list[Record]]
) -> dict[_Name, Measured]:
    """All compositions of a cell in the same resamples."""
    pairs = {
        name: [(record.seed, np.array(record.predictions)) for record in each]
        for name, each in named.items()
    }
    return measured(run.facts.tasks[task].metric, run.labels[task, part], pairs, f"{task} {part}")


def _over_tasks(
    run: Run, cells: Mapping[Place, Mapping[_Name, Measured]]
) -> dict[Place, dict[_Name, Measured]]:
    """The mean over all tasks, of compositions that every task has."""
    found: dict[Place, dict[_Name, Measured]] = {}
    for pem, initialisation in dict.fromkeys((place[1], place[2]) for place in cells):
        each = [cells.get((task, pem, initialisation), {}) for task in run.tasks]
        for name in each[0]:
            if all(name in one for one in each):
                together = average(one[name] for one in each)
                if together is not None:
                    found.setdefault((MEAN, pem, initialisation), {})[name] = together
    return found
