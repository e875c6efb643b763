"""What is asked: a known task, or labelled texts in the user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pemath.errors import ReferenceNotFound, RequestError
from pemath.lab.data import tasks
from pemath.lab.data.files import REGRESSION, read_files
from pemath.lab.data.rows import Row, Task
from pemath.lab.data.split import without
from pemath.lab.models import family_of
from pemath.lab.recipes.mistakes import mistakes
from pemath.lab.recipes.sections import Model
from pemath.lab.recipes.task import TaskSpec
from pemath.names import display, listing

VALIDATION_ROWS = 200  # held out of a known task's train rows, for all verbs alike
_NAMES = {"train": "data", "test": "data", "learning_rate": "learning-rate", "name": "model"}
_Section = TypeVar("_Section", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A known `task` (with `data_dir`, where its files lie), or columns of files: `text` and
    `label`, the `labels` in order, the `metric`; `prompt` and `words` for a model that generates.
    """

    task: str | None = None
    data_dir: Path | None = None
    validation_rows: int | None = None
    text: Sequence[str] | None = None
    label: str | None = None
    labels: Sequence[str] | None = None
    metric: str | None = None
    prompt: str | None = None
    words: Sequence[str] | None = None

    def over(self, other: Subject) -> Subject:
        """This subject, with what it leaves open taken from `other`."""
        mine = {n: v for n, v in vars(self).items() if v is not None}
        return replace(other, **mine)


@dataclass(frozen=True)
class Asked:
    """A task with the parts that were asked for, and what is to be said about them."""

    task: Task
    parts: Mapping[str, tuple[Row, ...]]
    notes: tuple[str, ...] = ()


def read(subject: Subject, files: dict[str, Path], *, labelled: bool = True) -> Asked:
    """The rows of the parts (train, validation, test) in `files`, or those of the known task.

    Without `labelled` the first of two files, or the only one, needs no column of labels.

    Raises: RequestError, ReferenceNotFound, ConfigError, MissingExtra.
    """
    if not files:
        if subject.task is None:
            raise RequestError(
                "no rows are given",
                hint="name a file with --data, or a known task with --task (packages/movies, "
                "glue/rte, …)",
            )
        return _known(subject, subject.task)
    if subject.task is not None:
        raise RequestError(
            f"`{display(subject.task)}` brings its own rows", hint="leave --task or the files out"
        )
    return _own(subject, files, labelled=labelled)


def held_out(subject: Subject) -> int:
    """How many train rows of a known task are kept for validation."""
    rows = subject.validation_rows
    return VALIDATION_ROWS if rows is None else rows


def validated(
    section: type[_Section], given: Mapping[str, Any], found: list[str]
) -> _Section | None:
    """`given` as `section`, or None with what is wrong added to `found`."""
    try:
        return section.model_validate(dict(given))
    except ValidationError as error:
        for place, message in mistakes(section, error):
            found.append(f"--{_option(place)}: {message}" if place else message)
    return None


def refuse(found: Sequence[str]) -> None:
    """Raise RequestError with all of `found`, if anything was found."""
    if found:
        lines = list(dict.fromkeys(found))
        head = "the request has a mistake" if len(lines) == 1 else "the request has mistakes"
        raise RequestError("\n".join([f"{head}:", *(f"  {line}" for line in lines)]))


def check_answers(task: Task, given: Subject, model: Model) -> None:
    """Refuse a task that the model cannot answer, or that its metric cannot judge.

    `given` is what the user said, before anything was added. Raises: RequestError.
    """
    generates = family_of(model.name) != "encoder"
    if generates and not (task.prompt and task.words):
        raise RequestError(
            f"`{display(model.name)}` answers prompts, and there is none",
            hint='for example --prompt "Review: {0} This is" --words bad,good '
            "--labels negative,positive",
        )
    if not generates and (given.prompt or given.words):
        raise RequestError(
            f"`{display(model.name)}` answers by a classification head, and takes no prompt",
            hint="leave --prompt and --words out, or choose a model that generates: pip:smollm2",
        )
    if task.metric in ("f1", "accuracy_f1") and len(task.labels) != 2:
        raise RequestError(
            f"the metric {task.metric} is for two labels",
            found=listing(list(task.labels)) or "numbers",
            hint="choose accuracy or matthews",
        )


def _known(subject: Subject, name: str) -> Asked:
    data = tasks.load_task(name, data_dir=subject.data_dir, validation_rows=held_out(subject))
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    task = data.task
    if subject.labels is not None and tuple(subject.labels) != task.labels:
        raise RequestError(
            f"task `{name}` has labels of its own",
            found=listing(list(subject.labels)),
            expected=listing(list(task.labels)),
        )
    if subject.metric is not None:
        task = replace(task, metric=subject.metric)
    if subject.prompt is not None:
        task = replace(task, prompt=subject.prompt)
    if subject.words is not None:
        task = replace(task, words=tuple(_words(replace(subject, prompt=task.prompt))))
    return Asked(task, parts)


def _own(subject: Subject, files: dict[str, Path], *, labelled: bool) -> Asked:
    for path in files.values():
        if not Path(path).is_file():
            raise ReferenceNotFound("there is no such file", where=display(path))
    first, last = next(iter(files)), next(reversed(files))
    bare = not labelled and first == last
    needed = ["text", "label"]
    if bare:
        needed = ["text"] if subject.metric == REGRESSION else ["text", "labels"]
    refuse([f"--{name}: name {_COLUMNS[name]}" for name in needed if not getattr(subject, name)])
    given = {
        "name": "own",
        "train": files[first],
        "test": files[last],
        "text": list(subject.text or ()),
        "label": subject.label or ("no label" if bare else None),
        "labels": None if subject.labels is None else list(subject.labels),
        "metric": subject.metric or "accuracy",
        "prompt": subject.prompt,
        "words": None if subject.words is None else _words(subject),
    }
    found: list[str] = []
    spec = validated(TaskSpec, given, found)
    refuse(found)
    assert spec is not None  # noqa: S101 - for the type checker
    parts = read_files(spec, labelled=labelled)
    task = replace(parts.task, source=listing([Path(path).name for path in files.values()]))
    if first == last:
        return Asked(task, {first: parts.train if first == "train" else parts.test})
    # A row that chooses the weights must not judge them as well.
    chosen = without(parts.train, parts.test)
    dropped = len(parts.train) - len(chosen)
    if not chosen:
        raise RequestError(
            f"all rows of {display(files[first])} are in {display(files[last])} as well",
            hint="weights are chosen on rows that the test part does not have",
        )
    note = f"{dropped} {first} rows left out, because the {last} part has them too"
    return Asked(task, {first: chosen, last: parts.test}, (note,) if dropped else ())


_COLUMNS = {
    "text": "the column of the texts (two, with a comma, for pairs)",
    "label": "the column of the labels",
    "labels": "the labels in the order in which they were trained",
}


def _words(subject: Subject) -> list[str]:
    """The label words, each with the space that a prompt without one at its end needs."""
    apart = bool(subject.prompt) and not str(subject.prompt).endswith((" ", "\n"))
    words = subject.words or ()
    return [f" {word}" if apart and not word.startswith(" ") else word for word in words]


def _option(place: Sequence[str | int]) -> str:
    name = str(place[0])
    return _NAMES.get(name, name).replace("_", "-")
