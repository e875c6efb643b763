"""An expression over adapter folders, or one folder, judged on labelled rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.lab.own.bench import Asking, prepare
from pemath.lab.own.operands import check_names
from pemath.lab.own.scores import Score, scored
from pemath.lab.own.subject import Subject
from pemath.references import resolve_locally

ALONE = "adapter"  # what a folder is called that is evaluated without an expression


@dataclass(frozen=True)
class Evaluated:
    """Scores on one part: the expression's first, then each operand's alone."""

    metric: str
    labels: tuple[str, ...]
    rows: int
    scores: tuple[Score, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "labels": list(self.labels),
            "rows": self.rows,
            "scores": [score.as_dict() for score in self.scores],
            "notes": list(self.notes),
        }


def evaluate(
    expression: str,
    operands: Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    subject: Subject | None = None,
    asking: Asking | None = None,
    only: bool = False,
) -> Evaluated:
    """What `expression` over `operands` is worth on the rows of `data`, or on a known task's test.

    Without operands, `expression` is the reference of one adapter folder. Each operand is judged
    alone as well, unless `only` the expression is wanted. Heads are averaged.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    bound = {name: os.fspath(reference) for name, reference in (operands or {}).items()}
    title = expression
    if not bound and _is_folder(expression):
        bound, expression, only = {ALONE: expression}, ALONE, True
    check_names(expression, bound)
    files = {} if data is None else {"test": Path(data)}
    bench = prepare([expression], bound, subject or Subject(), files, asking or Asking())
    asked = {title: expression}
    if not only:
        asked |= {name: name for name in bound}
    with bench.ask() as ask:
        answers = {name: (text, ask(text, "test")) for name, text in asked.items()}
    task, rows = bench.asked.task, bench.rows("test")
    scores = tuple(scored(task, rows, answers))
    return Evaluated(task.metric, task.labels, len(rows), scores, bench.notes)


def _is_folder(expression: str) -> bool:
    if expression.startswith((".", "/", "~")):
        return True  # and resolving it will say what is wrong
    return resolve_locally(expression) is not None
