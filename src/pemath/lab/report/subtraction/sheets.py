"""The numbers of both experiments as CSV: every claim, and every curve against the first."""

from __future__ import annotations

from collections.abc import Sequence

from pemath.lab.report.sheets import rounded, sheet
from pemath.lab.report.subtraction.claims import Claim
from pemath.lab.report.subtraction.matched import Better

_CLAIMS = (
    "task",
    "pem",
    "curve",
    "weights",
    "seeds",
    "toxicity_before",
    "toxicity_after",
    "difference",
    "difference_low",
    "difference_high",
    "above_before",
    "above_after",
    "perplexity_before",
    "perplexity_after",
    "budget",
    "verdict",
)
_BETTER = (
    "task",
    "pem",
    "curve",
    "weight",
    "perplexity_low",
    "perplexity_high",
    "toxicity",
    "first_curve",
    "difference",
    "difference_low",
    "difference_high",
    "verdict",
)


def claims_sheet(found: Sequence[Claim]) -> str:
    """One line per claim: means over seeds, the paired difference and its 95 % interval."""
    return sheet(
        _CLAIMS,
        (
            (
                each.test,
                each.pem,
                each.curve,
                " ".join(map(repr, each.weights)),
                len(each.apart.seeds),
                *rounded(each.toxicity[0].mean, each.toxicity[1].mean),
                *rounded(each.apart.value, each.apart.low, each.apart.high),
                *rounded(each.above[0].mean, each.above[1].mean),
                *rounded(each.perplexity[0].mean, each.perplexity[1].mean),
                each.budget,
                each.verdict,
            )
            for each in found
        ),
    )


def better_sheet(found: Sequence[Better]) -> str:
    """One line per curve and weight, and one without a weight for the range that both reach."""
    lines: list[tuple[object, ...]] = []
    for each in found:
        place = (each.test, each.pem, each.curve)
        for point in each.points:
            apart = point.apart
            cost = rounded(point.perplexity) * 2
            first = None if point.reference is None else rounded(point.reference)[0]
            numbers = rounded(apart.value, apart.low, apart.high) if apart else [None] * 3
            lines.append(
                (*place, point.weight, *cost, *rounded(point.toxicity), first, *numbers, "")
            )
        if each.perplexities and each.apart:
            numbers = rounded(each.apart.value, each.apart.low, each.apart.high)
            ends = rounded(*each.perplexities)
            lines.append((*place, None, *ends, None, None, *numbers, each.verdict))
    return sheet(_BETTER, lines)
