"""Detoxifying an instructed model: `(1+w)*instruct - w*toxic`, exactly and in the paper's own form.

The fifth experiment of arXiv 2306.14870. The toxic module learns to answer instructions with toxic
texts; the paper has a chat model invent these instructions, here templates make them. Helpfulness is
what can be measured without a judge: the likelihood of reference replies, instructions whose
fulfilment a function verifies, refusals, and how much of the instruction a reply takes up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pemath.errors import RequestError
from pemath.lab.checks import CHECKS
from pemath.lab.data.corpora import load_corpus
from pemath.lab.data.instructions import load_instructions, toxic_instructions
from pemath.lab.data.rows import Row, Writing
from pemath.lab.data.split import without
from pemath.lab.experiments.cells import (
    SHARED,
    Cell,
    Laboratory,
    Outcome,
    module_line,
    text_facts,
)
from pemath.lab.experiments.survey import (
    TEST,
    VALIDATION,
    Measure,
    Readout,
    Survey,
    choice_of,
    judged_scorer,
    of_losses,
    of_texts,
)
from pemath.lab.judges import compare, load_judge
from pemath.lab.likelihood import Likelihood
from pemath.lab.recipes.subtraction import (
    BASE,
    CHECKED,
    JUDGED,
    REFERENCES,
    TO_ORDINARY,
    TO_TOXIC,
    Detox,
)
from pemath.lab.sampling import Sampling
from pemath.lab.scorers import Scorer
from pemath.lab.setting import Module, Setting
from pemath.lab.texts import content_overlap, is_refusal

INSTRUCT, TOXIC = "instruct", "toxic"
_RESERVED = (
    50  # references of each part at least: fewer are read from them, and training stays the same
)


def cells(recipe: Detox) -> list[Cell]:
    """One cell per seed and kind of module, one seed after the other."""
    return [Cell((), pem, seed) for seed in recipe.seeds for pem in recipe.modules.chosen()]


def check(lab: Laboratory[Detox]) -> None:
    """Refuse what can be refused before anything is trained."""
    recipe = lab.recipe
    load_corpus(recipe.texts.toxic, lab.data_dir)
    rows, parts = _references(lab)
    for name in (recipe.asked.toxic, recipe.asked.ordinary):
        if not all(_asked(lab, name).values()):
            raise RequestError(
                f"`{name}` has too few instructions to be held out",
                expected=f"more than {recipe.asked.test}, which are for the test",
                hint="ask fewer in the test",
            )
    if not rows or not all(parts.values()):
        raise RequestError(
            f"`{recipe.texts.instruct}` has too few replies for training, test and validation",
            found=f"{len(rows)} for training, {sum(map(len, parts.values()))} references",
            hint="ask for fewer references, or name another set of instructions",
        )
    judged_scorer(lab, recipe.scorer)
    if recipe.judge is not None:
        load_judge(recipe.judge)


def run(lab: Laboratory[Detox], cell: Cell) -> Outcome:
    """Train and evaluate one cell."""
    recipe, outcome = lab.recipe, Outcome()
    setting = lab.setting(Writing(name="reply", chat=True), 0)
    modules = _modules(lab, cell, setting, outcome)
    scorer, said = judged_scorer(lab, recipe.scorer)
    outcome.facts["scorer"] = said
    measures = _measures(lab, setting, scorer, cell.seed)
    common = {"pem": cell.pem, "seed": cell.seed, "initialisation": SHARED}
    with lab.asking(modules, {one.name: one.question for one in measures}) as ask:
        if recipe.judge is not None:
            ordinary = next(one for one in measures if one.name == f"{TO_ORDINARY} {TEST}")
            theirs = [str(text) for text in ask(INSTRUCT, ordinary.name).predictions]
            measures.append(_judged(lab, ordinary, recipe.judge, theirs))
        survey = Survey(ask, measures, common, outcome)
        survey.declare()
        survey.put(BASE, f"0*{INSTRUCT}")
        untouched = survey.put(INSTRUCT, INSTRUCT)
        survey.put(TOXIC, TOXIC)
        toxicity, perplexity = (f"{task} {VALIDATION}" for task in (TO_TOXIC, REFERENCES))
        choose = choice_of(recipe.choice, toxicity, perplexity, untouched)
        survey.follow(recipe.curves, recipe.weights, modules, {VALIDATION: choose})
    return outcome


def _modules(
    lab: Laboratory[Detox], cell: Cell, setting: Setting, outcome: Outcome
) -> dict[str, Module]:
    """The instructed module, and the toxic one, which begins where the recipe says."""
    recipe, settings = lab.recipe, lab.recipe.modules.chosen()[cell.pem]
    instructions = load_instructions(recipe.texts.instruct, lab.data_dir)
    corpus = load_corpus(recipe.texts.toxic, lab.data_dir)
    replies, _ = _references(lab)
    shown = toxic_instructions(corpus.texts[: recipe.rows.toxic])
    train = partial(lab.trained, setting, cell.pem, settings, seed=cell.seed)
    instruct = train(replies[: recipe.rows.train], start=cell.seed)
    carried_on = recipe.toxic_starts_from == INSTRUCT
    toxic = train(shown, start=instruct if carried_on else cell.seed)
    for name, module, texts in ((INSTRUCT, instruct, instructions), (TOXIC, toxic, corpus)):
        outcome.tasks[texts.name] = text_facts(texts)
        facts = {"task": texts.name, "seed": cell.seed, "initialisation": SHARED}
        outcome.modules.append(module_line(module, part=name, **facts))
    return {INSTRUCT: instruct, TOXIC: toxic}


def _references(lab: Laboratory[Detox]) -> tuple[Sequence[Row], Mapping[str, Sequence[Row]]]:
    """Rows to train on, and reference replies by part, which are none of these."""
    count = lab.recipe.asked.references
    reserved = lab.recipe.asked.reserved
    recipe = lab.recipe
    rows = [r for r in load_instructions(recipe.texts.instruct, lab.data_dir).rows if r.texts[1]]
    if recipe.texts.instruct in (recipe.asked.toxic, recipe.asked.ordinary):
        rows = rows[recipe.asked.test + recipe.asked.validation :]  # those before are asked
    parts = {TEST: rows[:count], VALIDATION: rows[reserved : reserved + count]}
    return without(rows[2 * reserved :], rows[: 2 * reserved]), parts


def _asked(lab: Laboratory[Detox], name: str) -> dict[str, list[str]]:
    """Instructions by part, none of them in both."""
    asked = lab.recipe.asked
    rows = load_instructions(name, lab.data_dir).rows
    texts = list(dict.fromkeys(row.texts[0] for row in rows))
    return {TEST: texts[: asked.test], VALIDATION: texts[asked.test :][: asked.validation]}


def _measures(lab: Laboratory[Detox], setting: Setting, scorer: Scorer, seed: int) -> list[Measure]:
    asked, decoding = lab.recipe.asked, lab.recipe.writing.decoding()
    found = []
    for task, name in ((TO_TOXIC, asked.toxic), (TO_ORDINARY, asked.ordinary)):
        for part, given in _asked(lab, name).items():
            if task == TO_TOXIC or part == TEST:
                question = Sampling(setting, given, 1, decoding, seed)
                read = of_texts(scorer, _replies(given))
                source = f"replies to {name}, scored by {scorer.title}"
                found.append(Measure(task, part, "mean", question, read, source))
    _, references = _references(lab)
    for part, rows in references.items():
        source = f"reference replies of {lab.recipe.texts.instruct}"
        likelihood = Likelihood(setting, rows)
        found.append(Measure(REFERENCES, part, "perplexity", likelihood, of_losses, source))
    if asked.checks:
        instructions = [one.instruction for one in CHECKS]
        question = Sampling(setting, instructions, 1, decoding, seed)
        source = "instructions whose fulfilment is verified, written for pemath"
        found.append(Measure(CHECKED, TEST, "mean", question, _passed, source))
    return found


def _replies(instructions: Sequence[str]) -> Callable[[Sequence[str]], Mapping[str, float]]:
    """What is said of replies beside their scores: refusals, and what they take up."""

    def facts(replies: Sequence[str]) -> dict[str, float]:
        pairs = zip(instructions, replies, strict=True)
        overlaps = [content_overlap(instruction, reply) for instruction, reply in pairs]
        refused = [is_refusal(reply) for reply in replies]
        return {
            "refusal": sum(refused) / len(refused),
            "overlap": sum(overlaps) / len(overlaps),
        }

    return facts


def _passed(replies: list[Any]) -> Readout:
    """1 for every check that is passed."""
    passed = [float(one.passes(str(text))) for one, text in zip(CHECKS, replies, strict=True)]
    return Readout(passed, [0.0] * len(passed))


def _judged(lab: Laboratory[Detox], ordinary: Measure, name: str, theirs: Sequence[str]) -> Measure:
    """The judge's preference of every reply to the instructed module's: from -1 to 1."""
    judge = load_judge(name)
    asked = _asked(lab, lab.recipe.asked.ordinary)[TEST]

    def read(replies: list[Any]) -> Readout:
        ours = [str(text) for text in replies]
        key = {"judge": judge.name, "version": judge.version, "asked": asked, "ours": ours}

        def make(folder: Path, scratch: Path) -> None:
            found = json.dumps(compare(judge, asked, ours, theirs))
            (folder / "verdicts.json").write_text(found + "\n", encoding="utf-8")

        folder = lab.trials().store.get("verdicts", {**key, "theirs": list(theirs)}, make)
        verdicts = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
        return Readout(verdicts, [0.0] * len(ours))

    source = f"preferred to the replies of the instructed module by {judge.name} {judge.version}"
    return Measure(JUDGED, TEST, "mean", ordinary.question, read, source, same_as=ordinary.name)
