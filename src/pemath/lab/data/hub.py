"""The GLUE tasks from the hub, where it can be reached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pemath.errors import ConfigError, MissingExtra, ReferenceNotFound
from pemath.lab.data.glue import GLUE, how_to_get, label_index
from pemath.lab.data.rows import Parts, Row
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
    known = GLUE[name]
    short = name.removeprefix("glue/")
    try:
        import datasets
    except ImportError as missing:
        raise MissingExtra(
            f"`{name}` needs a data folder, or `datasets`, which is not installed",
            hint=f'pip install "pemath[lab]"; or {how_to_get(known)}',
        ) from missing
    dev = "validation_matched" if short == "mnli" else "validation"
    try:
        train, test = datasets.load_dataset(REPOSITORY, short, split=["train", dev])
    except (OSError, ValueError, RuntimeError) as error:
        raise ReferenceNotFound(
            f"`{name}` is neither in a data folder nor on a hub that can be reached",
            where=f"hub: {REPOSITORY}, {short}",
            found=display(error, 200),
            hint=how_to_get(known),
        ) from None
    return Parts(known.task, _rows(name, train), _rows(name, test))


def _rows(name: str, found: Iterable[dict[str, Any]]) -> tuple[Row, ...]:
    columns, task = _TEXTS[name.removeprefix("glue/")], GLUE[name].task
    rows = []
    for number, record in enumerate(found):
        missing = [column for column in (*columns, "label") if column not in record]
        if missing:
            raise ConfigError(
                f"the hub's rows have no column `{missing[0]}`", where=f"hub: {REPOSITORY}, {name}"
            )
        texts = tuple(str(record[column]).strip() for column in columns)
        label = label_index(record["label"], task.labels)
        if label is None:
            raise ConfigError(
                "unknown label",
                where=f"hub: {REPOSITORY}, {name}, row {number}",
                found=display(record["label"], 40),
            )
        # The hub's copy of QQP has two rows with an empty question, as the official file does.
        if all(texts):
            rows.append(Row(texts, label))
    return tuple(rows)
