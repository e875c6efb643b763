"""`training.json` in the folder of a trained module: what it was trained on, and how, so that it is
asked in the same way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pemath.errors import ConfigError
from pemath.formats.peft import read_json
from pemath.lab.data.rows import Task
from pemath.lab.models import family_of
from pemath.lab.own.subject import Subject, held_out
from pemath.names import display

CARD = "training.json"


class Card(BaseModel):
    """What is read again; the file holds more."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: str
    dtype: Literal["float32", "bfloat16"]
    max_length: int
    start_seed: int
    task: str | None
    validation_rows: int | None
    text: list[str] | None
    label: str | None
    labels: list[str]
    metric: str
    prompt: str | None
    words: list[str] | None

    def subject(self) -> Subject:
        """What the module was trained on."""
        return Subject(
            task=self.task,
            validation_rows=self.validation_rows,
            text=self.text,
            label=self.label,
            labels=self.labels or None,
            metric=self.metric,
            prompt=self.prompt,
            words=self.words,
        )


def card_of(subject: Subject, task: Task, **settings: Any) -> Card:
    """The card of a module trained on `task`; an encoder is shown no prompt."""
    generates = family_of(settings["model"]) != "encoder"
    return Card(
        task=subject.task,
        validation_rows=None if subject.task is None else held_out(subject),
        text=None if subject.text is None else list(subject.text),
        label=subject.label,
        labels=list(task.labels),
        metric=task.metric,
        prompt=task.prompt if generates else None,
        words=list(task.words) if generates else None,
        **settings,
    )


def write_card(folder: Path, card: Card, **more: Any) -> None:
    """Write `card` and what else is to be known into `folder`."""
    text = json.dumps({**card.model_dump(mode="json"), **more}, indent=2)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_card(folder: Path) -> Card | None:
    """The card in `folder`, if there is one. Raises ConfigError."""
    path = folder / CARD
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        places = ", ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise ConfigError(
            "this is no record of a training",
            where=display(path),
            found=display(places, 200),
            hint="remove the file, and say with options what it would have said",
        ) from None
