"""The numbers of domain transfer as CSV: every analogy against the source alone."""

from __future__ import annotations

from collections.abc import Sequence

from pemath.lab.report.sheets import rounded, sheet
from pemath.lab.report.transfer.analogies import Analogy

_CLAIMS = (
    "task",
    "pem",
    "curve",
    "chosen",
    "weights",
    "seeds",
    "accuracy",
    "minus_source",
    "minus_source_low",
    "minus_source_high",
    "target_minus_source",
    "target_minus_source_low",
    "target_minus_source_high",
    "verdict",
)


def claims_sheet(found: Sequence[Analogy]) -> str:
    """One line per direction, kind of module, curve and rule: means over seeds, paired intervals."""
    lines = []
    for each in found:
        room = each.room
        lines.append(
            (
                each.direction,
                each.pem,
                each.curve,
                each.rule,
                " ".join(map(repr, each.weights)),
                len(each.gain.seeds),
                *rounded(each.accuracy.mean, each.gain.value, each.gain.low, each.gain.high),
                *(rounded(room.value, room.low, room.high) if room else [None] * 3),
                each.verdict,
            )
        )
    return sheet(_CLAIMS, lines)
