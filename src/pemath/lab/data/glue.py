"""The eight GLUE tasks of the paper, from a folder of the official files.

Layout under the data folder: `glue/` holds the official folders (CoLA, MNLI, MRPC, QNLI, QQP, RTE,
SST-2, STS-B) with train.tsv and dev.tsv; where MNLI, QNLI or QQP have no train.tsv, their subsets
`glue_9k/NAME/{train,dev}.json` take its place. Official test labels are not public, so the test
part is the official development set, as in the paper. Train rows keep the order of their file:
the paper's split goes by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.errors import ConfigError, ReferenceNotFound
from pemath.lab.data.rows import Parts, Row, Task
from pemath.names import display

Columns = tuple[str, ...] | tuple[int, ...]

_JSON: Columns = ("text_a", "text_b", "label")

# One wording for both, so that one module can answer either task.
_IMPLIES = 'Does "{0}" imply that "{1}"? Answer:'


@dataclass(frozen=True)
class GlueTask:
    """A task, its folder, and the columns of its official files (texts, then the label)."""

    task: Task
    folder: str
    columns: Columns
    dev: str = "dev.tsv"
    ragged: bool = False  # the official file has rows with too few columns, which everyone skips


def _glue(name: str, labels: str, metric: str, origin: str, **how: Any) -> Task:
    return Task(
        name=f"glue/{name}",
        labels=tuple(labels.split()),
        metric=metric,
        source=f"GLUE {origin}; test part: the official development set",
        **how,
    )


GLUE: dict[str, GlueTask] = {
    entry.task.name: entry
    for entry in (
        GlueTask(
            _glue(
                "mnli",
                "entailment neutral contradiction",
                "accuracy",
                "MNLI, matched (Williams et al. 2018; OANC, CC BY 3.0 and CC BY-SA 3.0)",
                prompt=_IMPLIES,
                words=(" yes", " maybe", " no"),
            ),
            "MNLI",
            ("sentence1", "sentence2", "gold_label"),
            dev="dev_matched.tsv",
        ),
        GlueTask(
            _glue(
                "rte",
                "entailment not_entailment",
                "accuracy",
                "RTE (PASCAL RTE 1, 2, 3, 5; for research, no explicit licence)",
                prompt=_IMPLIES,
                words=(" yes", " no"),
            ),
            "RTE",
            ("sentence1", "sentence2", "label"),
        ),
        GlueTask(
            _glue(
                "cola",
                "unacceptable acceptable",
                "matthews",
                "CoLA (Warstadt et al. 2018; quotes from linguistics publications, for research)",
                prompt='Is the sentence "{0}" grammatical? Answer:',
                words=(" no", " yes"),
            ),
            "CoLA",
            (3, 1),
        ),
        GlueTask(
            _glue(
                "sst2",
                "negative positive",
                "accuracy",
                "SST-2 (Socher et al. 2013; for research, no explicit licence)",
                prompt="Review: {0}\nIs it positive or negative? Answer:",
                words=(" negative", " positive"),
            ),
            "SST-2",
            ("sentence", "label"),
        ),
        GlueTask(
            _glue(
                "mrpc",
                "not_equivalent equivalent",
                "accuracy_f1",
                "MRPC (Dolan and Brockett 2005; Microsoft Research licence)",
                prompt='Do "{0}" and "{1}" mean the same? Answer:',
                words=(" no", " yes"),
            ),
            "MRPC",
            ("#1 String", "#2 String", "Quality"),
        ),
        GlueTask(
            _glue(
                "qnli",
                "entailment not_entailment",
                "accuracy",
                "QNLI (Rajpurkar et al. 2016, Wang et al. 2018; CC BY-SA 4.0)",
                prompt='Does "{1}" answer the question "{0}"? Answer:',
                words=(" yes", " no"),
            ),
            "QNLI",
            ("question", "sentence", "label"),
        ),
        GlueTask(
            _glue(
                "qqp",
                "not_duplicate duplicate",
                "accuracy_f1",
                "QQP (Quora; for non-commercial use)",
                prompt='Do "{0}" and "{1}" ask the same? Answer:',
                words=(" no", " yes"),
            ),
            "QQP",
            ("question1", "question2", "is_duplicate"),
            ragged=True,
        ),
        GlueTask(
            _glue(
                "stsb",
                "",
                "pearson_spearman",
                "STS-B (Cer et al. 2017; CC BY-SA 4.0)",
            ),
            "STS-B",
            ("sentence1", "sentence2", "score"),
        ),
    )
}


def read_folder(name: str, data_dir: Path) -> Parts:
    """The task called `name` from the files under `data_dir`.

    Raises: ReferenceNotFound (a file is missing; the message says which), ConfigError.
    """
    known = GLUE[name]
    official, subset = data_dir / "glue" / known.folder, data_dir / "glue_9k" / known.folder
    train, dev = official / "train.tsv", official / known.dev
    if not train.is_file() and subset.is_dir():
        train = subset / "train.json"
        dev = dev if dev.is_file() else subset / "dev.json"
    missing = [path for path in (train, dev) if not path.is_file()]
    if missing:
        raise ReferenceNotFound(
            f"the files of `{display(name)}` are not there",
            where=display(data_dir),
            expected=f"the file {display(missing[0])}",
            hint=how_to_get(known),
        )
    return Parts(known.task, tuple(_rows(known, train)), tuple(_rows(known, dev)))


def how_to_get(known: GlueTask) -> str:
    """Where the files come from and how they must lie."""
    return (
        f"download GLUE's {known.folder} (https://gluebenchmark.com/tasks) and put its train.tsv "
        f"and {known.dev} under glue/{known.folder}/ in the data folder; `--preset packages` needs "
        "no download"
    )


def label_index(value: object, labels: Sequence[str]) -> int | float | None:
    """The label that a file's `value` means: a name, an index, or a score; None for none."""
    text = str(value).strip()
    if not labels:
        try:
            score = float(text)
        except ValueError:
            return None
        return score if abs(score) < float("inf") else None
    if text in labels:
        return labels.index(text)
    return int(text) if text.isascii() and text.isdigit() and int(text) < len(labels) else None


