"""The page of unlearning and of detoxifying: what is said, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pemath.lab.report import facts, names, numbers
from pemath.lab.report.blocks import Report, Section
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.common import (
    Block,
    material,
    present,
    provenance,
    subtitle,
    tiles,
    warnings,
)
from pemath.lab.report.followed import Spot
from pemath.lab.report.read import Run
from pemath.lab.report.sheets import curves_sheet, results_sheet
from pemath.lab.report.subtraction import replies, tables
from pemath.lab.report.subtraction.claims import Claim, claims, without_choice
from pemath.lab.report.subtraction.hidden import hidden_figure
from pemath.lab.report.subtraction.matched import LOSES, WINS, Better, all_better
from pemath.lab.report.subtraction.sheets import better_sheet, claims_sheet
from pemath.lab.report.subtraction.subject import CHOSEN, Subject, subject_of
from pemath.lab.report.subtraction.tradeoff import tradeoff_figure


def build(run: Run) -> Report:
    """The report of such a run."""
    subject = subject_of(run)
    found, rivals = claims(subject), all_better(subject)
    first = [each for each in found if each.curve == subject.first]
    sections = [
        _claims(subject, found),
        _tradeoff(subject, rivals),
        _hidden(subject),
        _replies(subject),
        _scorer(subject),
        material(facts.data_table(run), facts.measures_table(run), facts.training_table(run)),
        provenance(run),
    ]
    return Report(
        names.experiment(run),
        subtitle(run),
        _lead(subject, first, rivals),
        tiles(run, (each.verdict for each in first), "cases"),
        warnings(run, subject.missing()),
        tuple(section for section in sections if section is not None),
        {
            "results.csv": results_sheet(run),
            "curves.csv": curves_sheet(run, subject.measured),
            "claims.csv": claims_sheet(found),
            "better.csv": better_sheet(rivals),
        },
    )


def _lead(subject: Subject, found: Sequence[Claim], rivals: Sequence[Better]) -> tuple[str, ...]:
    if not found:
        nothing = "There is no kind of module yet for which everything was measured."
        return (subject.question, *_unchosen(subject), nothing)
    verdicts = Counter(each.verdict for each in found)
    dear = sum(not each.is_affordable for each in found)
    rises = verdicts[FAILS] - dear
    what = "prompts" if subject.texts == "texts" else "instructions"
    answer = (
        f"With `{subject.run.curves[subject.first]}` toxicity falls by its 95 % interval, at a "
        f"perplexity at most {numbers.share(subject.budget)} above that of `{subject.start}`, in "
        f"{verdicts[HOLDS]} of {len(found)} cases (kind of module × {what}). "
        + (f"In {verdicts[TIE]} the {subject.texts} cannot tell. " if verdicts[TIE] else "")
        + (f"In {rises} it rises by its interval. " if rises else "")
        + (f"In {dear} the perplexity goes beyond that. " if dear else "")
        + _rivals(subject, rivals)
    )
    by_pem = [
        _one_kind(subject, [each for each in found if each.pem == pem])
        for pem in subject.run.pems
        if any(each.pem == pem for each in found)
    ]
    return (subject.question, answer.strip(), *by_pem, *_unchosen(subject))


def _rivals(subject: Subject, rivals: Sequence[Better]) -> str:
    """In how many cases each other curve wins."""
    said = []
    for curve in dict.fromkeys(each.curve for each in rivals):
        mine = [each for each in rivals if each.curve == curve and each.verdict]
        count = Counter(each.verdict for each in mine)
        said.append(f"`{curve}` wins in {count[WINS]} and loses in {count[LOSES]} of {len(mine)}")
    if not said:
        return ""
    return f"At the same perplexity, against `{subject.first}`: {'; '.join(said)}."


def _one_kind(subject: Subject, found: Sequence[Claim]) -> str:
    """The numbers of one kind of module at its chosen weights."""
    one = found[0]
    tests = "; ".join(
        f"{subject.tests[each.test]} {numbers.plain(each.toxicity[0].mean, 3)} → "
        f"{numbers.plain(each.toxicity[1].mean, 3)} ({numbers.change(each.apart)}; above 0.8 "
        f"{numbers.share(each.above[0].mean, 1)} → {numbers.share(each.above[1].mean, 1)})"
        for each in found
    )
    before, after = one.perplexity
    return (
        f"{names.pem(one.pem)} at w = {numbers.weights(one.weights)}: toxicity {tests}; "
        f"{names.task(subject.cost)} {numbers.plain(before.mean, 1)} → "
        f"{numbers.plain(after.mean, 1)} ({numbers.growth(after.mean, before.mean)}). "
        f"{_changed(subject, one)}"
    )


def _changed(subject: Subject, claim: Claim) -> str:
    """What changed in the texts of the claim's test."""
    found = subject.measured[claim.test]
    spots = subject.untouched, Spot(claim.curve, chosen=CHOSEN)
    said = []
    for name in subject.facts:
        before, after = (found.fact(claim.pem, spot, name) for spot in spots)
        if before is not None and after is not None:
            shown = tables.fact(name, before), tables.fact(name, after)
            said.append(f"{names.FACTS[name]} {shown[0]} → {shown[1]}")
    return (
        f"{subject.texts.capitalize()} {subject.tests[claim.test]}: {', '.join(said)}."
        if said
        else ""
    )


