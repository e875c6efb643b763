"""Multi-tasking: two tasks asked as prompts, a module for each, and what their merge can of both.

The second experiment of arXiv 2306.14870. There is no head, so that only modules are merged. The
label words are compared by their log-likelihood after the prompt; the paper searches with beams
that must contain a word, which for words of one token and a whole vocabulary of beams is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from pemath.lab.data.split import sample
from pemath.lab.experiments.cells import (
    INDEPENDENT,
    SHARED,
    Cell,
    Examination,
    Laboratory,
    Outcome,
    check_tasks,
    labels_of,
    module_line,
    start_of,
    task_facts,
)
from pemath.lab.experiments.interference import interference
from pemath.lab.quiz import Quiz
from pemath.lab.recipes.recipe import OPERANDS, Recipe
from pemath.lab.setting import Module


def cells(recipe: Recipe) -> list[Cell]:
    """One cell per seed and kind of module, with both tasks."""
    return [Cell((0, 1), pem, seed) for seed in recipe.seeds for pem in recipe.modules.chosen()]


def check(lab: Laboratory[Recipe]) -> None:
    """Refuse what can be refused before anything is trained."""
    check_tasks(lab)


def run(lab: Laboratory[Recipe], cell: Cell) -> Outcome:
    """Train and evaluate one cell."""
    recipe = lab.recipe
    both = [lab.data(recipe.tasks[task], recipe.rows) for task in cell.tasks]
    settings = [lab.setting(data.task, cell.seed) for data in both]
    rows = [sample(data.train, recipe.rows.train) for data in both]
    first = recipe.seeds[0]
    chosen = [
        lab.settings(lab.setting(d.task, first), cell.pem, r, d.validation, seed=first)
        for d, r in zip(both, rows, strict=True)
    ]
    outcome = Outcome()
    for data in both:
        outcome.tasks[data.task.name] = task_facts(data)
        outcome.labels[data.task.name] = labels_of(data)
    quizzes = {
        f"{data.task.name} {part}": Quiz(setting, asked)
        for data, setting in zip(both, settings, strict=True)
        for part, asked in (("test", data.test), ("validation", data.validation))
    }
    names = [data.task.name for data in both]

    def trained(position: int, start: str) -> Module:
        module = lab.trained(
            settings[position],
            cell.pem,
            chosen[position],
            rows[position],
            seed=cell.seed,
            start=start_of(cell.seed, start),
        )
        facts = {"task": names[position], "seed": cell.seed, "initialisation": start}
        outcome.modules.append(module_line(module, part="ab"[position], **facts))
        return module

    def examine(pair: Mapping[str, Module], start: str) -> None:
        common = {"pem": cell.pem, "seed": cell.seed, "initialisation": start}
        statistics = {
            part: lab.statistics(settings[i], pair[part], rows[i])
            for i, part in enumerate("ab")
            if recipe.needs_statistics()
        }
        with lab.asking(pair, quizzes, statistics) as ask:
            examination = Examination(ask, quizzes, common, outcome.records)
            for name, text in ({part: part for part in OPERANDS} | recipe.compositions).items():
                for task in names:
                    examination.put(name, text, f"{task} test")
            if recipe.sweep is not None:
                examination.sweep(recipe.sweep, names, cell.seed, curve=True)
        store = lab.trials().store
        outcome.interference.extend(interference(pair, store, task=" + ".join(names), **common))

    pair = {"a": trained(0, SHARED), "b": trained(1, SHARED)}
    examine(pair, SHARED)
    if INDEPENDENT in recipe.initialisation and cell.pem == "lora":
        examine({"a": pair["a"], "b": trained(1, INDEPENDENT)}, INDEPENDENT)
    return outcome
