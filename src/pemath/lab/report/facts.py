"""The tables of facts: the data, the halves, the training, and the numbers behind each cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pemath.lab.report import names, numbers
from pemath.lab.report.blocks import (
    MISSING,
    Column,
    Entry,
    Group,
    Table,
    columns,
    row,
    without_empty_columns,
)
from pemath.lab.report.causes import Numbers, numbers_of
from pemath.lab.report.claims import Claim
from pemath.lab.report.lines import Training
from pemath.lab.report.read import Run

_MEANINGS = {
    "label 0 in a / b": "Label 0 in a / b: its share in the two halves.",
    "answered by a / b / merge": "Answered: the share of test rows to which label 0 is given.",
    "true": "True: its share among them.",
    "one answer": "One answer: the best metric of a constant answer.",
    "loss": "Loss: mean over the training of a and b.",
    "best weights": "Best weights: chosen on validation rows, by seed.",
    "cosine": "Cosine: of the changes that a and b make, mean over sites and seeds.",
}


_PARTS = ("a", "b", "all")
_SIZE_AND_TIME = ("parameters trained", "time each", "modules")
_ROLES = {
    "source": "classifier",
    "target": "classifier",
    "source_lm": "language model",
    "target_lm": "language model",
}


def data_table(run: Run) -> Table:
    """Where rows come from, how many there are, and how halves were skewed."""
    rows = [_data_row(run, name) for name, facts in run.facts.tasks.items() if facts.digest]
    table = Table(
        "data",
        "Data",
        (
            Column(""),
            Column("metric", text=True),
            Column("train"),
            Column("validation"),
            Column("test"),
            Column("label 0", text=True),
            Column("share in a"),
            Column("share in b"),
            Column("source", text=True),
            Column("sha256", "of all rows", text=True),
        ),
        (Group("", tuple(rows)),),
        "Train: rows available; the recipe says how many of them each module saw."
        + (
            " Weights were chosen on validation rows, which come out of the training rows."
            if any(facts.validation_rows for facts in run.facts.tasks.values())
            else ""
        ),
    )
    return without_empty_columns(table)


def _data_row(run: Run, name: str) -> tuple[Entry, ...]:
    facts = run.facts.tasks[name]
    skew = (MISSING,) * 2
    if facts.share0 is not None:
        skew = (numbers.share(facts.share0[0]), numbers.share(facts.share0[1]))
    first = "below the median"
    if facts.labels or facts.metric == "mean":
        first = f"“{facts.labels[0]}”" if facts.labels else MISSING
    return row(
        name if facts.metric == "mean" else names.task(name),
        MISSING if facts.metric == "mean" else names.metric(run, name),
        *(
            f"{count:,}" if count else MISSING
            for count in (facts.train_rows, facts.validation_rows, facts.test_rows)
        ),
        first,
        *skew,
        Entry(facts.source),
        Entry(facts.digest[:12], tone="faint"),
    )


def measures_table(run: Run) -> Table:
    """What was measured of every composition, beside tasks with data of their own."""
    rows = []
    for name, facts in run.facts.tasks.items():
        parts = {part: gold.size for (task, part), gold in run.labels.items() if task == name}
        if not facts.digest and parts:
            listed = ", ".join(f"{part} {size:,}" for part, size in parts.items())
            rows.append(row(name, names.metric(run, name), listed, facts.source))
    return Table(
        "measures",
        "What was measured",
        columns("", "metric", "rows", "what", text=("metric", "rows", "what")),
        (Group("", tuple(rows)),),
    )


def training_table(run: Run) -> Table:
    """Steps, loss and time of the modules, mean over seeds."""
    if any(each.part not in _PARTS for each in run.modules):
        return _modules_table(run)
    groups = []
    for pem in run.pems:
        rows = []
        for task in dict.fromkeys(each.task for each in run.modules):
            mine = [each for each in run.modules if (each.task, each.pem) == (task, pem)]
            if not mine:
                continue
            losses = [
                _loss([e for e in mine if (e.part, e.initialisation) == (part, "shared")])
                for part in _PARTS
            ]
            rows.append(
                row(
                    names.task(task),
                    _range([each.rows for each in mine if each.part != "all"]),
                    _range([each.rows for each in mine if each.part == "all"]),
                    _range([each.steps for each in mine]),
                    *losses,
                    *_size_and_time(mine),
                )
            )
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    return Table(
        "training",
        "Training, mean over seeds",
        columns(
            "",
            "rows of a part",
            "rows of all",
            "steps",
            "loss a",
            "loss b",
            "loss all",
            *_SIZE_AND_TIME,
        ),
        tuple(groups),
        "Loss: mean over the last tenth of the training steps.",
    )


def _modules_table(run: Run) -> Table:
    """The same where a module is trained on each of several texts or tasks: one row for each."""
    groups = []
    for pem in run.pems:
        mine: dict[tuple[str, str], dict[int, Training]] = {}
        for each in run.modules:
            if each.pem == pem:  # a module that two cells share stands there twice
                mine.setdefault((_ROLES.get(each.part, each.part), each.task), {})[each.seed] = each
        rows = [
            row(
                role,
                task,
                _range([each.rows for each in found.values()]),
                _range([each.steps for each in found.values()]),
                _loss(list(found.values())),
                *_size_and_time(list(found.values())),
            )
            for (role, task), found in mine.items()
        ]
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    return Table(
        "training",
        "Training, mean over seeds",
        columns("", "trained on", "rows", "steps", "loss", *_SIZE_AND_TIME, text=("trained on",)),
        tuple(groups),
        "Loss: mean over the last tenth of the training steps.",
    )


def _loss(modules: list[Training]) -> str:
    losses = [each.train_loss for each in modules if each.train_loss is not None]
    return numbers.plain(numbers.mean(losses), 3)


def _size_and_time(modules: list[Training]) -> tuple[str, ...]:
    return (
        f"{modules[0].trainable:,}",
        numbers.duration(float(np.mean([each.seconds for each in modules]))),
        str(len(modules)),
    )


def numbers_table(run: Run, found: list[Claim]) -> Table:
    """What may explain a cell's verdict, for all cells, so that causes can be compared."""
    known = [(each, numbers_of(run, each)) for each in found]
    groups = []
    for pem in run.pems:
        rows = [_numbers_row(claim, facts) for claim, facts in known if claim.pem == pem]
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    table = Table(
        "numbers",
        "Numbers behind the verdicts",
        (
            Column(""),
            Column("verdict", text=True),
            Column("label 0 in a / b"),
            Column("answered by a / b / merge"),
            Column("true"),
            Column("a, b agree"),
            Column("one answer", "metric"),
            Column("loss"),
            Column("best weights"),
            Column("cosine"),
        ),
        tuple(groups),
    )
    table = without_empty_columns(table)
    titles = [column.title for column in table.columns]
    return replace(table, note=" ".join(_MEANINGS[t] for t in titles if t in _MEANINGS))


