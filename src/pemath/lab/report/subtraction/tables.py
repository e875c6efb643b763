"""The tables of both experiments: the claim, every weight, better subtraction, and the scorer."""

from __future__ import annotations

from collections.abc import Sequence

from pemath.lab.report import names, numbers
from pemath.lab.report.blocks import (
    DOWN,
    MISSING,
    UP,
    Column,
    Entry,
    Group,
    Table,
    columns,
    row,
    without_empty_columns,
)
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.followed import ABOVE, Spot
from pemath.lab.report.measure import Measured, difference
from pemath.lab.report.subtraction.claims import Claim
from pemath.lab.report.subtraction.matched import LOSES, WINS, Better
from pemath.lab.report.subtraction.subject import CHOSEN, Subject

_TONES = {HOLDS: "good", FAILS: "bad", TIE: "faint", WINS: "good", LOSES: "bad"}
_MARKS = {HOLDS: UP, WINS: UP, FAILS: DOWN, LOSES: DOWN}
_SHARES = ("repetition", "empty", "refusal", "overlap")


def scored_by(subject: Subject) -> str:
    """What every table of toxicities says below it."""
    return (
        f"Toxicity: mean score, from 0 to 1, of {subject.scorer}; in brackets the 95 % bootstrap "
        f"interval over {subject.drawn}, paired where it is one of a difference."
    )


def fact(name: str, value: float | None) -> str:
    """A fact of texts as it is written: shares in percent."""
    if name in _SHARES:
        return numbers.share(value, 1)
    return numbers.plain(value, 1 if name == "words" else 3)


def verdict(said: str) -> Entry:
    """A verdict with its mark."""
    return Entry(said, _MARKS.get(said, ""), _TONES.get(said, ""))


def claims_table(subject: Subject, found: Sequence[Claim]) -> Table:
    """The claim at the chosen weights."""
    groups = []
    for pem in subject.run.pems:
        rows = [_claim_row(each) for each in found if each.pem == pem]
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    return Table(
        "verdicts",
        f"Which claims hold: at the weight chosen on what is held out, against `{subject.start}`",
        (
            Column(""),
            Column("w", "by seed"),
            Column("toxicity"),
            Column("difference"),
            Column("seeds", "it falls in"),
            Column(f"above {ABOVE:g}", "%"),
            Column("perplexity", f"at most +{numbers.share(subject.budget)}"),
            Column("verdict", text=True),
        ),
        tuple(groups),
        scored_by(subject) + " Chosen: of the weights at which the perplexity of held-out text is "
        "within the budget, the one with the least toxic texts after held-out prompts.",
    )


def _claim_row(each: Claim) -> tuple[Entry, ...]:
    (before, after), (above, above_after) = each.toxicity, each.above
    cost, cost_after = each.perplexity
    fell = sum(value < 0 for value in each.apart.per_seed)
    tone = "good" if each.apart.high < 0 else "bad" if each.apart.low > 0 else ""
    return row(
        f"{each.curve}, {names.task(each.test)}",
        numbers.weights(each.weights),
        f"{numbers.plain(before.mean, 3)} → {numbers.plain(after.mean, 3)}",
        Entry(numbers.change(each.apart), tone=tone),
        f"{fell} of {len(each.apart.seeds)}",
        f"{numbers.points(above.mean)} → {numbers.points(above_after.mean)}",
        Entry(
            f"{numbers.plain(cost_after.mean, 1)} ({numbers.growth(cost_after.mean, cost.mean)})",
            tone="" if each.is_affordable else "bad",
        ),
        verdict(each.verdict),
    )


def weights_table(subject: Subject, test: str) -> Table:
    """One row per composition and weight."""
    more = [name for name in subject.facts if name != "distinct_2"]
    groups = []
    for pem in subject.run.pems:
        rows = [_weight_row(subject, test, pem, spot, more) for spot in spots(subject, pem)]
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    table = Table(
        f"weights-{test.rsplit('/', 1)[-1]}",
        f"Every weight: {subject.texts} {subject.tests[test]}",
        (
            Column(""),
            Column("w"),
            Column("toxicity"),
            Column(f"above {ABOVE:g}", "%"),
            Column("perplexity"),
            Column("distinct", "-1 / -2"),
            *(Column(names.FACTS[name], "%" if name in _SHARES else "") for name in more),
        ),
        tuple(groups),
        scored_by(subject)
        + f" Coloured: the difference to `{subject.start}` is on one side of 0 by its interval; a "
        "perplexity beyond the budget. Distinct-n: different n-grams of words for each n-gram of all "
        "texts. Words: per text. Repetition: trigrams that occurred before in their text. Empty: "
        "texts without a word."
        + (" Refusals: by a list of opening phrases." if "refusal" in subject.facts else "")
        + (" Overlap: content words of the instruction in the reply." if "overlap" in more else ""),
    )
    return without_empty_columns(table)


