"""A recipe: one YAML file that says everything about an experiment, checked before anything runs.

experiment, model, tasks, rows, modules, training, initialisation, compositions, sweep, evaluation,
seeds: each section is a class in `sections`. Presets are recipes shipped with pemath.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from pemath.errors import RequestError
from pemath.formats.yaml import read_yaml
from pemath.lab.assets import PREFIX
from pemath.lab.data.tasks import TASKS
from pemath.lab.recipes.expressions import OPERANDS, check_composition, is_data_driven
from pemath.lab.recipes.mistakes import (
    Place,
    as_value_error,
    mistakes,
    nearest,
    refuse,
)
from pemath.lab.recipes.sections import (
    Evaluation,
    Full,
    Model,
    Modules,
    Rows,
    Section,
    Seed,
    Sweep,
    Training,
    distinct,
)
from pemath.lab.recipes.task import TaskSpec
from pemath.names import display

__all__ = ["EXPERIMENTS", "OPERANDS", "PRESETS", "Recipe", "TaskSpec"]

EXPERIMENTS = ("distribution", "multitask")
PRESETS = ("smoke", "packages", "cpu", "paper")
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


class Recipe(Section):
    """An experiment, validated. Sections are attributes; `model_dump(mode="json")` gives it back."""

    experiment: Literal["distribution", "multitask"]
    model: Model
    tasks: list[AnyTask] = Field(min_length=1)
    rows: Rows = Rows()
    modules: Modules
    training: Training = Training()
    initialisation: Annotated[list[Start], AfterValidator(distinct)] = Field(
        default_factory=_shared
    )
    compositions: dict[CompositionName, Composition] = Field(min_length=1)
    sweep: Sweep | None = None
    evaluation: Evaluation = Evaluation()
    seeds: Annotated[list[Seed], AfterValidator(distinct)] = Field(min_length=1)

    @model_validator(mode="after")
    def _sections_fit(self, info: ValidationInfo) -> Self:
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        found = _crossed(sections)
        if found:
            raise ValueError("; ".join(message for _, message in found))
        return self

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a YAML file; paths in it start at its folder.

        Raises: StorageError, ConfigError listing every mistake at once.
        """
        return cls.parse(read_yaml(path), where=display(path), folder=path.parent)

    @classmethod
    def preset(cls, experiment: str, name: str) -> Recipe:
        """A recipe shipped with pemath. Raises RequestError for an unknown name."""
        for given, known, what in (
            (experiment, EXPERIMENTS, "experiment"),
            (name, PRESETS, "preset"),
        ):
            if given not in known:
                raise RequestError(nearest(given, known, what))
        file = files("pemath.lab.recipes").joinpath("presets", f"{experiment}-{name}.yaml")
        return cls.read(Path(str(file)))

    @classmethod
    def parse(cls, content: Any, *, where: str | None = None, folder: Path = Path()) -> Recipe:
        """The recipe in plain values. Raises ConfigError listing every mistake at once."""
        if not isinstance(content, Mapping):
            raise refuse(
                [((), f"a recipe has keys and values: {', '.join(cls.model_fields)}")], where
            )
        context = {"folder": folder}
        try:
            return cls.model_validate(dict(content), context=context)
        except ValidationError as error:
            found = [one for one in mistakes(cls, error) if one[0]]
        # What stands across sections is looked at even where some of them have mistakes.
        bad = {place[0] for place, _ in found}
        good = [name for name in cls.model_fields if name in content and name not in bad]
        sections = {name: cls._section(name, content[name], context) for name in good}
        order = {name: position for position, name in enumerate(content)}
        found = sorted([*found, *_crossed(sections)], key=lambda one: order.get(str(one[0][0]), -1))
        raise refuse(found, where) from None

    @classmethod
    def _section(cls, name: str, value: Any, context: dict[str, Any]) -> Any:
        annotation: Any = cls.model_fields[name].annotation
        return TypeAdapter(annotation).validate_python(value, context=context)

    def changed(self, **sections: Any) -> Recipe:
        """The recipe with whole sections replaced, validated again. Raises ConfigError."""
        return self.parse({**self.model_dump(), **sections})

    def training_of(self, settings: Full) -> dict[str, Any]:
        """Everything that says how to train a module with `settings`, one of its candidates."""
        return {**self.training.model_dump(exclude={"report_to"}), **settings.training()}

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
    generates = _generates(model.name) if model else None
    if model and experiment == "multitask" and generates is False:
        message = f"multitask needs a model that generates text, `{display(model.name)}` does not"
        found.append((("model", "name"), f"{message} (pip:smollm2 does, and needs no download)"))
    if experiment == "multitask" or generates:
        message = f"{'multitask' if experiment == 'multitask' else 'this model'} needs prompts, "
        for index, task in enumerate(tasks):
            asked = TASKS[task] if isinstance(task, str) else task
            if not asked.prompt or not asked.words:
                place = ("tasks", index)
                found.append((place, f"{message}and `{asked.name}` has no `prompt` and `words`"))
    return found


def _generates(name: str) -> bool | None:
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
