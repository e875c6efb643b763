"""The recipe of domain transfer by analogy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from pemath.lab.data.tasks import TASKS
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.curves import Curves, Weights, mistakes_of_curves
from pemath.lab.recipes.mistakes import Place
from pemath.lab.recipes.recipe import AnyTask
from pemath.lab.recipes.sections import Positive, Rows
from pemath.lab.recipes.subtraction import must_generate
from pemath.lab.recipes.task import TaskSpec
from pemath.names import display

SOURCE, TARGET = "source", "target"
OPERANDS = (SOURCE, "source_lm", "target_lm")
"""The classifier of the source, and the language models of the two domains."""


class Domains(Rows):
    """Rows of the classifiers, and how many texts the language models read; `few` labelled rows of
    the target choose the weight where it is chosen with target labels.
    """

    texts: Positive | None = None
    few: Positive = 64


class Transfer(Common):
    """A classifier is carried to another domain by unlabelled texts of both: the fourth experiment
    of arXiv 2306.14870, in both directions between two tasks with the same labels.
    """

    experiment: Literal["transfer"]
    tasks: Annotated[list[AnyTask], Field(min_length=2, max_length=2)]
    rows: Domains = Domains()
    curves: Curves
    weights: Weights

    @classmethod
    def crossed(cls, sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
        """The mistakes between sections that are right in themselves."""
        found = mistakes_of_curves(
            sections.get("curves"),
            sections.get("weights"),
            OPERANDS,
            sections.get("modules"),
            [SOURCE, TARGET],
        )
        rows = sections.get("rows")
        if rows is not None and rows.few > rows.validation:
            message = f"at most the {rows.validation} rows that are held out of the target's"
            found.append((("rows", "few"), message))
        return [*_unlike(sections.get("tasks") or ()), *found, *must_generate(sections)]

    def task_names(self) -> list[str]:
        """The names of the two domains."""
        return [task if isinstance(task, str) else task.name for task in self.tasks]


def _unlike(tasks: Sequence[str | TaskSpec]) -> list[tuple[Place, str]]:
    """Tasks that are not two domains of one question, or not asked in words."""
    asked = [TASKS[task] if isinstance(task, str) else task for task in tasks]
    found: list[tuple[Place, str]] = [
        (
            ("tasks", at),
            f"this experiment needs prompts, and `{task.name}` has no `prompt` and `words`",
        )
        for at, task in enumerate(asked)
        if not task.prompt or not task.words
    ]
    if len(asked) != 2:  # the section says so itself
        return found
    first, second = asked
    if first.name.replace("/", "__") == second.name.replace("/", "__"):
        found.append((("tasks",), f"`{first.name}` is there twice"))
    elif not found and list(first.labels or ()) != list(second.labels or ()):
        labels = " and ".join(", ".join(task.labels or ()) for task in asked)
        found.append((("tasks",), f"both must have the same labels, found {display(labels)}"))
    return found
