"""From what pydantic reports to one refusal that names every mistake."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pemath.errors import ConfigError, ExpressionError, PemathError
from pemath.names import display, listing

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# Pydantic's places also name tags of unions (ours begin with `<`) and say that a key is meant.
_NO_KEYS = ("<", "[key]")

Place = tuple[str | int, ...]


def refuse(mistakes: Sequence[tuple[Place, str]], where: str | None) -> ConfigError:
    """The error that lists all `mistakes`, each with its place in the recipe."""
    lines = [
        f"  {_path(place)}: {message}" if place else f"  {message}" for place, message in mistakes
    ]
    count = f"{len(lines)} mistakes" if len(lines) > 1 else "a mistake"
    return ConfigError("\n".join([f"the recipe has {count}:", *lines]), where=where)


def mistakes(model: type[BaseModel], error: ValidationError) -> list[tuple[Place, str]]:
    """Place and message of everything that pydantic found, with the nearest key for unknown ones."""
    found = []
    for item in error.errors(include_url=False):
        place = tuple(p for p in item["loc"] if not str(p).startswith(_NO_KEYS))
        found.append((place, _message(model, place, dict(item))))
    return found


@contextmanager
def as_value_error() -> Iterator[None]:
    """Errors of pemath as the ValueError that pydantic collects."""
    try:
        yield
    except PemathError as error:
        raise ValueError(one_line(error)) from None


def one_line(error: PemathError) -> str:
    """An error as a part of a sentence."""
    parts, hint = [error.what.rstrip(".")], error.hint
    if isinstance(error, ExpressionError):
        parts.append(f"at character {error.position + 1} of `{display(error.expression_text, 80)}`")
        if hint and hint.startswith("bind it"):  # a recipe binds nothing
            hint = "the operands are `a` and `b`"
    if error.found is not None:
        parts.append(f"found {error.found}")
    if error.expected is not None:
        parts.append(f"expected {error.expected}")
    text = ", ".join(parts)
    return f"{text} ({hint})" if hint else text


def nearest(name: object, known: Sequence[str], what: str) -> str:
    """That `name` is unknown, with the nearest of the known names, or with all of them."""
    close = difflib.get_close_matches(str(name), known, 1)
    more = f"did you mean `{close[0]}`?" if close else f"known are {listing(list(known), 20)}"
    return f"there is no {what} `{display(name, 60)}`, {more}"


def _message(model: type[BaseModel], place: Place, item: Mapping[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return nearest(place[-1], _keys(model, place[:-1]), "key")
    if item["type"] == "missing":
        return "is missing"
    message = str(item["msg"]).removeprefix("Input ")
    if item["type"] == "value_error":  # ours, and says what it found
        return message.removeprefix("Value error, ")
    given = item["input"]
    shown = isinstance(given, str | int | float | bool) or given is None
    return f"{message}, found {display(repr(given), 60)}" if shown else message


def _keys(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that the section at `place` may have."""
    section: Any = model
    for part in place:
        fields = section.model_fields
        if part in fields:
            section = _section(fields[part].annotation) or section
    return list(section.model_fields)


def _section(annotation: Any) -> Any:
    """The pydantic model within an annotation such as `list[str | Model]`, or None."""
    if hasattr(annotation, "model_fields"):
        return annotation
    found = (_section(argument) for argument in typing.get_args(annotation))
    return next((section for section in found if section is not None), None)


def _path(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"`{display(text.removeprefix('.'))}`"
