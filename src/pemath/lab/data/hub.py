"""Data sets from the hub, where it can be reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pemath.errors import ConfigError, MissingExtra, ReferenceNotFound
from pemath.lab.data.glue import GLUE, how_to_get, label_index
from pemath.lab.data.rows import Parts, Row, Task
from pemath.names import display

REPOSITORY = "nyu-mll/glue"

# The hub's columns; its label numbers are those of the official files.
_TEXTS = {
    "mnli": ("premise", "hypothesis"),
    "rte": ("sentence1", "sentence2"),
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
}


def read_hub(name: str) -> Parts:
    """The GLUE task called `name`, downloaded or from the cache of `datasets`.

    Raises: MissingExtra, ReferenceNotFound (with what to download instead), ConfigError.
    """
    known, short = GLUE[name], name.removeprefix("glue/")
    dev = "validation_matched" if short == "mnli" else "validation"
    train, test = fetch(name, REPOSITORY, short, ("train", dev), how_to_get(known))
    return Parts(known.task, _rows(known.task, train), _rows(known.task, test))


def fetch(
    name: str, repository: str, config: str | None, splits: Sequence[str], instead: str
) -> list[Iterable[dict[str, Any]]]:
    """The `splits` of a repository; `instead` says what to do where there is no hub.

    Raises: MissingExtra, ReferenceNotFound.
    """
    try:
        import datasets
    except ImportError as missing:
        raise MissingExtra(
            f"`{name}` needs `datasets`, which is not installed",
            hint=f'pip install "pemath[lab]"; or {instead}',
        ) from missing
    try:
        found = datasets.load_dataset(repository, config, split=list(splits))
    except (OSError, ValueError, RuntimeError) as error:
        raise ReferenceNotFound(
            f"`{name}` is neither in a data folder nor on a hub that can be reached",
            where=f"hub: {repository}" + (f", {config}" if config else ""),
            found=display(error, 200),
            hint=instead,
        ) from None
    return list(found)


def columns(
    found: Iterable[dict[str, Any]], wanted: Sequence[str], repository: str
) -> Iterator[tuple[Any, ...]]:
    """The `wanted` columns of every row. Raises: ConfigError."""
    for record in found:
        missing = [column for column in wanted if column not in record]
        if missing:
            raise ConfigError(
                f"the hub's rows have no column `{missing[0]}`", where=f"hub: {repository}"
            )
        yield tuple(record[column] for column in wanted)


def label(value: object, task: Task, repository: str, number: int) -> int | float:
    """The label that the hub's `value` means. Raises: ConfigError."""
    known = label_index(value, task.labels)
    if known is None:
        raise ConfigError(
            "unknown label",
            where=f"hub: {repository}, {task.name}, row {number}",
            found=display(value, 40),
        )
    return known


def _rows(task: Task, found: Iterable[dict[str, Any]]) -> tuple[Row, ...]:
    wanted = (*_TEXTS[task.name.removeprefix("glue/")], "label")
    rows = []
    for number, (*values, given) in enumerate(columns(found, wanted, REPOSITORY)):
        texts = tuple(str(value).strip() for value in values)
        known = label(given, task, REPOSITORY, number)
        # The hub's copy of QQP has two rows with an empty question, as the official file does.
        if all(texts):
            rows.append(Row(texts, known))
    return tuple(rows)
