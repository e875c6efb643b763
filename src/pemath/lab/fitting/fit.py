"""Weights fitted to rows, the composition that they make, and what it is worth."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pemath
from pemath.composition.run import Composition, compose
from pemath.errors import RequestError
from pemath.expression.tree import exact_number
from pemath.formats.commit import check_target
from pemath.lab.encoding import Encoder
from pemath.lab.evaluate import Questions
from pemath.lab.fitting._blend import Blend
from pemath.lab.fitting._groups import Groups, groups_of
from pemath.lab.fitting._problem import Problem
from pemath.lab.fitting._registry import FittingMethod, named_fitting_method
from pemath.lab.own.bench import Asking, Bench, prepare
from pemath.lab.own.card import write_card
from pemath.lab.own.operands import check_names
from pemath.lab.own.scores import Score, scored
from pemath.lab.own.subject import Subject
from pemath.lab.setting import digest_of
from pemath.names import display

RECORD = "fit.json"
DIGITS = 4  # of a fitted weight: what is printed is what is composed
FIT, TEST = "validation", "test"  # the parts, as a known task calls them


@dataclass(frozen=True)
class Fitted:
    """The expression that was fitted, its loss on the rows that it was fitted to beside that of
    equal weights, and what both are worth on the test part, if there is one.

    `weights` are those of each operand by key. `improved` is false where nothing better than equal
    weights was found: then these are the result.
    """

    method: str
    expression: str
    equal: str
    loss: str
    before: float
    after: float
    weights: Mapping[str, Mapping[str, float]]
    improved: bool
    evaluations: float
    rows: int
    test_rows: int
    metric: str
    scores: tuple[Score, ...]
    composition: Composition
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = self.composition.certificate.error
        return {
            "method": self.method,
            "expression": self.expression,
            "equal_weights": self.equal,
            "loss": {"what": self.loss, "equal_weights": self.before, "fitted": self.after},
            "weights": {name: dict(found) for name, found in self.weights.items()},
            "improved": self.improved,
            "evaluations": self.evaluations,
            "rows": self.rows,
            "test_rows": self.test_rows,
            "metric": self.metric,
            "scores": [score.as_dict() for score in self.scores],
            "folder": str(self.composition.folder),
            "error": error if error < float("inf") else None,
            "notes": list(self.notes),
        }


def fit(
    method: str,
    operands: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    subject: Subject | None = None,
    asking: Asking | None = None,
    per: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
) -> Fitted:
    """Learn the weights of the sum of `operands` on the rows of `data` (or the validation part of a
    known task), and write the composition into `out`, with fit.json. Heads get equal shares.

    `per` is what has a weight of its own: layer or module. `options` are the method's. The weights
    are rounded to four digits, and are equal ones where that is no worse on these rows.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    chosen = named_fitting_method(method)
    bound = {name: os.fspath(reference) for name, reference in operands.items()}
    per = per or chosen.per[0]
    if per not in chosen.per:
        raise RequestError(
            f"{chosen.name} has no weights per {display(per)}", expected=" or ".join(chosen.per)
        )
    settings = chosen.bind(options or {})
    if not bound:
        raise RequestError("no adapter is given", hint="for example: a=./a b=./b")
    equal = _equal_text(bound)
    check_names(equal, bound)
    target = Path(os.path.abspath(out))
    check_target(target, force=force)
    files = {part: Path(file) for part, file in ((FIT, data), (TEST, test)) if file is not None}
    if [*files] == [TEST]:
        raise RequestError("there are no rows to fit to", hint="name their file with --data")
    bench = prepare(
        [equal],
        bound,
        subject or Subject(),
        files,
        asking or Asking(),
        chooses=True,
        labelled=chosen.labelled,
    )
    task = bench.asked.task
    if task.is_regression and not chosen.labelled:
        raise RequestError(f"{chosen.name} is for labels, and these are numbers")
    adapters = {name: module.adapter for name, module in bench.modules.items()}
    groups = groups_of(adapters, per)  # type: ignore[arg-type]
    shares = [[Fraction(1, len(bound))] * len(groups.keys) for _ in bound]
    groups.expression(adapters, shares)  # refused before the model is loaded
    with TemporaryDirectory(prefix="pemath-") as spare:
        problem = _problem(chosen, bench, groups, seed, Path(spare))
        before = problem.loss(problem.start)
        found = chosen.function(problem, **settings)
        if not found.isfinite().all():
            raise RequestError(
                "the weights went beyond all numbers", hint="choose a smaller --learning-rate"
            )
        weights = [[exact_number(round(float(w), DIGITS)) for w in row] for row in found]
        after = problem.loss(_like(problem.start, weights))
    improved = after < before
    if not improved:
        weights, after = shares, before
    text = str(groups.expression(adapters, weights))
    scores = _judged(bench, text, equal)  # before anything is written: it may take long
    done = compose(
        text, target, operands=bound, heads="average", force=force, progress=bench.asking.progress
    )
    fitted = Fitted(
        method=chosen.name,
        expression=text,
        equal=equal,
        loss=chosen.loss,
        before=before,
        after=after,
        weights={
            name: dict(zip(groups.keys, map(float, row), strict=True))
            for name, row in zip(bound, weights, strict=True)
        },
        improved=improved,
        evaluations=round(problem.evaluations, 2),
        rows=len(bench.rows(FIT)),
        test_rows=len(bench.asked.parts.get(TEST, ())),
        metric=task.metric,
        scores=scores,
        composition=done,
        notes=bench.notes,
    )
    write_card(target, bench.card(), pem=next(iter(bench.modules.values())).pem)
    record = {
        **fitted.as_dict(),
        "source": chosen.source,
        "per": per,
        "options": settings,
        "seed": seed,
        "rows_digest": digest_of(bench.rows(FIT)),
        "operands": bound,
        "pemath": pemath.__version__,
    }
    record.pop("folder")
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return fitted


def _equal_text(bound: Mapping[str, str]) -> str:
    return " + ".join(f"{name}/{len(bound)}" for name in bound)


def _problem(
    method: FittingMethod, bench: Bench, groups: Groups, seed: int, scratch: Path
) -> Problem:
    import torch

    task, rows = bench.asked.task, bench.rows(FIT)
    pem = next(iter(bench.modules.values())).pem
    base = bench.setting.base(pem)
    encoder = Encoder(base, task, bench.setting.max_length)
    shape = len(bench.modules), len(groups.keys)
    start = torch.full(shape, 1 / len(bench.modules), device=base.device)
    return Problem(
        blend=Blend(base, bench.modules, groups, scratch),
        questions=Questions(encoder, rows, bench.asking.batch_size),
        labels=torch.tensor([float(r.label) if task.is_regression else r.label for r in rows]),
        measure=method.measure,
        penalty=method.penalty,
        start=start,
        names=list(bench.modules),
        seed=seed,
        progress=bench.asking.progress,
    )


def _like(start: Any, weights: Sequence[Sequence[Fraction]]) -> Any:
    return start.new_tensor([[float(weight) for weight in row] for row in weights])


def _judged(bench: Bench, fitted: str, equal: str) -> tuple[Score, ...]:
    """What the compositions are worth on the test part, the fitted one first."""
    if TEST not in bench.asked.parts:
        return ()
    asked = {"fitted": fitted, "equal weights": equal} | {name: name for name in bench.modules}
    with bench.ask() as ask:
        answers = {name: (text, ask(text, TEST)) for name, text in asked.items()}
    return tuple(scored(bench.asked.task, bench.rows(TEST), answers))
