"""The page of distribution generalisation and of multi-tasking: is a merge better than its parts?"""

from __future__ import annotations

from collections import Counter

from pemath.lab.report import facts, names, numbers, results
from pemath.lab.report.blocks import (
    Entry,
    Group,
    Report,
    Section,
    Table,
    columns,
    row,
)
from pemath.lab.report.causes import causes, summary
from pemath.lab.report.claims import FAILS, HOLDS, TIE, Claim, claims, count, headline_merge
from pemath.lab.report.common import (
    material,
    present,
    provenance,
    subtitle,
    tiles,
    warnings,
)
from pemath.lab.report.curves import weights_figure
from pemath.lab.report.forest import claim_figure
from pemath.lab.report.heatmap import interference_figure
from pemath.lab.report.measure import Measures, measure
from pemath.lab.report.missing import missing
from pemath.lab.report.read import Run
from pemath.lab.report.sheets import claims_sheet, results_sheet

_MOST_LAYERS = 12  # more do not fit on a page; the picture shows them


def build(run: Run) -> Report:
    """The report of such a run."""
    measures = measure(run)
    merge = headline_merge(run)
    found = claims(run, measures, merge) if merge else []
    return Report(
        names.experiment(run),
        subtitle(run),
        _lead(run, measures, found),
        tiles(run, (each.verdict for each in found), "cells"),
        warnings(run, missing(run)),
        tuple(
            section
            for section in (
                _claim(run, measures, found),
                _results(run, measures),
                _why(run, measures, found),
                _costs(run, measures),
                _weights(run, measures),
                _interference(run),
                material(facts.data_table(run), facts.training_table(run)),
                provenance(run),
            )
            if section is not None
        ),
        {"results.csv": results_sheet(run), "claims.csv": claims_sheet(run, measures)},
    )


def _lead(run: Run, measures: Measures, found: list[Claim]) -> tuple[str, ...]:
    if run.facts.experiment == "multitask":
        question = (
            "One module was trained on each task. Their weighted sum is one module for both: does it "
            "do both tasks better, on average, than either of its parts?"
        )
    else:
        question = (
            "Each task's training rows were divided into two halves with opposite label skew, and a "
            "module was trained on each. Arithmetic makes one module of the two: on rows that follow "
            "the whole distribution, is it better than both of its parts?"
        )
    if not found:
        return (
            question,
            "There is no cell yet in which a merge and both of its parts are complete.",
        )
    verdicts, merge = count(found), found[0].merge
    leads = sum(each.lead.value > 0 for each in found)
    answer = (
        f"With `{run.merges.get(merge, merge)}` the merge is better than both parts, by their 95 % "
        f"intervals, in {verdicts[HOLDS]} of {len(found)} cells ({results.judged_on(run)}). "
        + (f"It is worse than at least one part in {verdicts[FAILS]}. " if verdicts[FAILS] else "")
        + (f"In {verdicts[TIE]} the test rows cannot tell. " if verdicts[TIE] else "")
        + f"Its mean is above the better part's in {leads} of {len(found)}."
    )
    return question, answer


def _claim(run: Run, measures: Measures, found: list[Claim]) -> Section | None:
    if not found:
        return None
    blocks = [
        claim_figure(run, found),
        results.count_table(run, measures),
        results.claim_table(run, found),
    ]
    text = (
        "The claim holds in a cell if the intervals of merge − a and of merge − b both lie above 0, "
        "fails if one lies below 0, and is a tie otherwise. The interval resamples test rows, the "
        "same for all compositions and seeds; it does not cover how training varies, which the "
        "standard deviation over seeds and the seeds won show.",
    )
    return Section("claim", "Does the merge beat its parts?", text, present(blocks))


def _results(run: Run, measures: Measures) -> Section:
    blocks: list[Table | None] = [results.paper_table(run, measures)]
    if results.is_pair(run):
        blocks.append(results.own_task_table(run, measures))
    listed = "; ".join(f"`{name}` is `{text}`" for name, text in run.merges.items())
    best = f"; best weight is `{run.swept}` at the weight that is best on validation rows"
    text = (
        f"Merges: {listed}{best if run.swept else ''}." if listed else "",
        "Trained on everything: on both halves together, for as many steps as the modules of the "
        "halves."
        if _same_steps(run)
        else "",
    )
    return Section("results", "Results", text, present(blocks))


def _same_steps(run: Run) -> bool:
    """Whether the modules trained on everything took as many steps as their halves."""
    steps = {(e.task, e.pem, e.seed, e.part): e.steps for e in run.modules}
    whole = {place[:3]: count for place, count in steps.items() if place[3] == "all"}
    return bool(whole) and all(steps.get((*place, "a")) == n for place, n in whole.items())


def _why(run: Run, measures: Measures, found: list[Claim]) -> Section | None:
    if not found:
        return None
    rows: list[tuple[Entry, ...]] = []
    by_cause: dict[str, list[str]] = {}
    for each in found:
        if each.verdict == HOLDS:
            continue
        said = causes(run, measures, each)
        for cause in said:
            by_cause.setdefault(cause.name, []).append(each.task)
        text = "\n".join(f"{cause.name.capitalize()}: {cause.text}." for cause in said)
        rows.append(
            row(
                f"{names.task(each.task)}, {names.pem(each.pem)}",
                Entry(each.verdict, tone="bad" if each.verdict == FAILS else "faint"),
                numbers.bounded(each.lead),
                Entry(text or "None of the causes that are looked for stands out."),
            )
        )
    verdicts = dict(Counter(each.verdict for each in found))
    text = "The claim holds in every cell." if not rows else summary(by_cause, verdicts)
    note = (
        "Causes are found by fixed rules on the numbers below, the same for every cell: they say "
        "what goes together, not what would help."
    )
    reasons = Table(
        "causes",
        "Where the claim does not hold, and what the numbers say",
        columns("", "verdict", "merge − better part", "why", text=("verdict", "why")),
        (Group("", tuple(rows)),),
    )
    return Section(
        "why",
        "Where it does not hold" if rows else "Behind the verdicts",
        (text, note) if rows else (text,),
        present([reasons, facts.numbers_table(run, found)]),
    )


def _costs(run: Run, measures: Measures) -> Section | None:
    table = results.cost_table(run, measures)
    text = (
        "Two LoRAs that start from different random values hold their changes in unrelated "
        "coordinates: adding factors then mixes them (cross terms), adding the changes themselves "
        "does not.",
    )
    title = "What initialisation and arithmetic cost"
    return None if table.is_empty else Section("cost", title, text, (table,))


def _weights(run: Run, measures: Measures) -> Section | None:
    figure = weights_figure(run, measures)
    return None if figure is None else Section("weights", "The weight", (), (figure,))


def _interference(run: Run) -> Section | None:
    figure = interference_figure(run)
    if figure is None:
        return None
    table = facts.layer_table(run)
    fits = len(table.columns) - 1 <= _MOST_LAYERS
    return Section("interference", "Interference", (), present([figure, table if fits else None]))
