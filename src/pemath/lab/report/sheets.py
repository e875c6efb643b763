"""The numbers as CSV: every evaluated composition, and every cell of the claim."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from pemath.lab.report.claims import claims
from pemath.lab.report.followed import Followed
from pemath.lab.report.measure import Measured, Measures, band
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

_CURVES = (
    "task",
    "pem",
    "composition",
    "weight",
    "chosen",
    "seeds",
    "value",
    "low",
    "high",
    "above",
    "above_low",
    "above_high",
)


def results_sheet(run: Run) -> str:
    """One line per evaluated composition; metrics as they are, not in points. Facts of texts and
    rules that chose a weight have columns where there are any.
    """
    facts = list(dict.fromkeys(name for each in run.records for name in each.facts))
    rules = ["chosen"] if any(each.chosen for each in run.records) else []
    return sheet(
        [*_RESULTS, *rules, *facts],
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
                *(each.chosen for _ in rules),
                *(each.facts.get(name) for name in facts),
            )
            for each in run.records
        ),
    )


def curves_sheet(run: Run, measured: Mapping[str, Followed]) -> str:
    """One line per measure, kind of module, composition and weight, test rows: the mean over seeds
    and its 95 % interval; of scores the same of the share above 0.8.
    """
    lines = []
    for task, followed in measured.items():
        for pem, found in followed.values.items():
            for spot, value in found.items():
                place = (task, pem, spot.composition, spot.weight, spot.chosen)
                above = followed.share(pem, spot)
                shares = _with_band(above) if above else [""] * 3
                lines.append((*place, len(value.seeds), *_with_band(value), *shares))
    return sheet(_CURVES, lines)


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
                    *rounded(each.parts["a"].mean, each.parts["b"].mean, each.merged.mean),
                    *rounded(a.value, a.low, a.high, b.value, b.low, b.high),
                    each.wins,
                    each.verdict,
                )
            )
    return sheet(_CLAIMS, lines)


def _with_band(one: Measured) -> list[float]:
    return rounded(one.mean, *band(one))


def rounded(*values: float) -> list[float]:
    """Numbers with as many digits as are worth storing."""
    return [round(value, 6) for value in values]


def sheet(titles: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """CSV text; None is an empty cell."""
    written = StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(["" if cell is None else cell for cell in line] for line in lines)
    return written.getvalue()
