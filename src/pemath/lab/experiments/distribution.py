"""Distribution generalisation: each task's rows in two skewed halves, a module for each, their merge.

The first experiment of arXiv 2306.14870. A merge is compared with both of its parts on rows of the
undivided distribution, and with a module trained on both halves for as many steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from pemath.lab.data.rows import Row, TaskData
from pemath.lab.data.split import head, in_group_zero, share_of, skewed_split
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
from pemath.lab.recipes.sections import Sweep
from pemath.lab.setting import Module


def cells(recipe: Recipe) -> list[Cell]:
    """All cells, one seed after the other: what is there early is complete for its seeds."""
    return [
        Cell((task,), pem, seed)
        for seed in recipe.seeds
        for task in range(len(recipe.tasks))
        for pem in recipe.modules.chosen()
    ]


def check(lab: Laboratory[Recipe]) -> None:
    """Refuse what can be refused before anything is trained."""
    check_tasks(lab)


def run(lab: Laboratory[Recipe], cell: Cell) -> Outcome:
    """Train and evaluate one cell."""
    recipe = lab.recipe
    data = lab.data(recipe.tasks[cell.tasks[0]], recipe.rows)
    task, setting = data.task, lab.setting(data.task, cell.seed)
    halves = _halves(recipe, data, cell.seed)
    # On undivided rows, as the module that the merge has to live up to: that favours no half.
    first, undivided = recipe.seeds[0], chain(*_halves(recipe, data, recipe.seeds[0]))
    settings = lab.settings(
        lab.setting(task, first), cell.pem, tuple(undivided), data.validation, seed=first
    )
    outcome = Outcome()
    leans = in_group_zero(data.train, task)
    share0 = [share_of(half, leans) for half in halves]
    outcome.tasks[task.name] = {**task_facts(data), "share0": share0}
    outcome.labels[task.name] = labels_of(data)
    facts = {"task": task.name, "seed": cell.seed}

    def trained(part: str, rows: Sequence[Row], start: str, steps: int | None = None) -> Module:
        module = lab.trained(
            setting,
            cell.pem,
            settings,
            rows,
            seed=cell.seed,
            start=start_of(cell.seed, start),
            steps=steps,
        )
        outcome.modules.append(module_line(module, initialisation=start, part=part, **facts))
        return module

    def examine(
        modules: Mapping[str, Module],
        named: Mapping[str, str],
        start: str,
        statistics: Mapping[str, Path],
        sweep: Sweep | None,
    ) -> None:
        quizzes = {
            f"{task.name} {part}": Quiz(setting, rows)
            for part, rows in (("test", data.test), ("validation", data.validation))
        }
        common = {"pem": cell.pem, "seed": cell.seed, "initialisation": start}
        with lab.asking(modules, quizzes, statistics) as ask:
            examination = Examination(ask, quizzes, common, outcome.records)
            for name, expression in named.items():
                examination.put(name, expression, f"{task.name} test")
            if sweep is not None:
                examination.sweep(sweep, [task.name], cell.seed, curve=False)
        if "b" in modules:
            store = lab.trials().store
            outcome.interference.extend(interference(modules, store, task=task.name, **common))

    single = {part: part for part in OPERANDS}
    pair = {part: trained(part, rows, SHARED) for part, rows in zip("ab", halves, strict=True)}
    # As many steps as a half gets: what differs is the rows, not the effort.
    whole = trained("all", (*halves[0], *halves[1]), SHARED, pair["a"].facts["steps"])
    needed = recipe.needs_statistics()
    statistics = {
        part: lab.statistics(setting, pair[part], rows)
        for part, rows in zip("ab", halves, strict=True)
        if needed
    }
    examine(pair, single | recipe.compositions, SHARED, statistics, recipe.sweep)
    examine({"all": whole}, {"all": "all"}, SHARED, {}, None)
    if INDEPENDENT in recipe.initialisation and cell.pem == "lora":
        pair = {"a": pair["a"], "b": trained("b", halves[1], INDEPENDENT)}
        plainly = {n: text for n, text in recipe.compositions.items() if n not in needed}
        examine(pair, single | plainly, INDEPENDENT, {}, None)
    return outcome


def _halves(recipe: Recipe, data: TaskData, seed: int) -> list[Sequence[Row]]:
    """The rows of modules a and b."""
    return [head(half, recipe.rows.train) for half in skewed_split(data.train, data.task, seed)]
