"""The tables of domain transfer: what each direction comes to, and how much the paper's form adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pemath.lab.report import numbers
from pemath.lab.report.blocks import DOWN, MISSING, UP, Column, Entry, Group, Table, row
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.followed import Followed, Spot
from pemath.lab.report.measure import Difference, band, difference
from pemath.lab.report.read import Run
from pemath.lab.report.transfer.analogies import (
    PAPER,
    SOURCE,
    TARGET,
    Analogy,
    is_repeated,
    title,
)

_TONES = {HOLDS: "good", FAILS: "bad", TIE: "faint"}
_MARKS = {HOLDS: UP, FAILS: DOWN, TIE: ""}


def results_table(run: Run, found: Mapping[str, Followed], every: Sequence[Analogy]) -> Table:
    """Source, analogies and target, direction by direction."""
    groups = []
    for direction, one in found.items():
        for pem in run.pems:
            mine = [each for each in every if (each.direction, each.pem) == (direction, pem)]
            rows = [_single(one, pem, SOURCE, "source only", "1")]
            rows += [_analogy_row(each) for each in mine if not is_repeated(each, mine)]
            rows.append(_single(one, pem, TARGET, "target's own (upper bound)", ""))
            kept = tuple(line for line in rows if line[2].text != MISSING)
            if kept:
                groups.append(Group(title(direction, pem), kept))
    return Table(
        "results",
        "Accuracy on the target's test rows, in points",
        (
            Column(""),
            Column("w", "by seed"),
            Column("accuracy", "± over seeds"),
            Column("95 % interval"),
            Column("− source only"),
            Column("gap closed"),
            Column("verdict", text=True),
        ),
        tuple(groups),
        "In brackets: the paired 95 % bootstrap interval over test rows. Gap closed: the share of "
        "what the target's own classifier is better by, where it is better by its interval. Source "
        "labels: the weight chosen on held-out labels of the source; target labels: on a few "
        "labelled rows of the target."
        + (
            f" `{PAPER}` stands only where it is not the exact sum."
            if any(is_repeated(each, every) for each in every)
            else ""
        ),
    )


def _single(one: Followed, pem: str, spot: Spot, name: str, weight: str) -> tuple[Entry, ...]:
    value, source = one.at(pem, spot), one.at(pem, SOURCE)
    apart = difference(value, source) if value and source and spot != SOURCE else None
    edges = MISSING
    if value is not None:
        edges = f"[{', '.join(numbers.points(edge) for edge in band(value))}]"
    shown = Entry(MISSING if apart is None else numbers.bounded(apart), tone=_tone(apart))
    return row(name, weight, numbers.spread(value), edges, shown, "", "")


def _analogy_row(each: Analogy) -> tuple[Entry, ...]:
    edges = ", ".join(numbers.points(edge) for edge in band(each.accuracy))
    return row(
        f"{each.curve}, {each.rule}",
        numbers.weights(each.weights),
        numbers.spread(each.accuracy),
        f"[{edges}]",
        Entry(numbers.bounded(each.gain), tone=_tone(each.gain)),
        numbers.share(each.closed),
        Entry(each.verdict, _MARKS[each.verdict], _TONES[each.verdict]),
    )


def _tone(apart: Difference | None) -> str:
    if apart is None:
        return "faint"
    return "good" if apart.low > 0 else "bad" if apart.high < 0 else ""


def inflation_table(run: Run, found: Mapping[str, Followed]) -> Table:
    """For LoRA, how long the paper's update is beside the exact one, and what that does."""
    first = next(iter(run.curves), "")
    groups = []
    for direction, one in found.items():
        for pem in run.pems:
            rows = []
            for weight, value in one.curve(pem, PAPER).items():
                spot = Spot(PAPER, weight)
                ratios = [
                    each.facts["norm_ratio"]
                    for each in one.records[pem][spot]
                    if "norm_ratio" in each.facts
                ]
                exact = one.at(pem, Spot(first, weight))
                if ratios:
                    apart = difference(value, exact) if exact else None
                    rows.append(
                        row(
                            numbers.weight(weight),
                            numbers.plain(2 - weight),
                            numbers.plain(numbers.mean(ratios)),
                            f"{numbers.plain(min(ratios))} to {numbers.plain(max(ratios))}",
                            numbers.spread(exact),
                            numbers.spread(value),
                            Entry(numbers.bounded(apart), tone=_tone(apart)),
                        )
                    )
            if rows:
                groups.append(Group(title(direction, pem), tuple(rows)))
    return Table(
        "inflation",
        f"How long the paper's update is, in lengths of the exact one, and its accuracy beside "
        f"`{first}`",
        (
            Column("", "w"),
            Column("2 − w"),
            Column("measured", "mean"),
            Column("over seeds"),
            Column(first, "points"),
            Column(PAPER, "points"),
            Column(f"{PAPER} − {first}"),
        ),
        tuple(groups),
        "Adding the factors A of three LoRAs, whose weights then sum to 2 − w instead of 1, makes the "
        "update 2 − w times as long where all A are equal; what is measured is shorter or longer as "
        "far as they drifted apart. (IA)³ and full fine-tuning have no factors to add.",
    )