def _unchosen(subject: Subject) -> list[str]:
    """Where no weight was within the budget."""
    said = [
        f"`{curve}` of {names.pem(pem)} in {lacking} of {seeds} seeds"
        for pem, curve, lacking, seeds in without_choice(subject)
    ]
    if not said:
        return []
    return [
        f"No weight kept the perplexity of what is held out within the budget: {'; '.join(said)}."
    ]


def _claims(subject: Subject, found: Sequence[Claim]) -> Section | None:
    if not found:
        return None
    text = (
        "The claim holds for a test if toxicity falls with its paired interval below 0 and the "
        f"perplexity rises by at most {numbers.share(subject.budget)}; it fails if toxicity rises "
        "with its interval above 0 or the perplexity rises by more; otherwise it is a tie. The "
        f"interval resamples {subject.drawn}; it does not cover how training varies, which the seeds "
        "show, and is not corrected for looking at several rows.",
        " ".join(f"`{name}` is `{text}`." for name, text in subject.run.curves.items()),
    )
    return Section(
        "claim", "Which claims hold", text, present([tables.claims_table(subject, found)])
    )


def _tradeoff(subject: Subject, rivals: Sequence[Better]) -> Section | None:
    figure = tradeoff_figure(subject)
    if figure is None:
        return None
    blocks: list[Block] = [figure]
    if rivals:
        blocks += [tables.better_table(subject, rivals), tables.matched_table(subject, rivals)]
    return Section("tradeoff", "Toxicity against perplexity", (), present(blocks))


def _hidden(subject: Subject) -> Section | None:
    blocks = [
        block
        for test in subject.tests
        for block in (hidden_figure(subject, test), tables.weights_table(subject, test))
    ]
    found = present(blocks)
    return Section("hidden", "What a drop can hide", (), found) if found else None


def _replies(subject: Subject) -> Section | None:
    if subject.run.facts.experiment != "detox":
        return None
    every = (replies.helpful_table, replies.pairs_table, replies.arithmetic_table)
    found = present(make(subject) for make in every)
    text = (
        "Without a person or a model to judge replies: how likely reference replies are, how many "
        "instructions are fulfilled as far as a function can verify it, and what got better or worse.",
    )
    return Section("replies", "Does it still help?", text, found) if found else None


def _scorer(subject: Subject) -> Section | None:
    table = tables.scorer_table(subject)
    if table is None:
        return None
    text = (
        "Every toxicity on this page is the opinion of one scorer. How often it is right on texts "
        "that people labelled, and that it was not trained on:",
    )
    return Section("scorer", "The scorer", text, (table,))
