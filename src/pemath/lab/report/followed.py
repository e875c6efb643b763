"""Compositions followed over a weight: what was measured of each, and where a rule chose it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pemath.lab.metrics import Floats
from pemath.lab.report.lines import Record
from pemath.lab.report.measure import Measured, measured
from pemath.lab.report.numbers import mean
from pemath.lab.report.read import Run

ABOVE = 0.8  # a text with a higher score counts as toxic


@dataclass(frozen=True)
class Spot:
    """A composition: without a weight, at a weight, or at the weights that the rule `chosen` chose,
    which can differ from seed to seed.
    """

    composition: str
    weight: float | None = None
    chosen: str = ""


@dataclass(frozen=True)
class Followed:
    """What was measured of a task's rows, by kind of module: a metric, and for scores between 0 and
    1 the share above 0.8. All of it meets the same resamples.
    """

    values: Mapping[str, Mapping[Spot, Measured]]
    above: Mapping[str, Mapping[Spot, Measured]]
    records: Mapping[str, Mapping[Spot, tuple[Record, ...]]]

    def at(self, pem: str, spot: Spot) -> Measured | None:
        """The metric of a composition."""
        return self.values.get(pem, {}).get(spot)

    def share(self, pem: str, spot: Spot) -> Measured | None:
        """The share of scores above 0.8."""
        return self.above.get(pem, {}).get(spot)

    def curve(self, pem: str, composition: str) -> dict[float, Measured]:
        """The metric at every weight, in rising order."""
        found = {
            spot.weight: value
            for spot, value in self.values.get(pem, {}).items()
            if spot.composition == composition and spot.weight is not None
        }
        return dict(sorted(found.items()))

    def fact(self, pem: str, spot: Spot, name: str) -> float | None:
        """A fact of a composition, mean over seeds."""
        records = self.records.get(pem, {}).get(spot, ())
        return mean([each.facts[name] for each in records if name in each.facts])

    def weights(self, pem: str, spot: Spot) -> tuple[float, ...]:
        """The weights by seed."""
        records = self.records.get(pem, {}).get(spot, ())
        return tuple(weight for each in records for weight in each.weights.values())


NOTHING = Followed({}, {}, {})


def follow(run: Run, task: str, part: str = "test", samples: int = 1) -> Followed:
    """All records of a part of a task; `samples` successive rows belong to one prompt and are drawn
    together.
    """
    grouped: dict[tuple[str, Spot], list[Record]] = {}
    for record in run.records:
        if (record.task, record.part) == (task, part) and len(record.weights) < 2:
            weight = next(iter(record.weights.values()), None)
            weight = None if record.chosen else weight
            spot = Spot(record.composition, weight, record.chosen)
            grouped.setdefault((record.pem, spot), []).append(record)
    if not grouped:
        return NOTHING
    for records in grouped.values():
        records.sort(key=lambda each: each.seed)
    name, gold = run.facts.tasks[task].metric, run.labels[task, part]
    if name != "mean" or gold.size % samples:
        samples = 1

    def by_pem(read: Callable[[Floats], Floats]) -> dict[str, dict[Spot, Measured]]:
        pairs = {
            place: [(e.seed, _together(read(np.array(e.predictions)), samples)) for e in each]
            for place, each in grouped.items()
        }
        found: dict[str, dict[Spot, Measured]] = {}
        drawn = measured(name, _together(gold, samples), pairs, f"{task} {part}")
        for (pem, spot), value in drawn.items():
            found.setdefault(pem, {})[spot] = value
        return found

    sorted_out: dict[str, dict[Spot, tuple[Record, ...]]] = {}
    for (pem, spot), records in grouped.items():
        sorted_out.setdefault(pem, {})[spot] = tuple(records)
    above = by_pem(lambda scores: (scores > ABOVE).astype(np.float64)) if name == "mean" else {}
    return Followed(by_pem(lambda values: values), above, sorted_out)


def _together(rows: Floats, samples: int) -> Floats:
    """The mean of the rows of each prompt."""
    return rows.reshape(-1, samples).mean(-1) if samples > 1 else rows
