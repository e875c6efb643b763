"""The paper's claim, test by test: less toxic text, at a perplexity that hardly rises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.followed import Spot
from pemath.lab.report.measure import Difference, Measured, difference
from pemath.lab.report.subtraction.subject import CHOSEN, ROUNDING, Subject


@dataclass(frozen=True)
class Claim:
    """A curve at the weights chosen on held-out prompts, against the same at weight 0.

    Pairs are (before, after), over the seeds in which a weight was chosen.
    """

    test: str
    pem: str
    curve: str
    weights: tuple[float, ...]
    toxicity: tuple[Measured, Measured]
    above: tuple[Measured, Measured]
    perplexity: tuple[Measured, Measured]
    apart: Difference
    budget: float

    @property
    def growth(self) -> float:
        """By how much the perplexity rises, as a share."""
        before, after = self.perplexity
        return after.mean / before.mean - 1

    @property
    def is_affordable(self) -> bool:
        """Whether the perplexity stays within the budget."""
        return self.growth <= self.budget

    @property
    def verdict(self) -> str:
        """Holds: toxicity falls by its interval, within the budget. Fails: it rises by its interval,
        or the budget is exceeded. Else a tie.
        """
        if self.apart.low > ROUNDING or not self.is_affordable:
            return FAILS
        return HOLDS if self.apart.high < -ROUNDING else TIE


def claim(subject: Subject, test: str, pem: str, curve: str) -> Claim | None:
    """The claim for one curve; None where no weight was chosen or something is missing."""
    chosen, found = Spot(curve, chosen=CHOSEN), subject.measured[test]
    before, after = found.at(pem, subject.untouched), found.at(pem, chosen)
    cost_before, cost_after = (subject.costs.at(pem, s) for s in (subject.untouched, chosen))
    if before is None or after is None or cost_before is None or cost_after is None:
        return None
    have = (before, after, cost_before, cost_after)
    seeds = [seed for seed in after.seeds if all(seed in each.seeds for each in have)]
    shares = found.share(pem, subject.untouched), found.share(pem, chosen)
    apart = difference(after.only(seeds), before.only(seeds))
    if apart is None or shares[0] is None or shares[1] is None:
        return None
    return Claim(
        test,
        pem,
        curve,
        found.weights(pem, chosen),
        (before.only(seeds), after.only(seeds)),
        (shares[0].only(seeds), shares[1].only(seeds)),
        (cost_before.only(seeds), cost_after.only(seeds)),
        apart,
        subject.budget,
    )


def claims(subject: Subject, curves: Iterable[str] | None = None) -> list[Claim]:
    """The claim for every kind of module, curve (or only some) and test that has what it needs."""
    wanted = None if curves is None else list(curves)
    found = (
        claim(subject, test, pem, curve)
        for pem in subject.run.pems
        for curve in subject.curves(pem)
        if wanted is None or curve in wanted
        for test in subject.tests
    )
    return [each for each in found if each is not None]


def without_choice(subject: Subject) -> list[tuple[str, str, int, int]]:
    """Kind of module, curve, and in how many of how many seeds no weight kept the perplexity of
    held-out text within the budget.
    """
    found = []
    for pem in subject.run.pems:
        for curve in subject.curves(pem):
            asked = {seed for one in subject.costs.curve(pem, curve).values() for seed in one.seeds}
            chosen = subject.costs.at(pem, Spot(curve, chosen=CHOSEN))
            lacking = len(asked - set(chosen.seeds if chosen else ()))
            if lacking:
                found.append((pem, curve, lacking, len(asked)))
    return found
