"""What all experiments share: a cell, what comes out of one, and modules trained for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pemath.errors import RequestError
from pemath.lab.data.corpora import Corpus
from pemath.lab.data.instructions import Instructions
from pemath.lab.data.rows import Row, Task, TaskData, Writing
from pemath.lab.data.tasks import load_task
from pemath.lab.desk import Ask, Question
from pemath.lab.evaluate import Prediction
from pemath.lab.metrics import score_of
from pemath.lab.models import family_of
from pemath.lab.quiz import Quiz
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.recipe import OPERANDS, Recipe, TaskSpec
from pemath.lab.recipes.sections import Full, Rows, Sweep
from pemath.lab.search import Weights, best, fill, plain, require, search
from pemath.lab.setting import Module, Setting
from pemath.lab.store import Store
from pemath.lab.train import Training
from pemath.lab.trials import Trials
from pemath.names import display
from pemath.threads import Progress, silent

SHARED, INDEPENDENT = "shared", "independent"
AnyRecipe = TypeVar("AnyRecipe", bound=Common)
_OTHER_START = 1000  # added to a seed for a second, independent initialisation


@dataclass(frozen=True)
class Cell:
    """A part of an experiment that depends on no other: its tasks by position in the recipe, one
    kind of module, one seed.
    """

    tasks: tuple[int, ...]
    pem: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came out of a cell: lines for the files of a run folder, and `facts` for its run.json."""

    records: list[dict[str, Any]] = field(default_factory=list)
    modules: list[dict[str, Any]] = field(default_factory=list)
    interference: list[dict[str, Any]] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, dict[str, list[Prediction]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def start_of(seed: int, initialisation: str) -> int:
    """The seed of the values that a module starts from."""
    return seed + (_OTHER_START if initialisation == INDEPENDENT else 0)


@dataclass(frozen=True)
class Laboratory(Generic[AnyRecipe]):
    """A recipe with the means to carry it out."""

    recipe: AnyRecipe
    store: Path
    data_dir: Path | None = None
    progress: Progress = silent

    def trials(self) -> Trials:
        """Trials that are kept in the store."""
        return Trials(Store(self.store), self.recipe.training.report_to, self.progress)

    def data(self, task: str | TaskSpec, rows: Rows) -> TaskData:
        """The rows of a task of the recipe, as many as it says."""
        return load_task(
            task,
            data_dir=self.data_dir,
            validation_rows=rows.validation,
            test_rows=rows.test,
        )

    def setting(self, task: Task | Writing, seed: int) -> Setting:
        """The recipe's model on `task`; the head that it lacks is drawn from `seed`."""
        model = self.recipe.model
        return Setting(model.name, task, model.max_length, model.dtype, seed)

    def settings(
        self,
        setting: Setting,
        pem: str,
        rows: Sequence[Row],
        validation: Sequence[Row],
        *,
        seed: int,
    ) -> Full:
        """How modules of one task are trained: of several candidates the one whose module, trained
        on `rows`, is best on `validation`.

        Chosen once for all parts, starts and seeds: what differs between them is not the settings.
        """
        candidates = self.recipe.modules.chosen()[pem].candidates()
        if len(candidates) == 1:
            return candidates[0]
        found = []
        for candidate in candidates:
            module = self.trained(setting, pem, candidate, rows, seed=seed, start=seed)
            quiz = Quiz(setting, validation)
            with self.asking({"a": module}, {"": quiz}) as ask:
                score = score_of(quiz.task, validation, ask("a", "").predictions)
            found.append((score, candidate))
        return max(found, key=lambda pair: pair[0])[1]

    def trained(
        self,
        setting: Setting,
        pem: str,
        settings: Full,
        rows: Sequence[Row],
        *,
        seed: int,
        start: int | Module,
        steps: int | None = None,
    ) -> Module:
        """The module trained on `rows` with `settings`, from `start`, as `start_of` gives it or a
        module to be trained further; `steps` overrides how long.
        """
        training = self.recipe.training_of(settings)
        if steps is not None:
            training["max_steps"] = steps
        return self.trials().module(
            setting,
            pem,
            settings.shape(),
            Training(**training),
            rows,
            seed=seed,
            start=start,
        )

    def asking(
        self,
        modules: Mapping[str, Module],
        questions: Mapping[str, Question],
        statistics: Mapping[str, Path] | None = None,
    ) -> AbstractContextManager[Ask]:
        """A function that says what an expression over `modules` answers to a question."""
        size = self.recipe.evaluation.batch_size
        return self.trials().asking(modules, questions, batch_size=size, statistics=statistics)

    def statistics(self, setting: Setting, module: Module, rows: Sequence[Row]) -> Path:
        """The statistics of `module` on the first of its own training rows."""
        evaluation = self.recipe.evaluation
        return self.trials().statistics(
            setting,
            module,
            rows,
            gram_rows=evaluation.gram_rows,
            fisher_rows=evaluation.fisher_rows,
            batch_size=evaluation.batch_size,
        )


def check_tasks(lab: Laboratory[Recipe]) -> None:
    """Refuse, before anything is trained, tasks that cannot be read or that the model cannot answer.

    Raises what reading them raises, and RequestError.
    """
    if lab.recipe.sweep is not None:
        require(lab.recipe.sweep.search)
    for given in lab.recipe.tasks:
        check_answerable(lab, lab.data(given, lab.recipe.rows).task)


def check_answerable(lab: Laboratory[Any], task: Task) -> None:
    """Refuse a task without a prompt for a model that answers prompts. Raises RequestError."""
    if family_of(lab.recipe.model.name) != "encoder" and not task.words:
        raise RequestError(
            f"task `{display(task.name)}` has no prompt, which `{lab.recipe.model.name}` needs"
        )


@dataclass(frozen=True)
class Examination:
    """Asks compositions about the parts of tasks, and puts every answer down as a record.

    `quizzes` are named (position of the task, part); `facts` go into every record.
    """

    ask: Ask
    quizzes: Mapping[str, Quiz]
    facts: Mapping[str, Any]
    records: list[dict[str, Any]]

    def put(self, name: str, expression: str, quiz: str, weights: Weights | None = None) -> float:
        """The metric of `expression`, recorded as composition `name`."""
        quizzed, answered = self.quizzes[quiz], self.ask(expression, quiz)
        task = quizzed.task
        score = score_of(task, quizzed.rows, answered.predictions)
        self.records.append(
            {
                "task": task.name,
                **self.facts,
                "composition": name,
                "expression": expression,
                "weights": plain(weights or {}),
                "part": quiz.rsplit(" ", 1)[-1],
                "metric": score,
                "predictions": answered.predictions,
                "rows": len(quizzed.rows),
                "seconds": answered.seconds,
                "error_to_exact": answered.error_to_exact,
            }
        )
        return score

    def sweep(self, sweep: Sweep, tasks: Sequence[str], seed: int, *, curve: bool) -> None:
        """Search the weights on the validation parts of `tasks` (by the mean of their metrics), and
        record the best on the test parts; with `curve` all of them.
        """

        def text(weights: Weights) -> str:
            return str(fill(sweep.expression, OPERANDS, weights))

        def score(weights: Weights) -> float:
            found = [
                self.put("sweep", text(weights), f"{task} validation", weights) for task in tasks
            ]
            return sum(found) / len(found)

        tried = search(sweep.spans(), score, kind=sweep.search, trials=sweep.trials, seed=seed)
        for one in tried if curve else ():
            for task in tasks:
                self.put("sweep", text(one.weights), f"{task} test", one.weights)
        chosen = best(tried).weights
        for task in tasks:
            self.put("best", text(chosen), f"{task} test", chosen)


def module_line(module: Module, **facts: Any) -> dict[str, Any]:
    """One training run, as a line of modules.jsonl."""
    return {**facts, "pem": module.pem, **module.facts}


def task_facts(data: TaskData) -> dict[str, Any]:
    """What is said of a task in run.json."""
    return {
        "metric": data.task.metric,
        "labels": list(data.task.labels),
        "source": data.task.source,
        "train_rows": len(data.train),
        "validation_rows": len(data.validation),
        "test_rows": len(data.test),
        "digest": data.digest,
    }


def text_facts(texts: Corpus | Instructions) -> dict[str, Any]:
    """What is said in run.json of texts that a module was trained on."""
    count = len(texts.texts if isinstance(texts, Corpus) else texts.rows)
    said = {"source": texts.source, "train_rows": count, "digest": texts.digest}
    return {"metric": "mean", "labels": [], **said}


def labels_of(data: TaskData) -> dict[str, list[Prediction]]:
    """The labels of the rows that are asked."""
    return {
        "validation": [row.label for row in data.validation],
        "test": [row.label for row in data.test],
    }
