"""Unlearning: a module that has learned to write toxic texts is negated.

The third experiment of arXiv 2306.14870. What a drop in toxicity costs and what it can hide is
measured beside it: the perplexity of clean text, and how diverse, long, repetitive and empty the
texts are. Padding is left out of the loss, which the authors' script leaves in.
"""

from __future__ import annotations

from collections.abc import Sequence

from pemath.errors import RequestError
from pemath.lab.data.corpora import Corpus, load_corpus
from pemath.lab.data.prompts import NEUTRAL, PAPER_PROMPT, provoking
from pemath.lab.data.rows import Row, Writing
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
    Survey,
    choice_of,
    judged_scorer,
    of_losses,
    of_texts,
)
from pemath.lab.likelihood import Reading
from pemath.lab.models import family_of
from pemath.lab.recipes.curves import needed
from pemath.lab.recipes.subtraction import (
    BASE,
    CLEAN,
    NEUTRALLY,
    PAPER,
    PROVOKED,
    Unlearning,
)
from pemath.lab.sampling import Sampling
from pemath.lab.scorers import Scorer
from pemath.lab.setting import Module, Setting
from pemath.names import display

_SORTS = {
    PAPER: "the paper's prompt",
    NEUTRALLY: "neutral prompts",
    PROVOKED: "provoking prompts (RealToxicityPrompts)",
}
_HELD_OUT = len(NEUTRAL) // 2  # the prompts from here on choose the weight


def cells(recipe: Unlearning) -> list[Cell]:
    """One cell per seed and kind of module, one seed after the other."""
    return [Cell((), pem, seed) for seed in recipe.seeds for pem in recipe.modules.chosen()]


def check(lab: Laboratory[Unlearning]) -> None:
    """Refuse what can be refused before anything is trained."""
    recipe = lab.recipe
    for name in {*recipe.texts.values(), recipe.clean.test, recipe.clean.validation}:
        load_corpus(name, lab.data_dir)
    for name in (recipe.clean.test, recipe.clean.validation):
        corpus, most = load_corpus(name, lab.data_dir), recipe.rows.train
        if corpus.name in _names(lab) and (most is None or most >= len(corpus.texts)):
            raise RequestError(
                f"`{display(corpus.name)}` is read as clean text, and a module is trained on all of it",
                hint="train on fewer texts (rows: train), or read another text",
            )
    if family_of(recipe.model.name) != "causal":
        raise RequestError(
            f"`{display(recipe.model.name)}` has no perplexity",
            expected="a causal language model, such as pip:smollm2",
        )
    judged_scorer(lab, recipe.scorer)
    if recipe.prompts.provoking:
        provoking()


def run(lab: Laboratory[Unlearning], cell: Cell) -> Outcome:
    """Train and evaluate one cell."""
    recipe, outcome = lab.recipe, Outcome()
    setting = lab.setting(Writing(name="text"), 0)
    unlearned = next(iter(recipe.texts))
    used = {unlearned} | needed(recipe.curves, recipe.weights, recipe.texts, cell.pem)
    modules: dict[str, Module] = {}
    for name in recipe.texts:
        if name in used:
            corpus = load_corpus(recipe.texts[name], lab.data_dir)
            modules[name] = lab.trained(
                setting,
                cell.pem,
                recipe.modules.chosen()[cell.pem],
                [Row(("", text), 0) for text in corpus.texts[: recipe.rows.train]],
                seed=cell.seed,
                start=cell.seed,
            )
            outcome.modules.append(
                module_line(
                    modules[name],
                    task=corpus.name,
                    seed=cell.seed,
                    part=name,
                    initialisation=SHARED,
                )
            )
            outcome.tasks[corpus.name] = text_facts(corpus)
    scorer, said = judged_scorer(lab, recipe.scorer)
    outcome.facts["scorer"] = said
    measures = _measures(lab, setting, scorer, cell.seed)
    common = {"pem": cell.pem, "seed": cell.seed, "initialisation": SHARED}
    with lab.asking(modules, {one.name: one.question for one in measures}) as ask:
        survey = Survey(ask, measures, common, outcome)
        survey.declare()
        untouched = survey.put(BASE, f"0*{unlearned}")
        survey.put(unlearned, unlearned)
        toxicity, perplexity = (f"{task} {VALIDATION}" for task in (_chosen_by(recipe), CLEAN))
        choose = choice_of(recipe.choice, toxicity, perplexity, untouched)
        survey.follow(recipe.curves, recipe.weights, modules, {VALIDATION: choose})
    return outcome


def _measures(
    lab: Laboratory[Unlearning], setting: Setting, scorer: Scorer, seed: int
) -> list[Measure]:
    recipe, prompts, decoding = lab.recipe, lab.recipe.prompts, lab.recipe.writing.decoding()

    def texts(task: str, part: str, given: Sequence[str], samples: int) -> Measure:
        question = Sampling(setting, given, samples, decoding, seed)
        source = f"texts after {_SORTS[task]}, scored by {scorer.title}"
        return Measure(task, part, "mean", question, of_texts(scorer), source)

    def clean(part: str, corpus: Corpus) -> Measure:
        options, trained_on = recipe.clean, corpus.name in _names(lab)
        rest = corpus.texts[recipe.rows.train if trained_on else 0 :]
        text = "\n\n".join(rest)
        question = Reading(setting, text, options.window, options.stride, options.tokens)
        return Measure(CLEAN, part, "perplexity", question, of_losses, corpus.source)

    found = [
        texts(PAPER, TEST, (PAPER_PROMPT,), prompts.paper),
        texts(NEUTRALLY, TEST, NEUTRAL[: prompts.neutral], prompts.samples),
    ]
    held_out: Sequence[str] = NEUTRAL[_HELD_OUT:]
    if prompts.provoking:
        asked = provoking()
        found.append(texts(PROVOKED, TEST, asked[: prompts.provoking], prompts.samples))
        held_out = asked[prompts.provoking :]
    return [
        *found,
        texts(
            _chosen_by(recipe),
            VALIDATION,
            held_out[: prompts.validation],
            prompts.validation_samples,
        ),
        clean(TEST, load_corpus(recipe.clean.test, lab.data_dir)),
        clean(VALIDATION, load_corpus(recipe.clean.validation, lab.data_dir)),
    ]


def _names(lab: Laboratory[Unlearning]) -> set[str]:
    """The corpora that modules are trained on."""
    return {load_corpus(name, lab.data_dir).name for name in lab.recipe.texts.values()}


def _chosen_by(recipe: Unlearning) -> str:
    """The toxicity that chooses the weight."""
    return PROVOKED if recipe.prompts.provoking else NEUTRALLY
