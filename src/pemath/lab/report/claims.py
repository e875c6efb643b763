"""The paper's claim, cell by cell: is a merge better than both of its parts?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pemath.lab.report.measure import MEAN, PARTS, Difference, Measured, Measures, difference
from pemath.lab.report.read import Run

HOLDS, TIE, FAILS = "holds", "tie", "fails"
_ROUNDING = 1e-9  # equal predictions may differ by this much


@dataclass(frozen=True)
class Claim:
    """A merge against its parts a and b, for a task (or `MEAN`) and a kind of module.

    `best` is the part with the higher mean over seeds on the test rows themselves: a choice that
    favours the part. `wins` counts the seeds in which the merge beats both parts.
    """

    task: str
    pem: str
    merge: str
    merged: Measured
    parts: Mapping[str, Measured]
    apart: Mapping[str, Difference]
    best: str
    wins: int

    @property
    def lead(self) -> Difference:
        """The merge minus the best part."""
        return self.apart[self.best]

    @property
    def verdict(self) -> str:
        """Holds: both intervals lie above 0. Fails: one lies below. Else a tie."""
        if all(each.low > _ROUNDING for each in self.apart.values()):
            return HOLDS
        if any(each.high < -_ROUNDING for each in self.apart.values()):
            return FAILS
        return TIE


def judged_tasks(run: Run) -> list[str]:
    """What the claim is judged on: each task, or in multi-tasking all tasks together."""
    return [MEAN] if run.facts.experiment == "multitask" and len(run.tasks) > 1 else run.tasks


def claim(
    measures: Measures, task: str, pem: str, merge: str, initialisation: str = "shared"
) -> Claim | None:
    """The claim for one cell; None where something that it needs is missing."""
    cell = measures.cell(task, pem, initialisation)
    if merge not in cell or not all(part in cell for part in PARTS):
        return None
    seeds = [seed for seed in cell[merge].seeds if all(seed in cell[p].seeds for p in PARTS)]
    if not seeds:
        return None
    merged = cell[merge].only(seeds)
    parts = {part: cell[part].only(seeds) for part in PARTS}
    apart = {part: found for part in PARTS if (found := difference(merged, parts[part]))}
    best = max(PARTS, key=lambda part: parts[part].mean)
    wins = sum(
        all(apart[part].per_seed[row] > _ROUNDING for part in PARTS) for row in range(len(seeds))
    )
    return Claim(task, pem, merge, merged, parts, apart, best, wins)


def claims(run: Run, measures: Measures, merge: str) -> list[Claim]:
    """The claim for every cell that has what it needs, under shared initialisation."""
    found = (claim(measures, t, pem, merge) for pem in run.pems for t in judged_tasks(run))
    return [each for each in found if each is not None]


def count(found: Iterable[Claim]) -> Counter[str]:
    """How many cells have each verdict."""
    return Counter(each.verdict for each in found)


def headline_merge(run: Run) -> str | None:
    """The composition that the headline counts: the first of the recipe, fixed before the run."""
    names = list(run.merges)
    return names[0] if names else None
