"""What the recipes of all experiments share, and how one is read: every mistake is told at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from pemath.formats.yaml import read_yaml
from pemath.lab.recipes.mistakes import Place, mistakes, refuse
from pemath.lab.recipes.sections import (
    Evaluation,
    Full,
    Model,
    Modules,
    Section,
    Seed,
    Training,
    distinct,
)
from pemath.names import display


class Common(Section):
    """The sections that every experiment has. Abstract: each kind of experiment has a class."""

    experiment: str
    model: Model
    modules: Modules
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    seeds: Annotated[list[Seed], AfterValidator(distinct)] = Field(min_length=1)

    @model_validator(mode="after")
    def _sections_fit(self, info: ValidationInfo) -> Self:
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        found = self.crossed(sections)
        if found:
            raise ValueError("; ".join(message for _, message in found))
        return self

    @classmethod
    @abstractmethod
    def crossed(cls, sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
        """The mistakes between sections that are right in themselves; absent ones are passed over."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The recipe in a YAML file; paths in it start at its folder.

        Raises: StorageError, ConfigError listing every mistake at once.
        """
        return cls.parse(read_yaml(path), where=display(path), folder=path.parent)

    @classmethod
    def parse(cls, content: Any, *, where: str | None = None, folder: Path = Path()) -> Self:
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
        sections = {
            name: field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
            if name not in content and not field.is_required()
        }
        sections |= {name: cls._section(name, content[name], context) for name in good}
        order = {name: position for position, name in enumerate(content)}
        found = [*found, *cls.crossed(sections)]
        found.sort(key=lambda one: order.get(str(one[0][0]), -1))
        raise refuse(found, where) from None

    @classmethod
    def _section(cls, name: str, value: Any, context: dict[str, Any]) -> Any:
        annotation: Any = cls.model_fields[name].annotation
        return TypeAdapter(annotation).validate_python(value, context=context)

    def changed(self, **sections: Any) -> Self:
        """The recipe with whole sections replaced, validated again. Raises ConfigError."""
        return self.parse({**self.model_dump(), **sections})

    def training_of(self, settings: Full) -> dict[str, Any]:
        """Everything that says how to train a module with `settings`, one of its candidates."""
        return {**self.training.model_dump(exclude={"report_to"}), **settings.training()}

    def task_names(self) -> list[str]:
        """The names of the tasks that cells refer to by position."""
        return []
