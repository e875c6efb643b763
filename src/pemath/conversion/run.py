"""Convert: from a source to a committed folder or file, whole or not at all."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import pemath
from pemath.composition.card import CARD, LOCK_VERSION
from pemath.composition.certificate import percent
from pemath.conversion._registry import Outcome, Target, named_target
from pemath.conversion._request import checked_options
from pemath.conversion._source import Source
from pemath.errors import PemathError, RequestError
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.commit import check_target, check_target_file, staged, staged_file
from pemath.formats.files import sha256
from pemath.formats.peft import write_json
from pemath.names import display, escape_markdown
from pemath.references import CONFIG, LOCK, WEIGHTS
from pemath.threads import Progress, one_blas_thread, silent


@dataclass(frozen=True)
class Conversion:
    """A committed result: where it is, what it was made to, and what the target says of it."""

    path: Path
    target: Target = field(repr=False)
    outcome: Outcome


def convert(
    source: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress = silent,
    base_weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Conversion:
    """Convert `source` to the target called `to`, and write that to `out`.

    `source` is an adapter by any reference, a checkpoint's folder or a file; `base_weights` is the
    folder of the base model's safetensors. Further options are the target's own.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    target = named_target(to)
    base_folder = None if base_weights is None else os.fspath(base_weights)
    given = checked_options(target, {**options, "base_weights": base_folder})
    if os.fspath(out) in ("", "."):
        raise RequestError("the output has no name", hint="name a folder or file to be made")
    path = Path(os.path.abspath(Path(out).expanduser()))
    is_file = target.output == "file"
    (check_target_file if is_file else check_target)(path, force=force)
    found = Source.of(os.fspath(source), progress)
    for place in (found.path, *([Path(base_folder)] if base_folder else [])):
        if place.resolve().is_relative_to(path.resolve()):
            raise RequestError(
                "the output is what is read",
                where=display(path),
                hint="write to another place",
            )
    if base_folder is not None:
        given["base_weights"] = _base(base_folder)
    with one_blas_thread(), np.errstate(all="ignore"):
        if is_file:
            with staged_file(path, force=force) as file:
                return Conversion(path, target, target.function(found, file, **given))
        with staged(path, force=force) as folder:
            outcome = target.function(found, folder, **given)
            given |= {"base_weights": base_folder} if base_folder else {}
            _describe(folder, found, target, outcome, given)
        return Conversion(path, target, outcome)


def _base(folder: str) -> Checkpoint:
    try:
        return Checkpoint.open(Path(folder).expanduser())
    except PemathError as error:
        raise error.within("--base-weights") from None


def _describe(
    folder: Path, source: Source, target: Target, outcome: Outcome, options: Mapping[str, Any]
) -> None:
    """The card and the lock file, beside what the target has written."""
    sources = {
        "source": {
            "reference": source.reference,
            "revision": source.revision,
            "files": _digests(source.path),
        }
    }
    if "base_weights" in options:
        base = options["base_weights"]
        sources["base weights"] = {
            "reference": base,
            "revision": None,
            "files": _digests(Path(base).expanduser()),
        }
    lines = _card(source, target, outcome, sources)
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")
    certificate = outcome.certificate
    lock = {
        "lock_version": LOCK_VERSION,
        "pemath": pemath.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "conversion": {"source": source.reference, "to": target.name, **options},
        "sources": sources,
        "outputs": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        "notes": list(outcome.notes),
        "left_out": {n: x if np.isfinite(x) else None for n, x in outcome.left_out.items()},
        "certificate": certificate.as_dict() if certificate and certificate.sites else None,
    }
    write_json(folder / LOCK, lock)


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 of a source's weights and config by file name."""
    if path.is_file():
        return {path.name: sha256(path)}
    if (path / CONFIG).is_file():
        names = [CONFIG, WEIGHTS]
    else:
        names = sorted(file.name for file in path.glob("*.safetensors"))
    return {name: sha256(path / name) for name in names if (path / name).is_file()}


def _card(
    source: Source, target: Target, outcome: Outcome, sources: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    title = "A merged checkpoint" if target.output == "checkpoint" else "A converted adapter"
    lines = [
        "---",
        *(["library_name: peft"] if target.name in ("lora", "peft") else []),
        "tags:",
        "- pemath",
        "---",
        "",
        f"# {title}",
        "",
        f"Made from {escape_markdown(source.reference)} ({escape_markdown(outcome.kind)}) by "
        f"`pemath convert --to {target.name}`.",
        "",
        "| what | reference | file | sha256 |",
        "|---|---|---|---|",
    ]
    for name, known in sources.items():
        lines += [
            f"| {name} | {escape_markdown(known['reference'])} | {escape_markdown(file)} "
            f"| `{digest}` |"
            for file, digest in known["files"].items()
        ]
    lines += ["", *(f"- {escape_markdown(note, 400)}" for note in outcome.notes)]
    lines += [
        f"- {escape_markdown(n)}: {escape_markdown(t, 400)}" for n, t in outcome.facts.items()
    ]
    certificate = outcome.certificate
    if certificate is not None and certificate.sites:
        worst = certificate.sites[certificate.worst]
        lines.append(
            f"- relative Frobenius error: **{percent(certificate.error)}** in total, "
            f"{percent(worst.error)} at the worst site ({escape_markdown(certificate.worst)}); every site "
            f"is in `{LOCK}`"
        )
    return [*lines, "", "`pemath verify` checks this folder.", ""]
