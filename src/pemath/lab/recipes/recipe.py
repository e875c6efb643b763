"""The recipe of an experiment that merges two modules: distribution generalisation, multi-tasking.

experiment, model, tasks, rows, modules, training, initialisation, compositions, sweep, evaluation,
seeds: each section is a class in `sections`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
)

from pemath.lab.assets import PREFIX
from pemath.lab.data.tasks import TASKS
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.expressions import OPERANDS, check_composition, is_data_driven
from pemath.lab.recipes.mistakes import (
    Place,
    as_value_error,
    nearest,
)
from pemath.lab.recipes.sections import (
    Model,
    Rows,
    Sweep,
    distinct,
)
from pemath.lab.recipes.task import TaskSpec
from pemath.names import display

__all__ = ["OPERANDS", "Recipe", "TaskSpec"]

RESERVED = ("a", "b", "all", "sweep", "best")
"""Names of records that no composition may have."""

# The families whose published models only encode. A folder's own config says more.
_ENCODERS = re.compile(r"bert(?!2)|electra|mpnet|minilm|sentence-|bge-", re.IGNORECASE)


def _composition(text: Any) -> Any:
    if isinstance(text, str):
        with as_value_error():
            check_composition(text)
    return text


def _composition_name(name: str) -> str:
    if name in RESERVED or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(f"a composition cannot have this name (taken: {', '.join(RESERVED)})")
    return name


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(nearest(name, list(TASKS), "task"))
    return name


def _spelling(item: Any) -> str:
    return "<own>" if isinstance(item, Mapping | TaskSpec) else "<known>"


KnownTask = Annotated[str, AfterValidator(_known_task)]
AnyTask = Annotated[
    Annotated[KnownTask, Tag("<known>")] | Annotated[TaskSpec, Tag("<own>")],
    Discriminator(_spelling),
]
CompositionName = Annotated[str, AfterValidator(_composition_name)]
Composition = Annotated[str, BeforeValidator(_composition)]
Start = Literal["shared", "independent"]


def _shared() -> list[Start]:
    return ["shared"]


class Recipe(Common):
    """A merge of two modules, validated. Sections are attributes; `model_dump(mode="json")` gives it
    back.
    """

    experiment: Literal["distribution", "multitask"]
    tasks: list[AnyTask] = Field(min_length=1)
    rows: Rows = Rows()
    initialisation: Annotated[list[Start], AfterValidator(distinct)] = Field(
        default_factory=_shared
    )
    compositions: dict[CompositionName, Composition] = Field(min_length=1)
    sweep: Sweep | None = None

    @classmethod
    def crossed(cls, sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
        """The mistakes between sections that are right in themselves."""
        return _crossed(sections)

    def needs_statistics(self) -> list[str]:
        """The names of compositions by data-driven methods, `sweep` for the sweep."""
        names = [name for name, text in self.compositions.items() if is_data_driven(text)]
        if self.sweep and is_data_driven(self.sweep.expression, self.sweep.spans()):
            names.append("sweep")
        return names

    def task_names(self) -> list[str]:
        """The names of the tasks, in order."""
        return [task if isinstance(task, str) else task.name for task in self.tasks]


def _crossed(sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """The mistakes between sections that are right in themselves; absent ones are passed over."""
    tasks, model, modules = (sections.get(name) for name in ("tasks", "model", "modules"))
    # Files of a run are called after tasks, with `__` for the slash.
    names = [
        (task if isinstance(task, str) else task.name).replace("/", "__") for task in tasks or ()
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    found: list[tuple[Place, str]] = [
        (("tasks",), f"`{name.replace('__', '/')}` is there twice") for name in twice
    ]
    start = sections.get("initialisation", ["shared"])
    if "shared" not in start:
        found.append((("initialisation",), "`shared` must be among them: it is what others cost"))
    if "independent" in start and modules and not modules.lora:
        message = (
            "`independent` needs a lora: (IA)³ and full fine-tuning start from no random values"
        )
        found.append((("initialisation",), message))
    if tasks is not None and sections.get("experiment") == "multitask" and len(tasks) != 2:
        found.append((("tasks",), f"multitask needs exactly two tasks, found {len(tasks)}"))
    return found + _unanswerable(sections.get("experiment"), model, tasks or ())


def _unanswerable(
    experiment: str | None, model: Model | None, tasks: Sequence[str | TaskSpec]
) -> list[tuple[Place, str]]:
    """Multi-tasking works by prompts only, and so does every model that generates text."""
    found: list[tuple[Place, str]] = []
    writes = generates(model.name) if model else None
    if model and experiment == "multitask" and writes is False:
        message = f"multitask needs a model that generates text, `{display(model.name)}` does not"
        found.append((("model", "name"), f"{message} (pip:smollm2 does, and needs no download)"))
    if experiment == "multitask" or writes:
        message = f"{'multitask' if experiment == 'multitask' else 'this model'} needs prompts, "
        for index, task in enumerate(tasks):
            asked = TASKS[task] if isinstance(task, str) else task
            if not asked.prompt or not asked.words:
                place = ("tasks", index)
                found.append((place, f"{message}and `{asked.name}` has no `prompt` and `words`"))
    return found


def generates(name: str) -> bool | None:
    """Whether the model generates text, as its own config or its name says; None: unknown."""
    config = Path(name, "config.json")
    if not config.is_file():
        if _ENCODERS.search(name.rsplit("/", 1)[-1]):
            return False
        return True if name.startswith(PREFIX) else None
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        architectures = [str(item) for item in content.get("architectures") or ()]
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # loading it will say what is wrong
    ends = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    return any(item.endswith(ends) for item in architectures) if architectures else None