def spots(subject: Subject, pem: str) -> list[Spot]:
    """The compositions of a kind of module: without a weight, then curve by curve."""
    found = [Spot(name) for name in (*subject.others, subject.start, subject.toxic)]
    for curve in subject.curves(pem):
        found += [Spot(curve, weight) for weight in subject.costs.curve(pem, curve)]
        found.append(Spot(curve, chosen=CHOSEN))
    return [spot for spot in found if subject.costs.at(pem, spot) is not None]


def _weight_row(
    subject: Subject, test: str, pem: str, spot: Spot, more: Sequence[str]
) -> tuple[Entry, ...]:
    scores, costs = subject.measured[test], subject.costs
    start = subject.untouched
    cost, before = costs.at(pem, spot), costs.at(pem, start)
    share = scores.share(pem, spot)
    dear = cost and before and cost.mean > (1 + subject.budget) * before.mean
    distinct = [scores.fact(pem, spot, f"distinct_{n}") for n in (1, 2)]
    return (
        Entry(f"{spot.composition}, chosen" if spot.chosen else spot.composition),
        Entry("" if spot.weight is None else numbers.weight(spot.weight)),
        Entry(
            numbers.level(scores.at(pem, spot)),
            tone=tone(scores.at(pem, spot), scores.at(pem, start)),
        ),
        Entry(numbers.points(share.mean) if share else MISSING),
        Entry(numbers.plain(cost.mean if cost else None, 1), tone="bad" if dear else ""),
        Entry(" / ".join(map(numbers.plain, distinct)) if any(distinct) else MISSING),
        *(Entry(fact(name, scores.fact(pem, spot, name)).removesuffix(" %")) for name in more),
    )


def tone(one: Measured | None, other: Measured | None) -> str:
    """Good where `one` is lower than `other` by the interval of their difference, bad where higher."""
    apart = difference(one, other) if one and other else None
    if apart is None:
        return ""
    return "good" if apart.high < 0 else "bad" if apart.low > 0 else ""


def better_table(subject: Subject, found: Sequence[Better]) -> Table:
    """Whether a curve wins on average over the perplexities that both reach."""
    groups = []
    for pem in subject.run.pems:
        rows = []
        for each in found:
            if each.pem != pem:
                continue
            ends = "none in common"
            if each.perplexities:
                ends = " to ".join(numbers.plain(end, 1) for end in each.perplexities)
            rows.append(
                row(
                    f"{each.curve}, {names.task(each.test)}",
                    ends,
                    numbers.change(each.apart),
                    verdict(each.verdict) if each.verdict else Entry("outside the range"),
                )
            )
        if rows:
            groups.append(Group(names.pem(pem), tuple(rows)))
    return Table(
        "better",
        f"Does better subtraction win? Toxicity minus that of `{subject.first}` at the same "
        "perplexity",
        columns("", "perplexities", "difference", "verdict", text=("verdict",)),
        tuple(groups),
        f"Mean over the log perplexities that both curves reach, from `{subject.start}` on. Between "
        "neighbouring weights a curve is taken as straight in log perplexity. Wins: less toxic by the "
        "interval, which covers both measurements. " + scored_by(subject),
    )


def matched_table(subject: Subject, found: Sequence[Better]) -> Table:
    """Each weight of a curve against the first curve at the same perplexity."""
    groups = []
    for each in found:
        rows = []
        for point in each.points:
            outside = point.apart is None
            rows.append(
                row(
                    f"{each.curve}, w = {numbers.weight(point.weight)}",
                    numbers.plain(point.perplexity, 1),
                    numbers.plain(point.toxicity, 3),
                    numbers.plain(point.reference, 3),
                    Entry("outside the range", tone="faint")
                    if outside
                    else numbers.change(point.apart),
                )
            )
        groups.append(Group(f"{names.pem(each.pem)}, {names.task(each.test)}", tuple(rows)))
    return Table(
        "matched",
        f"The same weight by weight: each curve and `{subject.first}` at its perplexity",
        columns("", "perplexity", "toxicity", f"{subject.first} there", "difference"),
        tuple(groups),
        f"Outside the range: `{subject.first}` has this perplexity at no weight. "
        + scored_by(subject),
    )


def scorer_table(subject: Subject) -> Table | None:
    """How good the scorer is on labelled texts that it was not trained on."""
    scorer = subject.run.facts.scorer
    if scorer is None:
        return None
    rows = [
        row(
            each.set,
            f"{each.rows:,}",
            f"{each.positives:,}",
            numbers.plain(each.auc, 3),
            numbers.share(each.accuracy, 1),
            numbers.share(each.above_positives, 1),
            numbers.share(each.above_negatives, 1),
        )
        for each in scorer.quality
    ]
    absent = f" Not at hand: {', '.join(scorer.absent)}." if scorer.absent else ""
    return Table(
        "scorer",
        f"The scorer: {scorer.title}",
        (
            *columns("", "rows", "positive", "AUC"),
            Column("accuracy", "at 0.5"),
            Column("positives", f"above {ABOVE:g}"),
            Column("negatives", f"above {ABOVE:g}"),
        ),
        (Group("", tuple(rows)),),
        f"On labelled sets that `{scorer.name}` {scorer.version} was not trained on. AUC: how often "
        f"a positive scores higher than a negative.{absent}",
    )
