"""Files of strangers in the user's data folder: read strictly, and never run.

The layout is one folder for each subject (glue, toxicity, instruct, lm, reviews_1k, blitzer), with
the files as their authors published them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pemath.errors import ConfigError, ReferenceNotFound, RequestError
from pemath.names import display


def needed(name: str, data_dir: Path | None, instead: str = "") -> Path:
    """The data folder, which `name` cannot do without. Raises: RequestError."""
    if data_dir is None:
        raise RequestError(
            f"`{display(name)}` is read from a data folder, and none is given",
            hint="name the folder with --data-dir" + (f", or use {instead}" if instead else ""),
        )
    return data_dir


def read(data_dir: Path, file: str, origin: str) -> tuple[bytes, Path]:
    """A file under the data folder, and where it is. `origin` says where it can be had.

    Raises: ReferenceNotFound.
    """
    path = data_dir / file
    try:
        return path.read_bytes(), path
    except OSError as error:
        raise ReferenceNotFound(
            "a file is not in the data folder",
            where=display(path),
            found=error.strerror,
            hint=f"put {file} there, from {origin}",
        ) from None


def columns(
    records: Iterable[tuple[str, dict[str, Any]]], wanted: tuple[str, ...], path: Path
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The texts in the `wanted` columns of every record, and the record's place.

    Raises: ConfigError (a column is not there, or holds no text).
    """
    for place, record in records:
        for column in wanted:
            if not isinstance(record.get(column), str):
                raise ConfigError(
                    f"there is no text `{display(column)}`",
                    where=f"{display(path)}: {place}",
                    found=type(record[column]).__name__
                    if column in record
                    else ", ".join(display(name, 30) for name in list(record)[:12]),
                )
        yield place, tuple(record[column] for column in wanted)


def json_records(data: bytes, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a JSON file that is a list of them, or an object of numbered ones.

    Raises: ConfigError.
    """
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "the file is not JSON", where=display(path), found=display(error)
        ) from None
    entries = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(entries, list) or not entries:
        raise ConfigError("the file holds no entries", where=display(path))
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ConfigError(
                "an entry is not a JSON object",
                where=f"{display(path)}: entry {number}",
                found=type(entry).__name__,
            )
        yield f"entry {number}", entry


def index(value: str, labels: tuple[str, ...], place: str, path: Path) -> int:
    """Which of `labels` the file's `value` is. Raises: ConfigError."""
    if value.strip() not in labels:
        raise ConfigError(
            "unknown label",
            where=f"{display(path)}: {place}",
            found=f"`{display(value, 40)}`",
            expected=", ".join(labels),
        )
    return labels.index(value.strip())
