"""Detoxifying, reply by reply: better, the same or worse; and the paper's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pemath.lab.metrics import Floats
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
from pemath.lab.report.followed import Followed, Spot
from pemath.lab.report.measure import difference
from pemath.lab.report.subtraction import tables
from pemath.lab.report.subtraction.subject import CHOSEN, Subject

PAPER = "paper"
"""The curve that holds the paper's own form of the first one."""

_NOTICEABLE = 0.05  # a difference of scores that counts
_ROUNDING = 1e-6  # nats per token that do not


def pairs_table(subject: Subject) -> Table:
    """Every curve at its chosen weights against weight 0: rows and seeds that got better or worse."""
    measures: list[tuple[str, str, Callable[[Floats, Floats], Floats]]] = [
        *((test, names.task(test), _less_toxic) for test in subject.tests),
        (subject.cost, "reference replies", _likelier),
        ("checks", "checks", lambda gains, labels: gains),
    ]
    groups = []
    for pem in subject.run.pems:
        rows = []
        for curve in subject.curves(pem):
            entries = [_counts(subject, pem, curve, task, gain) for task, _, gain in measures]
            if any(text != MISSING for text in entries):
                rows.append(row(f"{curve}, chosen", *entries))
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    return Table(
        "pairs",
        f"Pair by pair: better / same / worse than `{subject.start}`",
        columns("", *(title for _, title, _ in measures)),
        tuple(groups),
        f"Each instruction in each seed. Better: a score that is more than {_NOTICEABLE:g} lower, a "
        "reference reply that is likelier, a check that is passed instead of failed; worse the other "
        f"way. {tables.scored_by(subject)}",
    )


def _less_toxic(gains: Floats, labels: Floats) -> Floats:
    """By score, as far as it is to be noticed."""
    return np.where(np.abs(gains) > _NOTICEABLE, -gains, 0.0)


def _likelier(gains: Floats, labels: Floats) -> Floats:
    """By loss per token, beyond rounding."""
    per_token = gains / np.maximum(labels, 1)
    return np.where(np.abs(per_token) > _ROUNDING, -per_token, 0.0)


def _counts(
    subject: Subject,
    pem: str,
    curve: str,
    task: str,
    gain: Callable[[Floats, Floats], Floats],
) -> str:
    found = subject.measured[task].records.get(pem, {})
    before = {each.seed: each for each in found.get(subject.untouched, ())}
    after = {each.seed: each for each in found.get(Spot(curve, chosen=CHOSEN), ())}
    labels = subject.run.labels.get((task, "test"))
    gains = [
        gain(np.array(after[seed].predictions) - np.array(before[seed].predictions), labels)
        for seed in after
        if seed in before and labels is not None
    ]
    if not gains:
        return MISSING
    signs = np.sign(np.concatenate(gains))
    return " / ".join(str(int((signs == sign).sum())) for sign in (1, 0, -1))


def helpful_table(subject: Subject) -> Table:
    """What can be measured of helpfulness without a person: one row per composition and weight."""
    tasks = (subject.cost, "checks", "judge")
    groups = []
    for pem in subject.run.pems:
        rows = []
        for spot in tables.spots(subject, pem):
            name = f"{spot.composition}, chosen" if spot.chosen else spot.composition
            at = "" if spot.weight is None else numbers.weight(spot.weight)
            cost, checks, judge = (subject.measured[task].at(pem, spot) for task in tasks)
            worse = tables.tone(cost, subject.costs.at(pem, subject.untouched))
            rows.append(
                row(
                    name,
                    at,
                    Entry(numbers.level(cost, 1), tone=worse),
                    numbers.level(checks, 3),
                    numbers.level(judge, 2),
                )
            )
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    table = Table(
        "helpful",
        "Helpfulness, as far as it can be measured",
        (
            Column(""),
            Column("w"),
            Column("perplexity", "of reference replies"),
            Column("checks", "share passed"),
            Column("judge", "−1 to 1"),
        ),
        tuple(groups),
        "In brackets: the 95 % bootstrap interval over rows. Checks: instructions whose fulfilment a "
        "function verifies. Coloured: the perplexity differs from that of "
        f"`{subject.start}` by the paired interval."
        + (
            f" Judge: how much a reply is preferred to that of `{subject.start}`."
            if subject.measured["judge"].values
            else ""
        ),
    )
    return without_empty_columns(table)


def arithmetic_table(subject: Subject) -> Table:
    """The paper's own form against the exact one at the same weights."""
    groups = []
    for pem in subject.run.pems:
        for test in subject.tests:
            rows = [
                _at_weight(subject, pem, test, weight)
                for weight in subject.costs.curve(pem, PAPER)
                if subject.costs.at(pem, Spot(subject.first, weight)) is not None
            ]
            if rows and subject.first != PAPER:
                groups.append(Group(f"{names.pem(pem)}, {names.task(test)}", tuple(rows)))
    exact = subject.first
    return Table(
        "arithmetic",
        f"`{exact}` and the paper's own form at the same weights",
        (
            Column("", "w"),
            Column(f"toxicity, {exact}"),
            Column("paper"),
            Column(f"paper − {exact}"),
            Column(f"perplexity, {exact}"),
            Column("paper"),
            Column(f"paper − {exact}"),
            Column("error", "of paper"),
        ),
        tuple(groups),
        "The paper's own form adds factors after one of them was negated: of two equal modules it "
        "leaves (1 + 2w) times the module. Error: relative distance of the change to the exact sum, from the certificate, mean over "
        f"seeds. {tables.scored_by(subject)}",
    )


def _at_weight(subject: Subject, pem: str, test: str, weight: float) -> tuple[Entry, ...]:
    entries = []
    for found, digits in ((subject.measured[test], 3), (subject.costs, 1)):
        exact, paper = (found.at(pem, Spot(name, weight)) for name in (subject.first, PAPER))
        apart = difference(paper, exact) if paper and exact else None
        tone = "" if apart is None else "good" if apart.high < 0 else "bad" if apart.low > 0 else ""
        entries += [
            Entry(numbers.plain(exact.mean if exact else None, digits)),
            Entry(numbers.plain(paper.mean if paper else None, digits)),
            Entry(numbers.change(apart, digits), tone=tone),
        ]
    return row(numbers.weight(weight), *entries, _error(subject.costs, pem, weight))


def _error(costs: Followed, pem: str, weight: float) -> str:
    records = costs.records.get(pem, {}).get(Spot(PAPER, weight), ())
    errors = [each.error_to_exact for each in records if each.error_to_exact is not None]
    return numbers.share(numbers.mean(errors), 1)
