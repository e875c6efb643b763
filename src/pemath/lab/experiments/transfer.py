"""Domain transfer by analogy: `w*source + (1-w)*(target_lm - source_lm)`.

The fourth experiment of arXiv 2306.14870: a classifier of one domain, and language models of both,
make a classifier of the other without its labels. The paper's language models read blocks of 128
tokens; here every review is a text of its own (a sequence-to-sequence model gets its first half and
writes the second).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pemath.composition.run import evaluate
from pemath.expression.parser import parse
from pemath.expression.tree import Call, occurrences
from pemath.lab.data.rows import Row, TaskData, Writing
from pemath.lab.data.split import sample
from pemath.lab.experiments.cells import (
    SHARED,
    Cell,
    Laboratory,
    Outcome,
    check_answerable,
    module_line,
    task_facts,
)
from pemath.lab.experiments.survey import (
    TEST,
    VALIDATION,
    Choose,
    Measure,
    Readout,
    Survey,
)
from pemath.lab.models import family_of
from pemath.lab.quiz import Quiz
from pemath.lab.recipes.transfer import SOURCE, TARGET, Transfer
from pemath.lab.setting import Module, Setting

HELD_OUT = "source"  # the part that holds rows of the source itself


def cells(recipe: Transfer) -> list[Cell]:
    """Both directions for every kind of module, one seed after the other."""
    return [
        Cell(pair, pem, seed)
        for seed in recipe.seeds
        for pem in recipe.modules.chosen()
        for pair in ((0, 1), (1, 0))
    ]


def check(lab: Laboratory[Transfer]) -> None:
    """Refuse what can be refused before anything is trained."""
    for task in lab.recipe.tasks:
        check_answerable(lab, lab.data(task, lab.recipe.rows).task)


def run(lab: Laboratory[Transfer], cell: Cell) -> Outcome:
    """Train and evaluate one direction: from the first task of the cell to the second."""
    recipe, outcome = lab.recipe, Outcome()
    source, target = (lab.data(recipe.tasks[at], recipe.rows) for at in cell.tasks)
    settings = recipe.modules.chosen()[cell.pem]
    train = partial(lab.trained, pem=cell.pem, settings=settings, seed=cell.seed, start=cell.seed)

    def trained(part: str, data: TaskData, setting: Setting, rows: Sequence[Row]) -> Module:
        module = train(setting, rows=rows)
        facts = {"task": data.task.name, "seed": cell.seed, "initialisation": SHARED}
        outcome.modules.append(module_line(module, part=part, **facts))
        outcome.tasks[data.task.name] = task_facts(data)
        return module

    def classifier(part: str, data: TaskData) -> Module:
        rows = sample(data.train, recipe.rows.train)
        return trained(part, data, lab.setting(data.task, 0), rows)

    def writer(part: str, data: TaskData) -> Module:
        setting = lab.setting(Writing(name="review", closed=False), 0)
        halved = family_of(recipe.model.name) == "seq2seq"
        rows = [_text(row, halved=halved) for row in sample(data.train, recipe.rows.texts)]
        return trained(part, data, setting, rows)

    modules = {
        SOURCE: classifier(SOURCE, source),
        TARGET: classifier(TARGET, target),
        "source_lm": writer("source_lm", source),
        "target_lm": writer("target_lm", target),
    }
    name = f"{source.task.name} to {target.task.name}"
    few = sample(target.validation, recipe.rows.few)
    asked = {TEST: (target, target.test), VALIDATION: (target, few)}
    asked[HELD_OUT] = (source, source.validation)
    measures = [
        Measure(
            name,
            part,
            data.task.metric,
            Quiz(lab.setting(data.task, 0), rows),
            _against(rows),
            data.task.source,
        )
        for part, (data, rows) in asked.items()
    ]
    common = {"pem": cell.pem, "seed": cell.seed, "initialisation": SHARED}
    with lab.asking(modules, {one.name: one.question for one in measures}) as ask:
        survey = Survey(ask, measures, common, outcome)
        survey.declare()
        survey.put(SOURCE, SOURCE, parts=(TEST,))
        survey.put(TARGET, TARGET, parts=(TEST,))
        rules = {
            "source labels": _best(f"{name} {HELD_OUT}"),
            "target labels": _best(f"{name} {VALIDATION}"),
        }
        survey.follow(recipe.curves, recipe.weights, modules, rules, _inflation(modules))
    return outcome


def _text(row: Row, *, halved: bool) -> Row:
    """A review as a text to be written, after its first half where the model needs an input."""
    words = " ".join(row.texts).split()
    cut = len(words) // 2 if halved else 0
    return Row((" ".join(words[:cut]), " ".join(words[cut:])), 0)


def _against(rows: Sequence[Row]) -> Callable[[list[int]], Readout]:
    labels = [float(row.label) for row in rows]
    return lambda answers: Readout([float(answer) for answer in answers], labels)


def _best(measure: str) -> Choose:
    """The weight that is best by one measure; of equals the last, which in a rising list of weights
    is nearest to the source's own classifier.
    """

    def choose(found: Sequence[Mapping[str, float]]) -> int | None:
        return max(range(len(found)), key=lambda at: (found[at][measure], at), default=None)

    return choose


def _inflation(modules: Mapping[str, Module]) -> Callable[[str], Mapping[str, float]]:
    """For LoRAs under a method, how long the update is, in lengths of the exact sum with the same
    weights: the paper's arithmetic makes it (2 - w) times as long where all A are equal.
    """
    folders = {name: str(module.folder) for name, module in modules.items()}

    def facts(expression: str) -> Mapping[str, float]:
        tree = parse(expression, folders)
        if modules[SOURCE].pem != "lora" or not isinstance(tree, Call):
            return {}
        weights = tuple(option for option in tree.options if option[0] == "weights")
        exact = replace(tree, method="exact", options=weights)
        used = {str(operand.name): folders[str(operand.name)] for operand in occurrences(tree)}
        return {"norm_ratio": _length(str(tree), used) / _length(str(exact), used)}

    return facts


def _length(expression: str, folders: Mapping[str, str]) -> float:
    return math.hypot(*(value.norm() for _, value in evaluate(expression, operands=dict(folders))))
