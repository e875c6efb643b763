"""Why a merge does not beat its parts: what the numbers of a cell say, by rules fixed beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pemath.lab.metrics import metric
from pemath.lab.report import numbers
from pemath.lab.report.claims import FAILS, TIE, Claim
from pemath.lab.report.measure import MEAN, PARTS, Measures, band, difference
from pemath.lab.report.read import Run

_WEAK_SPLIT = 0.3  # difference of the halves' label shares
_WEAK_PULL = 0.1  # difference of the parts' predicted label shares
_FAR_WEIGHT = 0.2  # distance of the best weight from one half
_UNEQUAL = 0.05  # metric between the parts
_ORTHOGONAL = 0.2  # cosine
_OPPOSED = 0.1  # cosine below zero
_ONE_LABEL = 0.05  # predicted share of the rarer answer
_CROSS_TERMS = 0.05  # relative error against the exact sum


@dataclass(frozen=True)
class Numbers:
    """What is known about a cell besides its metric; None where it was not measured."""

    skew: tuple[float, float] | None
    said: tuple[float, float, float] | None  # share of label 0 predicted by a, b, the merge
    gold: float | None
    agreement: float | None
    constant: float | None  # the metric of the best constant answer
    losses: tuple[float, ...]
    weights: tuple[float, ...]
    cosine: float | None
    error: float | None


@dataclass(frozen=True)
class Cause:
    """A short name that cells are counted by, and a sentence with the numbers."""

    name: str
    text: str


def numbers_of(run: Run, claim: Claim) -> Numbers:
    """The numbers of a claim's cell."""
    together = claim.task == MEAN
    records = {
        (each.composition, each.seed): each
        for each in run.records
        if (together or each.task == claim.task)
        and (each.pem, each.initialisation, each.part) == (claim.pem, "shared", "test")
    }
    facts = run.facts.tasks.get(claim.task)
    classes = bool(facts and facts.labels)
    gold = run.labels.get((claim.task, "test"))
    triples = [
        tuple(np.array(records[name, seed].predictions) for name in (*PARTS, claim.merge))
        for seed in claim.merged.seeds
        if (claim.merge, seed) in records
    ]
    said = agreement = None
    if classes and triples:
        shares = np.mean([[np.mean(one == 0) for one in three] for three in triples], axis=0)
        said = (float(shares[0]), float(shares[1]), float(shares[2]))
        agreement = float(np.mean([np.mean(a == b) for a, b, _ in triples]))
    constant = None
    if facts and gold is not None:
        judge = metric(facts.metric)
        constant = max(
            (float(judge(gold, np.full(len(gold), label))) for label in range(len(facts.labels))),
            default=0.0,
        )
    best = [each for (name, _), each in records.items() if name == "best"]
    errors = [
        each.error_to_exact
        for (name, _), each in records.items()
        if name == claim.merge and each.error_to_exact is not None
    ]
    return Numbers(
        skew=facts.share0 if facts else None,
        said=said,
        gold=float(np.mean(gold == 0)) if classes and gold is not None else None,
        agreement=agreement,
        constant=constant,
        losses=tuple(
            each.train_loss
            for each in run.modules
            if (together or each.task == claim.task)
            and (each.pem, each.initialisation) == (claim.pem, "shared")
            and each.part in PARTS
            and each.train_loss is not None
        ),
        weights=tuple(next(iter(e.weights.values())) for e in best if len(e.weights) == 1),
        cosine=mean_cosine(run, None if together else claim.task, claim.pem),
        error=numbers.mean(errors),
    )


def mean_cosine(
    run: Run, task: str | None, pem: str, initialisation: str = "shared"
) -> float | None:
    """The mean cosine between a and b over sites and seeds; over all tasks for None."""
    return numbers.mean(
        [
            site.cosine
            for site in run.sites
            if task in (None, site.task)
            and (site.pem, site.initialisation) == (pem, initialisation)
            and site.cosine is not None
        ]
    )


def causes(run: Run, measures: Measures, claim: Claim) -> list[Cause]:
    """What the numbers say about a cell in which the claim does not hold, most telling first."""
    known = numbers_of(run, claim)
    rules = (
        _little_learnt(measures, claim, known),
        _one_label(known),
        _no_room(measures, claim),
        _unequal(claim),
        _weak_skew(known),
        _far_weight(known),
        _orthogonal(known),
        _cross_terms(known),
        _few_rows(run, claim),
    )
    return [cause for cause in rules if cause is not None]


