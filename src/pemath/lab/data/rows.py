"""What every source of rows gives: rows, the task that they belong to, and the parts of it.

Rows are ordered and chosen by keyed hashes of their texts, never by a random generator: the choice
depends on no library's version, and a row stays where it is when others come or go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

SEED = 42  # as in lab/examples_data.py: what was held out there is held out here

Identity: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled example: one text or a pair; the label is an index into `Task.labels`, or a
    number where the task is a regression.
    """

    texts: tuple[str, ...]
    label: int | float

    @property
    def identity(self) -> Identity:
        """Equal for rows that a held-out part must not share: case, blanks and the order of a
        pair are ignored.
        """
        return tuple(sorted(" ".join(text.split()).casefold() for text in self.texts))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked, and how answers are judged.

    `prompt` holds {0} (and {1}) for the texts; `words` are what a generative model may answer, one
    for each label, with the blank that precedes it. `source` says where rows come from.
    """

    name: str
    labels: tuple[str, ...]
    metric: str
    prompt: str | None = None
    words: tuple[str, ...] = ()
    source: str = ""

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers."""
        return not self.labels

    def key(self) -> dict[str, Any]:
        """What of it determines how rows are shown to a model."""
        return {"labels": list(self.labels), "prompt": self.prompt, "words": list(self.words)}


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What a language model learns to write: rows hold a prompt ("" for none) and what follows it.

    In a `chat` the prompt is a user's message, put as the tokenizer's template puts it. A `closed`
    text ends with the end-of-sequence token; an open one may have been cut anywhere.
    """

    name: str
    chat: bool = False
    closed: bool = True

    def key(self) -> dict[str, Any]:
        """What of it determines how rows are shown to a model."""
        return {"chat": self.chat, "closed": self.closed}


@dataclass(frozen=True)
class Parts:
    """Rows as a source gives them: the validation part may be missing."""

    task: Task
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    validation: tuple[Row, ...] | None = None


@dataclass(frozen=True)
class TaskData:
    """Disjoint parts of one task. No row of one part occurs in another (by `Row.identity`)."""

    task: Task
    train: tuple[Row, ...] = field(repr=False)
    validation: tuple[Row, ...] = field(repr=False)
    test: tuple[Row, ...] = field(repr=False)
    digest: str


def order_key(row: Row, salt: str = str(SEED)) -> bytes:
    """Where the row comes in the fixed order of `salt`."""
    return hashlib.sha256(f"{salt}:{chr(31).join(row.texts)}".encode()).digest()


def digest(*parts: Iterable[Row]) -> str:
    """The sha256 over all texts and labels in order, and over where a part ends."""
    total = hashlib.sha256()
    for part in parts:
        for row in part:
            line = json.dumps([*row.texts, row.label], ensure_ascii=True)
            total.update(line.encode() + b"\n")
        total.update(b"\n")
    return total.hexdigest()
