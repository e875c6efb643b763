"""Reading a run folder: what an experiment left there, checked line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pemath.errors import ConfigError, ReferenceNotFound, StorageError
from pemath.lab.metrics import metric
from pemath.lab.report.lines import Facts, Finite, Record, Site, Training
from pemath.lab.search import weight_grid
from pemath.names import display

FACTS, RECORDS, MODULES, INTERFERENCE = (
    "run.json",
    "records.jsonl",
    "modules.jsonl",
    "interference.json",
)
_SAME = 1e-6  # a stored metric and the one computed again


@dataclass(frozen=True)
class Run:
    """A run folder. `labels` are by task and part; `notes` say what was odd about the files."""

    folder: Path
    facts: Facts
    labels: Mapping[tuple[str, str], NDArray[np.float64]]
    records: tuple[Record, ...]
    modules: tuple[Training, ...]
    sites: tuple[Site, ...]
    checked: int
    notes: tuple[str, ...]

    @property
    def tasks(self) -> list[str]:
        """The tasks in the recipe's order."""
        return list(self.facts.tasks)

    @property
    def pems(self) -> list[str]:
        """The kinds of module in the recipe's order, then any others that were evaluated."""
        stated = [name for name, given in self._recipe("modules", {}).items() if given is not None]
        return list(dict.fromkeys([*stated, *(record.pem for record in self.records)]))

    @property
    def seeds(self) -> list[int]:
        """The recipe's seeds, then any others that were evaluated."""
        return list(
            dict.fromkeys([*self._recipe("seeds", []), *(each.seed for each in self.records)])
        )

    @property
    def merges(self) -> dict[str, str]:
        """The compositions of the recipe: expressions by name."""
        return dict(self._recipe("compositions", {}))

    @property
    def initialisations(self) -> list[str]:
        """The recipe's initialisations."""
        return list(self._recipe("initialisation", ["shared"]))

    @property
    def swept(self) -> str | None:
        """The expression of the sweep, if there was one."""
        sweep = self._recipe("sweep", None)
        return sweep.get("expression") if isinstance(sweep, Mapping) else None

    @property
    def curves(self) -> dict[str, str]:
        """The expressions that the recipe follows over a weight, by name."""
        given = self._recipe("curves", {})
        return {n: c["expression"] if isinstance(c, Mapping) else c for n, c in given.items()}

    def curves_of(self, pem: str) -> list[str]:
        """The names of those that are followed for this kind of module."""
        given = self._recipe("curves", {})
        only = {n: c.get("modules") if isinstance(c, Mapping) else None for n, c in given.items()}
        return [name for name, pems in only.items() if not pems or pem in pems]

    @property
    def weights(self) -> list[float]:
        """The weights at which they are followed."""
        given = self._recipe("weights", [])
        return [float(one) for one in weight_grid(given).values] if given else []

    def _recipe(self, section: str, default: Any) -> Any:
        found = self.facts.recipe.get(section)
        return default if found is None else found


def read_run(folder: Path) -> Run:
    """The run in `folder`; files that an unfinished run lacks are taken as empty.

    Raises: ReferenceNotFound (no run there), ConfigError (a file is malformed), StorageError.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file():
        raise ReferenceNotFound(
            f"there is no run to report on: no {FACTS}",
            where=display(folder),
            hint="give the folder that `pemath reproduce` or `pemath sweep` wrote",
        )
    facts = _parsed(Facts, _text(folder / FACTS), folder / FACTS)
    notes: list[str] = []
    labels = dict(_labels(folder, facts))
    records = list(_lines(Record, folder / RECORDS, notes))
    latest = {record.key: record for record in records}
    if len(latest) < len(records):
        notes.append(
            f"{len(records) - len(latest)} compositions are there more than once; the last counts"
        )
    for record in latest.values():
        _check(record, facts, labels, folder / RECORDS)
    wrong = [one for one in latest.values() if not _agrees(one, facts, labels)]
    if wrong:
        notes.append(
            f"{len(wrong)} stored metrics differ from what their predictions give, the first is "
            f"`{wrong[0].composition}` of {wrong[0].task}; this report uses the predictions"
        )
    path = folder / INTERFERENCE
    sites = _parsed(tuple[Site, ...], _text(path), path) if path.is_file() else ()
    return Run(
        folder,
        facts,
        labels,
        tuple(latest.values()),
        tuple(_lines(Training, folder / MODULES, notes)),
        sites,
        len(latest) - len(wrong),
        tuple(notes),
    )


def _labels(folder: Path, facts: Facts) -> Iterator[tuple[tuple[str, str], NDArray[np.float64]]]:
    for task in facts.tasks:
        path = folder / "labels" / f"{task.replace('/', '__')}.json"
        if path.is_file():
            parts = _parsed(dict[str, tuple[Finite, ...]], _text(path), path)
            for part, values in parts.items():
                yield (task, part), np.array(values, dtype=np.float64)


def _check(record: Record, facts: Facts, labels: Mapping[tuple[str, str], Any], path: Path) -> None:
    """Refuse a record whose rows are unknown."""
    gold = labels.get((record.task, record.part))
    if record.task not in facts.tasks or gold is None or len(gold) != len(record.predictions):
        raise ConfigError(
            f"the predictions of `{display(record.composition, 40)}` do not belong to the labels "
            f"of {display(record.task, 60)} ({display(record.part, 20)})",
            where=display(path),
            found=f"{len(record.predictions)} predictions",
            expected="no labels" if gold is None else f"{len(gold)}",
        )


def _agrees(record: Record, facts: Facts, labels: Mapping[tuple[str, str], Any]) -> bool:
    judge = metric(facts.tasks[record.task].metric)
    value = float(judge(labels[record.task, record.part], np.array(record.predictions)))
    return math.isclose(value, record.metric, rel_tol=_SAME, abs_tol=_SAME)


def _lines(model: type[Any], path: Path, notes: list[str]) -> Iterator[Any]:
    if not path.is_file():
        return
    lines = _text(path).split("\n")
    if lines[-1].strip():
        notes.append(f"the last line of {path.name} is not finished and was left out")
    for number, line in enumerate(lines[:-1], 1):
        if line.strip():
            yield _parsed(model, line, path, number)


def _parsed(model: Any, text: str, path: Path, line: int | None = None) -> Any:
    where = display(path) + (f", line {line}" if line else "")
    try:
        return TypeAdapter(model).validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"this is not what a run leaves: {display(place)}: {display(first['msg'])}",
            where=where,
        ) from None
    except ValueError as error:
        raise ConfigError(f"this is not JSON: {display(error)}", where=where) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError("this is not UTF-8 text", where=display(path)) from None
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=display(path)) from None
