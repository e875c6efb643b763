"""The tables of results: the paper's, the claim's, and what arithmetic and initialisation cost."""

from __future__ import annotations

from collections.abc import Mapping

from pemath.lab.report import names, numbers
from pemath.lab.report.blocks import DOWN, MISSING, UP, Column, Entry, Group, Table, columns, row
from pemath.lab.report.causes import mean_cosine
from pemath.lab.report.claims import FAILS, HOLDS, TIE, Claim, claim, claims, count, judged_tasks
from pemath.lab.report.measure import MEAN, PARTS, Measured, Measures, difference
from pemath.lab.report.read import Run

_TONES = {HOLDS: "good", FAILS: "bad", TIE: "faint"}
_MARKS = {HOLDS: UP, FAILS: DOWN, TIE: ""}


def task_columns(run: Run) -> list[str]:
    """The tasks, and their mean if there are several."""
    return [*run.tasks, *([MEAN] if len(run.tasks) > 1 else [])]


def merges(run: Run) -> list[str]:
    """The recipe's compositions, and the best weight if there was a sweep."""
    return [*run.merges, *(["best"] if run.swept else [])]


def paper_table(run: Run, measures: Measures) -> Table:
    """Rows: parts, merges, everything; columns: tasks."""
    tasks = task_columns(run)
    groups = []
    for pem in run.pems:
        cells = {task: measures.cell(task, pem) for task in tasks}
        order = [*PARTS, *merges(run), "all"]
        rows = []
        for name in order:
            if any(name in cell for cell in cells.values()):
                label = Entry(names.composition(run, name))
                line = []
                for task in tasks:
                    judge = name in merges(run) and (task == MEAN or task in judged_tasks(run))
                    judged = claim(measures, task, pem, name) if judge else None
                    line.append(_result(cells[task], name, order, judged))
                rows.append((label, *line))
        groups.append(Group(names.pem(pem), tuple(rows)))
    metrics = [Column(names.task(task), names.metric(run, task)) for task in tasks]
    seeds = len(run.seeds)
    return Table(
        "results",
        "Results on the test rows, in points"
        + (f": mean ± standard deviation over {seeds} seeds" if seeds > 1 else " (one seed)"),
        (Column(""), *metrics),
        tuple(groups),
        f"{UP} better than both parts, {DOWN} worse than at least one (both by the paired 95 % "
        "bootstrap interval). Bold: the best of a column without the module trained on everything. "
        "Correlations are multiplied by 100.",
    )


def _result(
    cell: Mapping[str, Measured], name: str, order: list[str], judged: Claim | None
) -> Entry:
    if name not in cell:
        return Entry(MISSING, tone="faint")
    rivals = [cell[each].mean for each in order if each != "all" and each in cell]
    strong = name != "all" and numbers.points(cell[name].mean) == numbers.points(max(rivals))
    mark = _MARKS[judged.verdict] if judged else ""
    return Entry(numbers.spread(cell[name]), mark, "strong" if strong else "")


def claim_table(run: Run, found: list[Claim]) -> Table:
    """One row per cell: the merge against both of its parts."""
    groups = []
    for pem in run.pems:
        rows = [_claim_row(each) for each in found if each.pem == pem]
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    return Table(
        "claim",
        f"The claim, cell by cell: `{found[0].merge}` against its parts" if found else "The claim",
        columns(
            "",
            "a",
            "b",
            "merge",
            "merge − better part",
            "merge − other part",
            "seeds won",
            "verdict",
            text=("verdict",),
        ),
        tuple(groups),
        "The better part is the one with the higher mean on the test rows themselves, which favours "
        "the part. In brackets: the paired 95 % bootstrap interval of the difference. Seeds won: "
        "those in which the merge beats both parts.",
    )


def _claim_row(each: Claim) -> tuple[Entry, ...]:
    other = next(part for part in PARTS if part != each.best)
    return row(
        names.task(each.task),
        numbers.spread(each.parts["a"]),
        numbers.spread(each.parts["b"]),
        numbers.spread(each.merged),
        numbers.bounded(each.lead),
        numbers.bounded(each.apart[other]),
        f"{each.wins} of {len(each.merged.seeds)}",
        Entry(each.verdict, _MARKS[each.verdict], _TONES[each.verdict]),
    )


def count_table(run: Run, measures: Measures) -> Table:
    """In how many cells each merge beats both of its parts."""
    rows = []
    for merge in merges(run):
        found = claims(run, measures, merge)
        if not found:
            continue
        verdicts = count(found)
        leads = sum(each.lead.value > 0 for each in found)
        by_pem = [
            f"{count(mine)[HOLDS]} of {len(mine)}" if mine else MISSING
            for pem in run.pems
            for mine in [[each for each in found if each.pem == pem]]
        ]
        rows.append(
            row(
                names.composition(run, merge),
                f"{verdicts[HOLDS]} of {len(found)}",
                str(verdicts[TIE]),
                str(verdicts[FAILS]),
                f"{leads} of {len(found)}",
                *by_pem,
            )
        )
    titles = ("", "holds", "tie", "fails", "mean leads")
    return Table(
        "count",
        f"In how many cells ({judged_on(run)}) the claim holds, for each merge",
        columns(*titles, *(f"{names.pem(pem)}: holds" for pem in run.pems)),
        (Group("", tuple(rows)),),
        "Mean leads: the merge's mean is above the better part's, whatever the interval. The "
        "intervals are not corrected for looking at several cells.",
    )


