"""Reviews of one domain each, negative or positive: tasks to carry over from domain to domain.

Layout under the data folder: `blitzer/DOMAIN/{train,dev}.tsv` (quoted, columns sentence and label)
and `reviews_1k/{yelp,amazon}_review/{dev,test}.json` (200 reviews for each number of stars). The
test part is the file named last. Train rows are in the fixed hash's order. The tasks `hub/...` are
the paper's own two, from the hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pemath.lab.data import folder, hub
from pemath.lab.data.files import csv_records
from pemath.lab.data.rows import Parts, Row, Task, order_key

PROMPT = "Review: {0}\nIs it positive or negative? Answer:"

# 0 to 4 are one to five stars; three stars are neither negative nor positive.
_STARS: Mapping[str, int | None] = MappingProxyType({"0": 0, "1": 0, "2": None, "3": 1, "4": 1})
_SIGNS: Mapping[str, int | None] = MappingProxyType({"0": 0, "1": 1})

# The Yelp corpus in circulation writes some characters out as escape sequences.
_WRITTEN_OUT = re.compile(r'\\u([0-9a-fA-F]{4})|\\n|\\(?="")|""')

_Read = Callable[[bytes, Path], Iterator[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True)
class ReviewTask:
    """A task, its files of train and test rows, and how to read them."""

    task: Task
    train: str
    test: str
    columns: tuple[str, str]
    labels: Mapping[str, int | None]
    read: _Read
    origin: str


@dataclass(frozen=True)
class HubTask:
    """A task, its repository on the hub, the column of its texts, and which rows to take."""

    task: Task
    repository: str
    column: str
    splits: tuple[str, str] = ("train[:50000]", "test[:10000]")


def _quoted_tsv(data: bytes, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return csv_records(data, path, "\t")


def _task(name: str, source: str) -> Task:
    return Task(
        name=name,
        labels=("negative", "positive"),
        metric="accuracy",
        prompt=PROMPT,
        words=(" negative", " positive"),
        source=source,
    )


def _blitzer(domain: str, what: str) -> ReviewTask:
    return ReviewTask(
        _task(
            f"reviews/{domain}",
            f"Amazon reviews of {what} (Blitzer et al. 2007; for research), 1,700 for training "
            "and 300 for the test",
        ),
        f"blitzer/{domain}/train.tsv",
        f"blitzer/{domain}/dev.tsv",
        ("sentence", "label"),
        _SIGNS,
        _quoted_tsv,
        "https://github.com/eyalbd2/Reproducing-AutoPrompt (blitzer_data)",
    )


def _stars(name: str, what: str) -> ReviewTask:
    return ReviewTask(
        _task(
            f"reviews/{name}",
            f"{what}, 1,000 + 1,000 of them, without those of three stars",
        ),
        f"reviews_1k/{name}_review/dev.json",
        f"reviews_1k/{name}_review/test.json",
        ("ori", "label"),
        _STARS,
        folder.json_records,
        f"https://github.com/ZhengxiangShi/PowerfulPromptFT (data/{name}_review)",
    )


REVIEWS: dict[str, ReviewTask] = {
    known.task.name: known
    for known in (
        _blitzer("books", "books"),
        _blitzer("dvd", "films on DVD"),
        _blitzer("electronics", "electronic devices"),
        _blitzer("kitchen", "kitchen appliances"),
        _stars("yelp", "Yelp reviews (Zhang et al. 2015; Yelp's terms, for research)"),
        _stars("amazon", "Amazon reviews (McAuley and Leskovec 2013; for research)"),
    )
}

HUB: dict[str, HubTask] = {
    known.task.name: known
    for known in (
        HubTask(
            _task(
                "hub/amazon_polarity",
                "Amazon polarity (Zhang et al. 2015), the first 50,000 train and 10,000 test rows",
            ),
            "fancyzhx/amazon_polarity",
            "content",
        ),
        HubTask(
            _task(
                "hub/yelp_polarity",
                "Yelp polarity (Zhang et al. 2015), the first 50,000 train and 10,000 test rows",
            ),
            "fancyzhx/yelp_polarity",
            "text",
        ),
    )
}


def read_reviews(name: str, data_dir: Path | None) -> Parts:
    """The task called `name`, one of `REVIEWS` or of `HUB`.

    Raises: RequestError (no data folder), MissingExtra, ReferenceNotFound, ConfigError.
    """
    if name in HUB:
        return _from_hub(HUB[name])
    known = REVIEWS[name]
    root = folder.needed(name, data_dir, "packages/movies and packages/amazon, which need none")
    train, test = (_unique(_rows(known, file, root)) for file in (known.train, known.test))
    return Parts(known.task, tuple(sorted(train, key=order_key)), test)


def _rows(known: ReviewTask, file: str, data_dir: Path) -> Iterator[Row]:
    data, path = folder.read(data_dir, file, known.origin)
    labels = tuple(known.labels)
    found = folder.columns(known.read(data, path), known.columns, path)
    for place, (text, value) in found:
        label = known.labels[labels[folder.index(value, labels, place, path)]]
        if label is not None and (shown := readable(text)):
            yield Row((shown,), label)


def readable(text: str) -> str:
    """`text` on one line, with the characters that were written out as escape sequences."""
    return " ".join(_WRITTEN_OUT.sub(_character, text).split())


def _character(match: re.Match[str]) -> str:
    if match[1] is not None:
        character = chr(int(match[1], 16))
        return character if character.isprintable() else " "
    return {r"\n": " ", '""': '"'}.get(match[0], "")


def _from_hub(known: HubTask) -> Parts:
    train, test = hub.fetch(
        known.task.name,
        known.repository,
        None,
        known.splits,
        "use reviews/amazon and reviews/yelp with a data folder, or packages/amazon",
    )
    parts = []
    for found in (train, test):
        columns = hub.columns(found, (known.column, "label"), known.repository)
        rows = (
            (readable(str(text)), hub.label(label, known.task, known.repository, i))
            for i, (text, label) in enumerate(columns)
        )
        parts.append(_unique(Row((text,), label) for text, label in rows if text))
    return Parts(known.task, *parts)


def _unique(rows: Iterable[Row]) -> tuple[Row, ...]:
    first: dict[tuple[str, ...], Row] = {}
    for row in rows:
        first.setdefault(row.identity, row)
    return tuple(first.values())
