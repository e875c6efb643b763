"""A task from the user's own files: CSV, TSV, JSON lines or Parquet.

CSV is quoted as usual. TSV is not: by its definition a tab separates and a quote is a quote, which
is also how the GLUE files are written. Rows are ordered by the fixed hash, because files are often
sorted, and a half of a sorted file would differ by more than its labels.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pemath.errors import ConfigError, MissingExtra, ReferenceNotFound
from pemath.lab.data.rows import Parts, Row, Task, order_key
from pemath.lab.data.split import cut_off
from pemath.names import display, listing

TEST_SHARE = 0.2
MOST_LABELS = 1_000
REGRESSION = "pearson_spearman"

# Where a record stands in its file, and its columns.
Record = tuple[str, dict[str, Any]]


class FileTask(Protocol):
    """What a recipe says about files: see `TaskSpec` there."""

    @property
    def name(self) -> str:
        """What the task is called."""

    @property
    def train(self) -> Path:
        """The file with train rows."""

    @property
    def test(self) -> Path | None:
        """The file with test rows; without it a fifth of the train file is cut off."""

    @property
    def validation(self) -> Path | None:
        """The file with validation rows; without it they are held out of the train rows."""

    @property
    def text(self) -> Sequence[str]:
        """The columns of the texts."""

    @property
    def label(self) -> str:
        """The column of the label."""

    @property
    def labels(self) -> Sequence[str] | None:
        """The labels in order; without them, those of the train file, sorted."""

    @property
    def metric(self) -> str:
        """How answers are judged."""

    @property
    def prompt(self) -> str | None:
        """What a generative model is asked."""

    @property
    def words(self) -> Sequence[str] | None:
        """What it may answer."""


def read_files(spec: FileTask, *, labelled: bool = True) -> Parts:
    """The rows of the files that `spec` names. Without `labelled` the train file needs no labels:
    all of its rows get the first one.

    Raises: ReferenceNotFound, MissingExtra (Parquet needs pandas), ConfigError; the message says
        which file, line and column.
    """
    paths = {"train": spec.train, "validation": spec.validation, "test": spec.test}
    bare = [] if labelled else [part for part, path in paths.items() if path == spec.train]
    records = {
        part: _records(Path(path), spec, labelled=part not in bare)
        for part, path in paths.items()
        if path is not None
    }
    known = next((found for part, found in records.items() if part not in bare), [])
    task = Task(
        name=spec.name,
        labels=() if spec.metric == REGRESSION else _labels(spec, known),
        metric=spec.metric,
        prompt=spec.prompt,
        words=tuple(spec.words or ()),
        source=f"own files: {', '.join(Path(p).name for p in paths.values() if p is not None)}",
    )
    rows = {
        part: _rows(found, task, spec, paths[part], labelled=part not in bare)
        for part, found in records.items()
    }
    train = tuple(sorted(rows["train"], key=order_key))
    validation = rows.get("validation")
    if "test" in rows:
        return Parts(task, train, rows["test"], validation)
    train, test = cut_off(train, task, TEST_SHARE)
    return Parts(task, train, test, validation)


def _labels(spec: FileTask, records: Sequence[Record]) -> tuple[str, ...]:
    if spec.labels is not None:
        return tuple(spec.labels)
    found = sorted({_name(record[spec.label]) for _, record in records} - {""})
    if not 2 <= len(found) <= MOST_LABELS:
        raise ConfigError(
            f"the column `{display(spec.label)}` holds no set of labels",
            where=display(spec.train),
            found=f"{len(found)} different values",
            expected=f"2 to {MOST_LABELS}",
            hint=f"for numbers set `metric: {REGRESSION}`",
        )
    return tuple(found)


def _rows(
    records: Sequence[Record], task: Task, spec: FileTask, path: Path | None, *, labelled: bool
) -> tuple[Row, ...]:
    rows, problems = [], []
    for place, record in records:
        texts = tuple(record[column] for column in spec.text)
        label = _label(record[spec.label], task) if labelled else 0
        for column, value in zip(spec.text, texts, strict=True):
            if not isinstance(value, str) or not value.strip():
                problems.append((place, column, value, "a text"))
        if label is None:
            expected = listing(list(task.labels)) if task.labels else "a number"
            problems.append((place, spec.label, record[spec.label], expected))
        elif not problems:
            rows.append(Row(tuple(text.strip() for text in texts), label))
    if problems:
        place, column, value, expected = problems[0]
        more = f" ({len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise ConfigError(
            f"a value of task `{display(task.name)}` cannot be used{more}",
            where=f"{display(path)}: {place}: column `{display(column)}`",
            found=f"`{display(value, 40)}`" if _name(value) else "nothing",
            expected=expected,
        )
    if not rows:
        raise ConfigError("the file holds no rows", where=display(path))
    return tuple(rows)


def _label(value: Any, task: Task) -> int | float | None:
    name = _name(value)
    if not task.is_regression:
        return task.labels.index(name) if name in task.labels else None
    try:
        score = float(name)
    except ValueError:
        return None
    return score if abs(score) < float("inf") else None


def _name(value: Any) -> str:
    """A label as text: 1, 1.0 and "1" are one label, as are true and "true"; "" for none."""
    if value is None or value != value:  # noqa: PLR0124 - NaN, of whatever library
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _records(path: Path, spec: FileTask, *, labelled: bool) -> list[Record]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(
            "a file of an unknown type", where=display(path), expected=", ".join(_READERS)
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReferenceNotFound(
            f"the file of task `{display(spec.name)}` cannot be read",
            where=display(path),
            found=error.strerror,
        ) from None
    wanted = [*spec.text, spec.label] if labelled else spec.text
    found = []
    for place, record in read(data, path):
        for column in wanted:
            if column not in record:
                raise ConfigError(
                    f"there is no column `{display(column)}`",
                    where=f"{display(path)}: {place}",
                    found=listing(list(record), 12) or "no columns",
                )
        found.append((place, record))
    return found


def decoded(data: bytes, path: Path) -> str:
    """The text of a file. Raises ConfigError where it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError("the file is not UTF-8", where=f"{display(path)}: line {line}") from None