def cost_table(run: Run, measures: Measures) -> Table:
    """Every merge under every initialisation, against the first merge under the shared one."""
    tasks = task_columns(run)
    groups = []
    for pem in run.pems:
        rows = []
        for initialisation in run.initialisations:
            for merge in run.merges:
                cells = {task: measures.cell(task, pem, initialisation) for task in tasks}
                if any(merge in cell for cell in cells.values()):
                    rows.append(
                        _cost_row(
                            run, measures, pem=pem, initialisation=initialisation, merge=merge
                        )
                    )
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    reference = next(iter(run.merges), "")
    return Table(
        "cost",
        "What initialisation and arithmetic cost: difference to "
        f"`{reference}` under shared initialisation, in points",
        (
            Column(""),
            *(
                Column(names.task(task), "95 % interval" if task == tasks[-1] else "")
                for task in tasks
            ),
            Column("own parts", "mean − better part"),
            Column("error", "to the exact sum"),
            Column("cosine", "of a and b"),
        ),
        tuple(groups),
        "Error: relative distance of the merged change to the exact weighted sum, from the "
        "certificate, mean over tasks and seeds. Cosine: between the changes that a and b make, mean "
        "over sites, tasks and seeds. Own parts: the merge against the better part that has the same "
        "initialisation, mean over tasks.",
    )


def _cost_row(
    run: Run, measures: Measures, *, pem: str, initialisation: str, merge: str
) -> tuple[Entry, ...]:
    tasks = task_columns(run)
    reference = next(iter(run.merges))
    is_reference = (merge, initialisation) == (reference, "shared")
    entries = []
    for task in tasks:
        cell, base = measures.cell(task, pem, initialisation), measures.cell(task, pem)
        apart = None
        if merge in cell and reference in base:
            apart = difference(cell[merge], base[reference])
        if is_reference or apart is None:
            entries.append(Entry("0" if is_reference else MISSING, tone="faint"))
        elif task == tasks[-1]:
            tone = "bad" if apart.high < 0 else "good" if apart.low > 0 else ""
            entries.append(Entry(numbers.bounded(apart), tone=tone))
        else:
            entries.append(Entry(numbers.signed(apart.value)))
    own = claim(measures, tasks[-1], pem, merge, initialisation)
    errors = [
        record.error_to_exact
        for record in run.records
        if (record.pem, record.initialisation, record.composition) == (pem, initialisation, merge)
        and record.error_to_exact is not None
    ]
    error = numbers.mean(errors)
    return row(
        f"{initialisation}, {merge}",
        *entries,
        numbers.signed(own.lead.value) if own else MISSING,
        _error(error),
        numbers.plain(mean_cosine(run, None, pem, initialisation)),
    )


def _error(error: float | None) -> str:
    if error is None or error >= 5e-4:
        return numbers.share(error, 1)
    return "0" if error < 5e-6 else "< 0.1 %"


def own_task_table(run: Run, measures: Measures) -> Table:
    """Multi-tasking: what each merge keeps of each task's own module."""
    groups = []
    for pem in run.pems:
        rows = []
        for merge in merges(run):
            entries = []
            for position, task in enumerate(run.tasks):
                cell, own = measures.cell(task, pem), PARTS[position]
                apart = None
                if merge in cell and own in cell:
                    apart = difference(cell[merge], cell[own])
                tone = "bad" if apart and apart.high < 0 else ""
                tone = "good" if apart and apart.low > 0 else tone
                entries.append(Entry(numbers.bounded(apart), tone=tone))
            rows.append(row(names.composition(run, merge), *entries))
        groups.append(Group(names.pem(pem), tuple(rows)))
    titles = [f"{names.task(task)}: merge − {PARTS[at]}" for at, task in enumerate(run.tasks)]
    return Table(
        "own-task",
        "What a merge keeps of each task's own module, in points",
        columns("", *titles),
        tuple(groups),
        "A value of 0 means: as good as the module that was trained on this very task.",
    )


def is_pair(run: Run) -> bool:
    """Whether this is multi-tasking with a module for each of two tasks."""
    return run.facts.experiment == "multitask" and len(run.tasks) == len(PARTS)


def judged_on(run: Run) -> str:
    """What one cell of the count is."""
    return (
        "kind of module, mean over tasks"
        if judged_tasks(run) == [MEAN]
        else "task × kind of module"
    )
