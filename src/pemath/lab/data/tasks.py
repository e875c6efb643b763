"""Tasks by name: where their rows come from, and how they are cut into disjoint parts.

Held-out parts are settled once, before anything is trained: the test part first (official, or
by a fixed hash), then validation rows out of the train rows. A train row whose texts occur in a
held-out part is dropped.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pemath.errors import RequestError
from pemath.lab.data import glue, packages, reviews
from pemath.lab.data.rows import Parts, Task, TaskData, digest
from pemath.lab.data.split import hold_out, sample, without
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.data.files import FileTask


TASKS: Mapping[str, Task] = MappingProxyType(
    {name: known.task for name, known in glue.GLUE.items()}
    | {name: known.task for name, known in packages.PACKAGES.items()}
    | {name: known.task for name, known in (reviews.REVIEWS | reviews.HUB).items()}
)


def load_task(
    name: str | FileTask,
    *,
    data_dir: Path | None = None,
    validation_rows: int = 0,
    test_rows: int | None = None,
) -> TaskData:
    """The task of a known name, or of a user's own files.

    Args:
        name: a name of `TASKS`, or a description of files.
        data_dir: a folder with the GLUE files, which otherwise come from the hub, and with
            the reviews, which do not.
        validation_rows: rows to hold out of the train rows; a user's validation file is cut to
            that many.
        test_rows: at most so many test rows, chosen by a fixed hash.

    Raises: RequestError (unknown name, too few rows), MissingExtra, ReferenceNotFound,
        ConfigError (a malformed file).
    """
    if validation_rows < 0 or (test_rows is not None and test_rows < 1):
        raise RequestError(
            "the number of rows must not be negative, and at least 1 for the test part",
            found=f"validation {validation_rows}, test {test_rows}",
        )
    return _cut(_parts(name, data_dir), validation_rows, test_rows)


def _parts(name: str | FileTask, data_dir: Path | None) -> Parts:
    if not isinstance(name, str):
        from pemath.lab.data.files import read_files

        return read_files(name)
    if name in packages.PACKAGES:
        return packages.read_package(name)
    if name in reviews.REVIEWS or name in reviews.HUB:
        return reviews.read_reviews(name, data_dir)
    if name in glue.GLUE:
        if data_dir is not None:
            return glue.read_folder(name, data_dir)
        from pemath.lab.data.hub import read_hub

        return read_hub(name)
    close = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
    raise RequestError(
        f"unknown task `{display(name)}`",
        expected=", ".join(TASKS),
        hint=f"did you mean `{close[0]}`?"
        if close
        else "describe files of your own in the recipe: name, train, text, label",
    )


def _cut(parts: Parts, validation_rows: int, test_rows: int | None) -> TaskData:
    # Against the whole test part, not the rows that the cap leaves: the train part is the same
    # whatever is evaluated.
    train = without(parts.train, parts.test)
    if parts.validation is None:
        unseen = len(train)
        train, validation = hold_out(train, parts.task, validation_rows)
        dropped = len(parts.train) - unseen
    else:
        validation = without(parts.validation, parts.test)
        train = without(train, validation)
        dropped = len(parts.train) - len(train)
        validation = sample(validation, validation_rows)
    test = sample(parts.test, test_rows)
    if not train or not test or (validation_rows and not validation):
        raise RequestError(
            f"task `{display(parts.task.name)}` has too few rows",
            found=f"{len(train)} for training, {len(validation)} for validation, {len(test)} "
            f"for the test; {dropped} train rows dropped because a held-out part has them too",
        )
    task = parts.task
    if dropped:
        note = f"{task.source}; {dropped} train rows dropped because a held-out part has them too"
        task = replace(task, source=note)
    return TaskData(task, train, validation, test, digest(train, validation, test))
