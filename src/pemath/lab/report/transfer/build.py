"""The page of domain transfer: what is said, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pemath.lab.report import facts, names, numbers
from pemath.lab.report.blocks import Report, Section
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.common import (
    material,
    present,
    provenance,
    subtitle,
    tiles,
    warnings,
)
from pemath.lab.report.followed import Followed
from pemath.lab.report.read import Run
from pemath.lab.report.sheets import curves_sheet, results_sheet
from pemath.lab.report.transfer import tables
from pemath.lab.report.transfer.analogies import (
    RULES,
    Analogy,
    analogies,
    measured,
    missing,
    title,
)
from pemath.lab.report.transfer.figure import accuracy_figure
from pemath.lab.report.transfer.sheets import claims_sheet

_QUESTION = (
    "A classifier was trained on reviews of one kind, and language models on the texts of two kinds. "
    "Their analogy is a classifier for the other kind that saw none of its labels: is it better there "
    "than the classifier as it is?"
)


def build(run: Run) -> Report:
    """The report of such a run."""
    found = measured(run)
    every = analogies(run, found)
    first = [each for each in every if each.curve == next(iter(run.curves), "")]
    sections = [
        _results(run, found, every),
        _weights(run, found),
        _inflation(run, found),
        material(facts.data_table(run), facts.measures_table(run), facts.training_table(run)),
        provenance(run),
    ]
    return Report(
        names.experiment(run),
        subtitle(run),
        _lead(run, first),
        tiles(run, (each.verdict for each in first), "cases"),
        warnings(run, missing(run)),
        tuple(section for section in sections if section is not None),
        {
            "results.csv": results_sheet(run),
            "curves.csv": curves_sheet(run, found),
            "claims.csv": claims_sheet(every),
        },
    )


def _lead(run: Run, found: Sequence[Analogy]) -> tuple[str, ...]:
    if not found:
        return (_QUESTION, "There is no direction yet for which everything was measured.")
    verdicts = Counter(each.verdict for each in found)
    unchanged = sum(set(each.weights) == {1.0} and each.verdict == TIE for each in found)
    answer = (
        f"With `{run.curves[found[0].curve]}` the analogy is better than the source's classifier, by "
        f"its 95 % interval, in {verdicts[HOLDS]} of {len(found)} cases (direction × kind of module × "
        "how w was chosen). "
        + (f"It is worse in {verdicts[FAILS]}. " if verdicts[FAILS] else "")
        + (f"In {verdicts[TIE]} the test rows cannot tell" if verdicts[TIE] else "")
        + (
            f", {unchanged} of them because the chosen weight is 1 in every seed, which adds nothing"
            if unchanged
            else ""
        )
        + ("." if verdicts[TIE] else "")
    )
    places = dict.fromkeys((each.direction, each.pem) for each in found)
    said = [
        _one_place([each for each in found if (each.direction, each.pem) == place])
        for place in places
    ]
    return (_QUESTION, answer.strip(), *said)


def _one_place(found: Sequence[Analogy]) -> str:
    room = found[0].room
    bound = f"; the target's own {numbers.bounded(room)}" if room else ""
    gains = "; ".join(
        f"w by {each.rule} ({numbers.weights(each.weights)}) {numbers.bounded(each.gain)}"
        for each in found
    )
    return (
        f"{title(found[0].direction, found[0].pem)}, in points above the source's: {gains}{bound}."
    )


def _results(run: Run, found: Mapping[str, Followed], every: Sequence[Analogy]) -> Section | None:
    table = tables.results_table(run, found, every)
    if table.is_empty:
        return None
    rules = "; ".join(f"{name}: by {meaning}" for name, meaning in RULES.items())
    text = (
        "The claim holds if the interval of analogy − source only lies above 0, fails if it lies "
        "below, and is a tie otherwise. The interval resamples test rows, the same for everything; it "
        "does not cover how training varies, which the deviation over seeds shows, and is not "
        "corrected for looking at several rows.",
        " ".join(f"`{name}` is `{text}`." for name, text in run.curves.items())
        + f" How w was chosen: {rules}.",
    )
    return Section("claim", "Is the analogy better?", text, (table,))


def _weights(run: Run, found: Mapping[str, Followed]) -> Section | None:
    figure = accuracy_figure(run, found)
    return None if figure is None else Section("weights", "The weight", (), (figure,))


def _inflation(run: Run, found: Mapping[str, Followed]) -> Section | None:
    blocks = present([tables.inflation_table(run, found)])
    return Section("inflation", "The paper's arithmetic", (), blocks) if blocks else None