def csv_records(data: bytes, path: Path, delimiter: str = ",") -> Iterator[Record]:
    """Records with quoting, after a header, each with its line. Raises: ConfigError."""
    text = io.StringIO(decoded(data, path), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                yield f"line {line}", _named(header, fields, f"{display(path)}: line {line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(
            "a record is not CSV", where=f"{display(path)}: line {line}", found=display(error)
        ) from None


def tsv_records(data: bytes, path: Path) -> Iterator[Record]:
    """Records without quoting, after a header, each with its line. Raises: ConfigError."""
    lines = decoded(data, path).split("\n")
    header = lines[0].rstrip("\r").split("\t")
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            fields = line.rstrip("\r").split("\t")
            yield f"line {number}", _named(header, fields, f"{display(path)}: line {number}")


def _named(header: list[str], fields: list[str], where: str) -> dict[str, Any]:
    if len(header) != len(fields):
        raise ConfigError(
            "a line has a wrong number of columns",
            where=where,
            found=len(fields),
            expected=f"{len(header)}, as the header has",
            hint="a text with tabs or line breaks needs quoted CSV, or JSON lines",
        )
    return dict(zip(header, fields, strict=True))


def jsonl_records(data: bytes, path: Path) -> Iterator[Record]:
    """The JSON objects of a file, one a line, each with its line. Raises: ConfigError."""
    for number, line in enumerate(decoded(data, path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{display(path)}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError("the line is not JSON", where=where, found=display(error)) from None
        if not isinstance(record, dict):
            raise ConfigError(
                "the line is not a JSON object", where=where, found=type(record).__name__
            )
        yield f"line {number}", record


def _parquet(data: bytes, path: Path) -> Iterator[Record]:
    try:
        import pandas as pd

        frame = pd.read_parquet(io.BytesIO(data))
    except ImportError as missing:
        raise MissingExtra(
            "Parquet needs pandas and pyarrow, which are not installed",
            where=display(path),
            hint='pip install "pemath[lab]", or write CSV or JSON lines',
        ) from missing
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the file is not Parquet", where=display(path), found=display(error)
        ) from None
    for number, record in enumerate(frame.to_dict("records"), 1):
        yield f"row {number}", {str(column): value for column, value in record.items()}


_READERS: dict[str, Callable[[bytes, Path], Iterator[Record]]] = {
    ".csv": csv_records,
    ".tsv": tsv_records,
    ".jsonl": jsonl_records,
    ".parquet": _parquet,
}
