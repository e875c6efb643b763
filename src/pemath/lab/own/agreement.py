"""What is asked, as given and as the operands' own records say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pemath.errors import OperandError, RequestError
from pemath.lab.own.card import Card
from pemath.lab.own.subject import Subject, refuse, validated
from pemath.lab.recipes.sections import Model
from pemath.names import display


def agreed(given: Any, cards: Mapping[str, Card], what: str, default: Any = None) -> Any:
    """What was given, else what all records say, else the default. Raises: OperandError."""
    if given is not None:
        return given
    said = {name: getattr(card, what) for name, card in cards.items()}
    values = [value for value in said.values() if value is not None]
    if any(value != values[0] for value in values):
        shown = what.replace("_", " ")
        raise OperandError(
            f"the operands were trained with different values of {shown}",
            found=", ".join(f"{name} has {display(value, 60)}" for name, value in said.items()),
            hint=f"say with --{shown.replace(' ', '-')} which one holds for all",
        )
    return values[0] if values else default


def model_of(
    name: str | None, dtype: str | None, max_length: int | None, cards: Mapping[str, Card]
) -> Model:
    """The base model to ask on. Raises: RequestError, OperandError."""
    name = agreed(name, cards, "model")
    if name is None:
        raise RequestError(
            "no model is named, and the operands do not say which one they are for",
            hint="add --model: pip:minilm, a folder, or a name on the hub",
        )
    found: list[str] = []
    given = {
        "name": name,
        "dtype": agreed(dtype, cards, "dtype", "float32"),
        "max_length": agreed(max_length, cards, "max_length", 128),
    }
    model = validated(Model, given, found)
    refuse(found)
    assert model is not None  # noqa: S101 - for the type checker
    return model


def subject_of(given: Subject, cards: Mapping[str, Card], *, from_files: bool) -> Subject:
    """What is asked: what was given, over what the operands were trained on.

    Raises: OperandError.
    """
    if not cards or (given.task is not None and not from_files):
        return given
    names = ["text", "label", "labels", "metric", "prompt", "words"]
    if not from_files:
        names.append("task")
    found = {name: agreed(getattr(given, name), cards, name) for name in names}
    found["labels"] = found["labels"] or None  # a regression has none
    return given.over(Subject(**found))


def held_out_alike(given: Subject, cards: Mapping[str, Card]) -> Subject:
    """The same, with as many rows of its known task held out for validation as training held out:
    it has seen the others. Raises: OperandError.
    """
    if given.task is None:
        return given
    trained = {name: card for name, card in cards.items() if card.task == given.task}
    said = {name: card.validation_rows for name, card in trained.items()}
    if given.validation_rows is not None:
        said["asked for"] = given.validation_rows
    rows = next(iter(said.values()), None)
    if any(other != rows for other in said.values()):
        raise OperandError(
            "some of these validation rows were trained on",
            found=", ".join(f"{name}: {count} held out" for name, count in said.items()),
            hint="train all operands with the same --validation-rows, and choose on these",
        )
    return replace(given, validation_rows=rows)


def check_labels(labels: Sequence[str] | None, cards: Mapping[str, Card]) -> None:
    """Refuse heads that answer with other labels, or in another order. Raises: OperandError."""
    said = {name: list(card.labels) for name, card in cards.items()}
    if labels is not None:
        said["asked for"] = list(labels)
    first = next(iter(said.values()), None)
    if any(other != first for other in said.values()):
        raise OperandError(
            "the labels are not the same in the same order, and a head answers by position",
            found="; ".join(
                f"{name}: {', '.join(some) or 'numbers'}" for name, some in said.items()
            ),
            hint="train all modules with the same --labels, and ask with these",
        )
