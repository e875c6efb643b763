"""An expression with free weights: chosen on a validation part, reported on the test part."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.composition.run import compose
from pemath.errors import RequestError
from pemath.expression.parser import parse
from pemath.expression.tree import Number, occurrences
from pemath.formats.commit import check_target
from pemath.lab.metrics import score_of
from pemath.lab.own.bench import Asking, Bench, prepare
from pemath.lab.own.card import write_card
from pemath.lab.own.operands import check_names
from pemath.lab.own.scores import Score, scored
from pemath.lab.own.subject import Subject
from pemath.lab.search import (
    Search,
    Span,
    Tried,
    Weights,
    best,
    combinations,
    every,
    fill,
    plain,
    require,
    search,
    used_weights,
    weight_grid,
)
from pemath.names import listing

_CHECKED = 100  # combinations that are planned before a model is loaded


@dataclass(frozen=True)
class Swept:
    """The weights that were tried, with their scores on the validation part, those chosen there,
    and what they are worth on the test part beside each operand alone.
    """

    metric: str
    labels: tuple[str, ...]
    validation_rows: int
    rows: int
    tried: tuple[Tried, ...]
    chosen: Tried
    expression: str
    scores: tuple[Score, ...]
    folder: Path | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "labels": list(self.labels),
            "validation_rows": self.validation_rows,
            "rows": self.rows,
            "curve": [{"weights": plain(t.weights), "validation": t.score} for t in self.tried],
            "chosen": {
                "weights": plain(self.chosen.weights),
                "validation": self.chosen.score,
                "expression": self.expression,
            },
            "scores": [score.as_dict() for score in self.scores],
            "folder": None if self.folder is None else str(self.folder),
            "notes": list(self.notes),
        }


def sweep(
    expression: str,
    operands: Mapping[str, str | os.PathLike[str]],
    weights: Mapping[str, str | Sequence[Number]],
    *,
    validation: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    subject: Subject | None = None,
    asking: Asking | None = None,
    kind: Search = "grid",
    trials: int = 30,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Swept:
    """Choose the `weights` of `expression` on `validation` and judge them on `data`; both are files,
    or the parts of a known task. Heads are averaged.

    `kind` is grid (all combinations) or optuna (`trials` of them, drawn from `seed`). With
    `out` the chosen composition is written there.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    bound = {name: os.fspath(reference) for name, reference in operands.items()}
    spans = _spans(expression, bound, weights, kind)
    if trials < 1:
        raise RequestError("a search needs at least one trial", found=trials)
    require(kind)
    target = None if out is None else Path(os.path.abspath(out))
    if target is not None:
        check_target(target, force=force)
    given = {"validation": validation, "test": data}
    files = {part: Path(path) for part, path in given.items() if path is not None}
    if len(files) == 1:
        raise RequestError(
            f"there is a file for the {next(iter(files))} part only",
            hint="weights are chosen on --validation FILE and judged on --data FILE, other rows",
        )
    texts = [str(fill(expression, bound, one)) for one in itertools.islice(every(spans), _CHECKED)]
    bench = prepare(texts, bound, subject or Subject(), files, asking or Asking(), chooses=True)
    task = bench.asked.task
    with bench.ask() as ask:

        def score(chosen: Weights) -> float:
            answered = ask(str(fill(expression, bound, chosen)), "validation")
            return score_of(task, bench.rows("validation"), answered.predictions)

        tried = search(spans, score, kind=kind, trials=trials, seed=seed)
        chosen = best(tried)
        text = str(fill(expression, bound, chosen.weights))
        asked = {text: text} | {name: name for name in bound}
        answers = {name: (one, ask(one, "test")) for name, one in asked.items()}
    if target is not None:
        _keep(bench, text, bound, target, force=force)
    return Swept(
        task.metric,
        task.labels,
        len(bench.rows("validation")),
        len(bench.rows("test")),
        tuple(tried),
        chosen,
        text,
        tuple(scored(task, bench.rows("test"), answers)),
        target,
        bench.notes,
    )


def _keep(
    bench: Bench, expression: str, bound: Mapping[str, str], target: Path, *, force: bool
) -> None:
    """Write the composition, and how to ask it."""
    used = {str(operand.name) for operand in occurrences(parse(expression, dict(bound)))}
    statistics = {n: file for n, file in bench.asking.statistics.items() if n in used}
    options: dict[str, Any] = {"statistics": statistics} if statistics else {}
    compose(
        expression,
        target,
        operands={name: bound[name] for name in sorted(used)},
        force=force,
        heads="average",
        **options,
    )
    write_card(target, bench.card(), pem=next(iter(bench.modules.values())).pem)


def _spans(
    expression: str,
    bound: Mapping[str, str],
    weights: Mapping[str, str | Sequence[Number]],
    kind: Search,
) -> dict[str, Span]:
    """The values of every weight, checked against the expression. Raises: UsageError."""
    spans = {name: weight_grid(given) for name, given in weights.items()}
    if not spans:
        raise RequestError(
            "no weight is given to sweep",
            hint='for example: pemath sweep "(1-t)*a + t*b" t=0:1:0.1 a=A b=B',
        )
    if kind == "grid":
        combinations(spans)
    probe = next(every(spans))
    unused = sorted(set(spans) - used_weights(expression, bound, probe))
    if unused:
        raise RequestError(f"weights that the expression does not use: {listing(unused)}")
    # At the ends of a grid an operand may vanish; in the middle all of them are there.
    middle = {name: span.middle for name, span in spans.items()}
    check_names(str(fill(expression, bound, middle)), bound)
    return spans
