"""The numbers as CSV: every evaluated composition, and every cell of the claim."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO

from pemath.lab.report.claims import claims
from pemath.lab.report.measure import Measures
from pemath.lab.report.read import Run
from pemath.lab.report.results import merges

_RESULTS = (
    "task",
    "pem",
    "initialisation",
    "seed",
    "composition",
    "expression",
    "weights",
    "part",
    "metric",
    "value",
    "rows",
    "error_to_exact",
    "seconds",
)
_CLAIMS = (
    "task",
    "pem",
    "merge",
    "seeds",
    "a",
    "b",
    "merged",
    "minus_a",
    "minus_a_low",
    "minus_a_high",
    "minus_b",
    "minus_b_low",
    "minus_b_high",
    "seeds_won",
    "verdict",
)


def results_sheet(run: Run) -> str:
    """One line per evaluated composition; metrics as they are, not in points."""
    return _sheet(
        _RESULTS,
        (
            (
                each.task,
                each.pem,
                each.initialisation,
                each.seed,
                each.composition,
                each.expression,
                " ".join(f"{name}={value!r}" for name, value in each.weights.items()),
                each.part,
                run.facts.tasks[each.task].metric,
                each.metric,
                len(each.predictions),
                each.error_to_exact,
                f"{each.seconds:.3f}",
            )
            for each in run.records
        ),
    )


def claims_sheet(run: Run, measures: Measures) -> str:
    """One line per cell and merge: means over seeds, differences, 95 % intervals, verdicts."""
    lines = []
    for merge in merges(run):
        for each in claims(run, measures, merge):
            a, b = each.apart["a"], each.apart["b"]
            lines.append(
                (
                    each.task,
                    each.pem,
                    merge,
                    len(each.merged.seeds),
                    *_rounded(each.parts["a"].mean, each.parts["b"].mean, each.merged.mean),
                    *_rounded(a.value, a.low, a.high, b.value, b.low, b.high),
                    each.wins,
                    each.verdict,
                )
            )
    return _sheet(_CLAIMS, lines)


def _rounded(*values: float) -> list[float]:
    return [round(value, 6) for value in values]


def _sheet(titles: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    written = StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(["" if cell is None else cell for cell in line] for line in lines)
    return written.getvalue()