def _little_learnt(measures: Measures, claim: Claim, known: Numbers) -> Cause | None:
    if known.constant is None:
        return None
    whole = measures.cell(claim.task, claim.pem).get("all")
    loss = f"; mean training loss {np.mean(known.losses):.2f}" if known.losses else ""
    level = f"the {numbers.points(known.constant)} of one constant answer"
    if whole is not None and (edge := band(whole))[0] <= known.constant:
        shown = (
            f"{numbers.points(whole.mean)} [{numbers.points(edge[0])}, {numbers.points(edge[1])}]"
        )
        return Cause(
            "undertrained",
            f"even trained on everything, {shown} is not reliably above {level}{loss}",
        )
    if all(band(part)[0] <= known.constant for part in claim.parts.values()):
        shown = " and ".join(numbers.points(part.mean) for part in claim.parts.values())
        return Cause("undertrained", f"neither part ({shown}) is reliably above {level}{loss}")
    return None


def _one_label(known: Numbers) -> Cause | None:
    if known.said is None or any(_ONE_LABEL < each < 1 - _ONE_LABEL for each in known.said[:2]):
        return None
    first, second, merged = (numbers.share(each) for each in known.said)
    return Cause(
        "one answer",
        f"the parts have learnt their half's label and little else: a answers label 0 to {first} of "
        f"the rows, b to {second} (the merge to {merged})",
    )


def _no_room(measures: Measures, claim: Claim) -> Cause | None:
    whole = measures.cell(claim.task, claim.pem).get("all")
    gap = difference(whole, claim.parts[claim.best]) if whole is not None else None
    if gap is None or gap.low > 0:
        return None
    return Cause(
        "no headroom",
        f"training on everything is not better than part {claim.best} either "
        f"({numbers.bounded(gap)})",
    )


def _unequal(claim: Claim) -> Cause | None:
    worse = next(part for part in PARTS if part != claim.best)
    gap = difference(claim.parts[claim.best], claim.parts[worse])
    if gap is None or gap.value < _UNEQUAL or gap.low <= 0:
        return None
    return Cause(
        "unequal parts",
        f"part {claim.best} is {numbers.points(gap.value)} points better than part {worse}, "
        "and the merge weighs both",
    )


def _weak_skew(known: Numbers) -> Cause | None:
    if known.skew is not None and abs(known.skew[0] - known.skew[1]) < _WEAK_SPLIT:
        first, second = (numbers.share(each) for each in known.skew)
        return Cause("weak skew", f"the halves hardly differ: {first} and {second} of label 0")
    if known.said is None or abs(known.said[0] - known.said[1]) >= _WEAK_PULL:
        return None
    first, second, _ = (numbers.share(each) for each in known.said)
    return Cause(
        "weak skew",
        f"the skew did not pull the parts apart: a answers label 0 to {first} of the rows, b to "
        f"{second}, so a merge has no bias to undo",
    )


def _far_weight(known: Numbers) -> Cause | None:
    middle = numbers.mean(known.weights)
    if middle is None or abs(middle - 0.5) < _FAR_WEIGHT:
        return None
    listed = ", ".join(numbers.weight(each) for each in known.weights)
    return Cause("weight", f"the best weights on validation rows are far from 0.5: {listed}")


def _orthogonal(known: Numbers) -> Cause | None:
    if known.cosine is None or known.cosine >= _ORTHOGONAL:
        return None
    way = "partly opposed" if known.cosine < -_OPPOSED else "unrelated"
    kept = math.sqrt(max(0.0, (1 + known.cosine) / 2))
    return Cause(
        "interference",
        f"a and b change the model in {way} directions (mean cosine {numbers.plain(known.cosine)}): of two "
        f"equally long changes, the half-half merge keeps {numbers.share(kept)} of the length",
    )


def _cross_terms(known: Numbers) -> Cause | None:
    if known.error is None or known.error < _CROSS_TERMS:
        return None
    return Cause(
        "cross terms", f"the merge is {numbers.share(known.error)} away from the exact weighted sum"
    )


def _few_rows(run: Run, claim: Claim) -> Cause | None:
    rows = run.labels.get((claim.task, "test"))
    if claim.verdict != TIE or claim.lead.value <= 0:
        return None
    half = (claim.lead.high - claim.lead.low) / 2
    of = f" of {len(rows)} test rows" if rows is not None else ""
    return Cause(
        "resolution",
        f"the merge leads, by less than the ±{numbers.points(half)} points that resampling{of} allows",
    )


def summary(found: dict[str, list[str]], verdicts: dict[str, int]) -> str:
    """One sentence that counts the causes over cells."""
    total = verdicts.get(TIE, 0) + verdicts.get(FAILS, 0)
    often = sorted(found.items(), key=lambda one: -len(one[1]))
    parts = [f"{name} in {len(cells)}" for name, cells in often]
    return f"Of the {total} cells where the claim does not hold, the numbers show: " + (
        ", ".join(parts) + " (a cell can show several)." if parts else "nothing that stands out."
    )
