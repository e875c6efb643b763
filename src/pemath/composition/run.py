"""Compose: from a request to a committed folder with its certificate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pemath
from pemath.composition.certificate import Certificate
from pemath.composition.digests import Digests
from pemath.composition.request import ComposeRequest, request_of
from pemath.errors import RequestError
from pemath.expression.tree import Expression, Operand
from pemath.formats.commit import check_target, staged
from pemath.formats.files import sha256
from pemath.names import display
from pemath.references import CONFIG, LOCK, WEIGHTS
from pemath.threads import Progress, silent

if TYPE_CHECKING:
    from pemath.composition.plan import Plan


@dataclass(frozen=True)
class Composition:
    """A committed result: its folder, how it was planned, and its certificate."""

    folder: Path
    plan: Plan = field(repr=False)
    certificate: Certificate


def compose(
    expression: Expression | str,
    out: str | os.PathLike[str],
    *,
    operands: Mapping[str, str | os.PathLike[str] | Operand] | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Composition:
    """Evaluate `expression` and write it as a PEFT folder `out`.

    `operands` binds the names of a textual expression to references. `options` are the other fields
    of `ComposeRequest`: arithmetic, rank, max_error, dtype, heads, profile, base_model, statistics.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    return run(
        request_of(expression, operands, **options), Path(out), force=force, progress=progress
    )


def evaluate(
    expression: Expression | str,
    *,
    operands: Mapping[str, str | os.PathLike[str] | Operand] | None = None,
    arithmetic: str = "exact",
    statistics: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Iterator[tuple[str, Any]]:
    """The sites of `expression` with their values, before any rounding; nothing is written.

    `statistics` are files for data-driven methods, by the operand's name.
    Each value has `delta_weight()` (dense float64), `norm()` and the arithmetic of its kind.
    """
    import numpy as np

    from pemath.composition.plan import make_plan

    request = request_of(
        expression, operands, arithmetic=arithmetic, heads="drop", statistics=statistics or {}
    )
    plan = make_plan(request)
    for site in plan.exact:
        with np.errstate(all="ignore"):
            value = plan.value(site)
        yield site, value


def run(
    request: ComposeRequest, out: Path, *, force: bool = False, progress: Progress = silent
) -> Composition:
    """Compose `request` into the folder `out`, which appears whole or not at all.

    Raises: UsageError, InputError, OperandError, StorageError.
    """
    if str(out) in ("", "."):
        raise RequestError("the output has no name", hint="name a folder that is to be made")
    out = Path(os.path.abspath(out))
    check_target(out, force=force)
    for operand, source in request.resolved.items():
        if source.folder.resolve().is_relative_to(out.resolve()):
            raise RequestError(
                f"the output is the folder of operand `{display(operand)}`",
                hint="write to another folder",
            )
    digests = Digests(request.resolved)
    # These import numpy, which takes as long as hashing a large adapter: both go on together.
    from pemath.composition.card import CARD, card_of, config_of, lock_of
    from pemath.composition.plan import make_plan
    from pemath.composition.stream import stream
    from pemath.formats.peft import write_json

    plan = make_plan(request)
    with staged(out, force=force) as folder:
        written = stream(plan, folder, progress)
        certificate = written.certificate
        write_json(folder / CONFIG, config_of(plan, written.ranks))
        sources = digests.sources(plan.names)
        for operand, known in plan.evaluator.statistics.items():
            path, recorded = known.file.path, sources[plan.names[operand]]
            if operand in request.statistics_files:
                recorded["statistics"] = {str(path): sha256(path)}
            else:
                recorded["files"][path.name] = sha256(path)
        (folder / CARD).write_text(card_of(plan, certificate, sources), encoding="utf-8")
        outputs = {name: sha256(folder / name) for name in (CARD, CONFIG)}
        outputs[WEIGHTS] = written.sha256
        write_json(folder / LOCK, lock_of(plan, certificate, sources, outputs, pemath.__version__))
    return Composition(out, plan, certificate)