def _rows(known: GlueTask, path: Path) -> Iterator[Row]:
    json_file = path.suffix == ".json"
    values = _json_values(path) if json_file else _tsv_values(path, known)
    for number, (*texts, label) in values:
        index = label_index(label, known.task.labels)
        if index is None or not all(text.strip() for text in texts):
            raise ConfigError(
                "a text is empty" if index is not None else "unknown label",
                where=f"{display(path)}: {'entry' if json_file else 'line'} {number}",
                found=None if index is not None else f"`{display(label, 40)}`",
                expected=", ".join(known.task.labels) or "text and a number",
            )
        yield Row(tuple(text.strip() for text in texts), index)


def _tsv_values(path: Path, known: GlueTask) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of a file whose quotes mean nothing; only a newline ends a line."""
    lines = _text(path).split("\n")
    columns: Sequence[str | int] = known.columns
    width, begin = 1 + max((c for c in columns if isinstance(c, int)), default=0), 0
    if isinstance(columns[0], str):
        header = lines[0].rstrip("\r").split("\t")
        lost = [str(c) for c in columns if c not in header]
        if lost:
            raise ConfigError(
                f"the file has no column `{display(lost[0])}`",
                where=display(path),
                found=", ".join(display(name, 30) for name in header[:12]),
            )
        columns, width, begin = [header.index(str(c)) for c in columns], len(header), 1
    for number, line in enumerate(lines[begin:], begin + 1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("\t")
        if len(fields) != width:
            if known.ragged and len(fields) < width:
                continue
            raise ConfigError(
                "a line has a wrong number of columns",
                where=f"{display(path)}: line {number}",
                found=len(fields),
                expected=width,
            )
        yield number, [fields[int(c)] for c in columns]


def _json_values(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "the file is not JSON", where=display(path), found=display(error)
        ) from None
    entries = list(found.values()) if isinstance(found, dict) else []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or any(not isinstance(entry.get(c), str) for c in _JSON):
            raise ConfigError(
                "an entry lacks a text or its label",
                where=f"{display(path)}: entry {number}",
                expected=", ".join(map(str, _JSON)),
            )
        yield number, [entry[c] for c in _JSON]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ReferenceNotFound(
            "the file cannot be read", where=display(path), found=error.strerror
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the file is not UTF-8", where=display(path), found=f"byte {error.start}"
        ) from None
