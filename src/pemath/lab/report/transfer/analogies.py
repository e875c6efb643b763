"""The claim of domain transfer: the analogy is better on the target than the source's classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pemath.lab.report import names
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.followed import Followed, Spot, follow
from pemath.lab.report.measure import Difference, Measured, difference
from pemath.lab.report.missing import missing_points
from pemath.lab.report.read import Run

SOURCE, TARGET = Spot("source"), Spot("target")
RULES = {
    "source labels": "held-out labels of the source",
    "target labels": "a few labels of the target",
}
"""How a weight was chosen, by the names in the records."""

PAPER = "paper"
_ROUNDING = 1e-9  # equal predictions may differ by this much


@dataclass(frozen=True)
class Analogy:
    """A curve at the weights that a rule chose, on the target's test rows of one direction: against
    the source's classifier, and how far the target's own is above that.
    """

    direction: str
    pem: str
    curve: str
    rule: str
    weights: tuple[float, ...]
    accuracy: Measured
    gain: Difference
    room: Difference | None

    @property
    def verdict(self) -> str:
        """Holds: better than the source alone by the interval. Fails: worse. Else a tie."""
        if self.gain.low > _ROUNDING:
            return HOLDS
        return FAILS if self.gain.high < -_ROUNDING else TIE

    @property
    def closed(self) -> float | None:
        """The share of the gap to the target's classifier that it closes, where there is a gap by
        its interval.
        """
        if self.room is None or self.room.low <= _ROUNDING:
            return None
        return self.gain.value / self.room.value


def directions(run: Run) -> list[str]:
    """The directions in the recipe's order, then any others that were measured."""
    found = run.facts.recipe.get("tasks") or []
    tasks = [one if isinstance(one, str) else one.get("name", "") for one in found]
    both = [f"{one} to {other}" for one in tasks for other in tasks if one != other]
    asked = [each.task for each in run.records if " to " in each.task]
    return list(dict.fromkeys([*both, *asked]))


def missing(run: Run) -> list[str]:
    """One line for each direction, kind of module and seed that lacks something."""
    fixed = (SOURCE.composition, TARGET.composition)
    return [
        line
        for direction in directions(run)
        for line in missing_points(run, [direction], fixed, f"{direction}, ")
    ]


def measured(run: Run, part: str = "test") -> dict[str, Followed]:
    """Every direction that was measured on a part of the rows."""
    found = {direction: follow(run, direction, part) for direction in directions(run)}
    return {direction: one for direction, one in found.items() if one.values}


def analogy(found: Followed, direction: str, pem: str, curve: str, rule: str) -> Analogy | None:
    """One curve under one rule; None where it or the source alone is missing."""
    spot = Spot(curve, chosen=rule)
    ours, source, target = (found.at(pem, each) for each in (spot, SOURCE, TARGET))
    gain = difference(ours, source) if ours and source else None
    if ours is None or source is None or gain is None:
        return None
    return Analogy(
        direction,
        pem,
        curve,
        rule,
        found.weights(pem, spot),
        ours.only(gain.seeds),
        gain,
        difference(target, source) if target else None,
    )


def analogies(
    run: Run, found: Mapping[str, Followed], curves: Iterable[str] | None = None
) -> list[Analogy]:
    """All of them, or those of some curves."""
    wanted = list(run.curves) if curves is None else list(curves)
    every = (
        analogy(one, direction, pem, curve, rule)
        for direction, one in found.items()
        for pem in run.pems
        for curve in wanted
        for rule in RULES
    )
    return [each for each in every if each is not None]


def is_repeated(each: Analogy, every: Iterable[Analogy]) -> bool:
    """Whether the paper's arithmetic has nothing of its own: of (IA)³ and full fine-tuning it is the
    exact sum, and gives the same answers.
    """
    return (
        each.curve == PAPER
        and each.pem != "lora"
        and any(
            (other.direction, other.pem, other.rule) == (each.direction, each.pem, each.rule)
            and (other.weights, other.gain) == (each.weights, each.gain)
            for other in every
            if other.curve != PAPER
        )
    )


def title(direction: str, pem: str) -> str:
    """A direction with a kind of module."""
    return f"{names.task(direction)}, {names.pem(pem)}"