def _numbers_row(claim: Claim, known: Numbers) -> tuple[Entry, ...]:
    def shares(values: tuple[float, ...] | None) -> str:
        return MISSING if values is None else " / ".join(map(numbers.share, values))

    return row(
        names.task(claim.task),
        Entry(claim.verdict),
        shares(known.skew),
        shares(known.said),
        numbers.share(known.gold),
        numbers.share(known.agreement),
        MISSING if known.constant is None else numbers.points(known.constant),
        numbers.plain(numbers.mean(known.losses)),
        ", ".join(map(numbers.weight, known.weights)) or MISSING,
        numbers.plain(known.cosine),
    )


def layer_table(run: Run) -> Table:
    """Mean cosine and cross-term error per layer, over tasks, sites and seeds."""
    layers = sorted({site.layer for site in run.sites if site.layer is not None})
    groups = []
    for pem in run.pems:
        for initialisation in run.initialisations:
            mine = [s for s in run.sites if (s.pem, s.initialisation) == (pem, initialisation)]
            if not mine or not layers:
                continue
            cosines, errors = [], []
            for layer in layers:
                here = [site for site in mine if site.layer == layer]
                cosines.append(
                    numbers.plain(numbers.mean([s.cosine for s in here if s.cosine is not None]))
                )
                errors.append(
                    numbers.share(
                        numbers.mean([s.paper_error for s in here if s.paper_error is not None]), 1
                    )
                )
            rows = [row("cosine", *cosines)]
            if any(text != MISSING for text in errors):
                rows.append(row("cross-term error", *errors))
            groups.append(Group(f"{names.pem(pem)}, {initialisation}", tuple(rows)))
    return Table(
        "layers",
        "Interference by layer, mean over tasks, sites and seeds",
        columns("", *(f"layer {layer}" for layer in layers)),
        tuple(groups),
        "Cross-term error: relative distance of the paper's factor-wise arithmetic, at equal "
        "weights, to the exact weighted sum.",
    )


def _range(values: list[int]) -> str:
    if not values:
        return MISSING
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
