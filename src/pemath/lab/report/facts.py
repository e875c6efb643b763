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


def data_table(run: Run) -> Table:
    """Where rows come from, how many there are, and how the halves were skewed."""
    rows = []
    for name, facts in run.facts.tasks.items():
        skew = (MISSING,) * 2
        if facts.share0 is not None:
            skew = (numbers.share(facts.share0[0]), numbers.share(facts.share0[1]))
        first = f"“{facts.labels[0]}”" if facts.labels else "below the median"
        rows.append(
            row(
                names.task(name),
                names.metric(run, name),
                f"{facts.train_rows:,}",
                f"{facts.validation_rows:,}",
                f"{facts.test_rows:,}",
                first,
                *skew,
                Entry(facts.source),
                Entry(facts.digest[:12], tone="faint"),
            )
        )
    return Table(
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
        "Train: rows available before halving; the recipe says how many of them each module saw. "
        "Weights were chosen on validation rows, which come out of the training rows.",
    )


def training_table(run: Run) -> Table:
    """Steps, loss and time of the modules, mean over seeds."""
    groups = []
    for pem in run.pems:
        rows = []
        for task in dict.fromkeys(each.task for each in run.modules):
            mine = [each for each in run.modules if (each.task, each.pem) == (task, pem)]
            if not mine:
                continue
            entries = []
            for part in ("a", "b", "all"):
                losses = [
                    each.train_loss
                    for each in mine
                    if (each.part, each.initialisation) == (part, "shared")
                    and each.train_loss is not None
                ]
                entries.append(numbers.plain(numbers.mean(losses), 3))
            rows.append(
                row(
                    names.task(task),
                    _range([each.rows for each in mine if each.part != "all"]),
                    _range([each.rows for each in mine if each.part == "all"]),
                    _range([each.steps for each in mine]),
                    *entries,
                    f"{mine[0].trainable:,}",
                    numbers.duration(float(np.mean([each.seconds for each in mine]))),
                    str(len(mine)),
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
            "parameters trained",
            "time each",
            "modules",
        ),
        tuple(groups),
        "Loss: mean over the training steps.",
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
