"""Verify a composed folder against its lock file, and make the same bytes again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pemath
from pemath.composition.card import CARD, LOCK_VERSION
from pemath.composition.request import ComposeRequest
from pemath.composition.run import Composition, run
from pemath.errors import (
    ConfigError,
    PemathError,
    ReferenceNotFound,
    RequestError,
    VerificationFailed,
)
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.files import sha256
from pemath.formats.peft import read_json
from pemath.names import display
from pemath.references import CONFIG, LOCK, WEIGHTS, pinned, resolve, resolve_locally
from pemath.threads import Progress, silent

_FIELDS = {field.name for field in fields(ComposeRequest)}
_FILES = (CONFIG, WEIGHTS, CARD)


@dataclass(frozen=True)
class Verification:
    """Each checked file with `ok`, `changed` or `missing`, and each source likewise or
    `not reachable`.
    """

    folder: Path
    outputs: Mapping[str, str]
    sources: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "outputs": dict(self.outputs),
            "sources": dict(self.sources),
        }


def verify(folder: str | os.PathLike[str]) -> Verification:
    """Compare a composed folder, and the sources that can be reached locally, with its lock file.

    Raises: VerificationFailed naming every file that differs, ConfigError, ReferenceNotFound.
    """
    folder = Path(os.path.abspath(folder))
    lock = read_lock(folder)
    outputs = {name: _state(folder / name, digest) for name, digest in lock["outputs"].items()}
    sources = {name: _source_state(source) for name, source in lock["sources"].items()}
    if lock.get("base_weights"):
        sources["base weights"] = _base_state(lock)
    bad = [f"`{name}` is {state}" for name, state in outputs.items() if state != "ok"]
    bad += [f"source `{display(n)}` is {s}" for n, s in sources.items() if s == "changed"]
    if bad:
        raise VerificationFailed(
            "the folder is not what its lock file describes: " + ", ".join(bad),
            where=display(folder),
            hint="restore the sources that changed, then `pemath rebuild` makes the folder again",
        )
    return Verification(folder, outputs, sources)


def rebuild(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Composition:
    """Compose again what the lock file of `folder` says, into `out`, and compare the bytes.

    Raises: VerificationFailed if a source changed or the weights come out different, besides what
    `compose` raises.
    """
    lock = read_lock(Path(folder))
    if "conversion" in lock:
        raise RequestError(
            "the folder was converted, not composed",
            where=display(folder),
            hint="run `pemath convert` again: the lock file has its options",
        )
    sources = {}
    for name, source in lock["sources"].items():
        if source.get("revision") is None and resolve_locally(source["reference"]) is None:
            raise ReferenceNotFound(
                f"source `{display(name)}` is not found: there is no folder "
                f"`{display(source['reference'])}`",
                where=display(folder),
                hint="a relative path is found again only from the folder in which it was composed",
            )
        found = resolve(pinned(source["reference"], source.get("revision")))
        if _files_state(found.folder, source) == "changed":
            raise VerificationFailed(
                f"source `{display(name)}` is not what it was",
                where=display(source["reference"]),
                hint="restore the adapter that the lock file names, and its statistics if it has any",
            )
        sources[source["reference"]] = found
    if lock.get("base_weights") and _base_state(lock) == "changed":
        raise VerificationFailed(
            "the base weights are not what they were",
            where=display(lock["request"]["base_weights"]),
            hint="restore the checkpoint from which the folder was composed",
        )
    request = ComposeRequest(**lock["request"]).with_sources(sources)
    done = run(request, Path(out), force=force, progress=progress)
    for name in (WEIGHTS, CONFIG):
        if sha256(done.folder / name) != lock["outputs"].get(name):
            raise VerificationFailed(
                f"`{name}` was rebuilt with other bytes; it lies in the output folder",
                where=display(done.folder),
                found=f"pemath {pemath.__version__}",
                expected=f"pemath {lock['pemath']}, numpy {lock['numpy']}, {lock['machine']}",
                hint="another version or processor can round the last bit differently: "
                "compare the two certificates",
            )
    return done


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock file of `folder`, its structure checked. Raises ConfigError, ReferenceNotFound."""
    path = folder / LOCK
    if not folder.is_dir():
        raise ReferenceNotFound("there is no such folder", where=display(folder))
    if not path.is_file():
        raise ReferenceNotFound(
            f"there is no {LOCK}",
            where=display(folder),
            hint="only folders that pemath composed can be verified and rebuilt",
        )
    lock = read_json(path)
    problem = _problem(lock)
    if problem:
        raise ConfigError(f"the lock file is malformed: {problem}", where=display(path))
    return lock


def _problem(lock: Mapping[str, Any]) -> str | None:
    if lock.get("lock_version") != LOCK_VERSION:
        return f"lock_version is not {LOCK_VERSION}"
    outputs: Any = lock.get("outputs")
    sources: Any = lock.get("sources")
    converted = "conversion" in lock
    problem = None if converted else _request_problem(lock.get("request"))
    if problem:
        return problem
    if not _is_table(outputs) or not all(map(_is_file_name, outputs)):
        return "`outputs` does not list the written files"
    if not converted and not {WEIGHTS} <= set(outputs) <= set(_FILES):
        return "`outputs` does not list the written files"
    if not isinstance(sources, dict) or not all(
        isinstance(s, dict)
        and isinstance(s.get("reference"), str)
        and _is_table(s.get("files"))
        and _is_table(s.get("statistics", {}))
        for s in sources.values()
    ):
        return "`sources` does not list references and digests"
    if not _is_table(lock.get("base_weights", {})):
        return "`base_weights` does not list digests"
    if not all(isinstance(lock.get(name), str) for name in ("pemath", "numpy", "machine")):
        return "versions are missing"
    return None


def _request_problem(request: Any) -> str | None:
    if not isinstance(request, dict) or not set(request) <= _FIELDS:
        return "`request` has unknown fields"
    operands = request.get("operands", {})
    if not isinstance(request.get("expression"), str) or not _is_table(operands):
        return "`request` lacks an expression, or its operands are not text"
    numbers: dict[str, Any] = {"rank": int, "max_error": float | int}
    for name, value in request.items():
        wanted = numbers.get(name, str)
        if name == "statistics":
            if not _is_table(value):
                return "`request.statistics` does not name files"
        elif name != "operands" and (isinstance(value, bool) or not isinstance(value, wanted)):
            return f"`request.{name}` has a wrong type"
    return None


def _is_file_name(name: str) -> bool:
    return Path(name).name == name


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _state(path: Path, digest: str) -> str:
    if not path.is_file():
        return "missing"
    return "ok" if sha256(path) == digest else "changed"


def _source_state(source: Mapping[str, Any]) -> str:
    try:
        found = resolve_locally(source["reference"])
    except (PemathError, OSError, ValueError, RuntimeError):
        found = None
    return "not reachable" if found is None else _files_state(found.folder, source)


def _base_state(lock: Mapping[str, Any]) -> str:
    """The state of the base weights that went into the folder."""
    try:
        base = Checkpoint.open(Path(lock["request"].get("base_weights") or ""))
    except (PemathError, OSError, ValueError):
        return "not reachable"
    same = all(
        name in base.shards and base.sha256(name) == digest
        for name, digest in lock["base_weights"].items()
    )
    return "ok" if same else "changed"


def _files_state(folder: Path, source: Mapping[str, Any]) -> str:
    """The state of a source in `folder`, and of its statistics where they lie elsewhere."""
    states = [
        _state(folder / name, digest)
        for name, digest in source["files"].items()
        if _is_file_name(name)
    ]
    elsewhere = [_state(Path(p), digest) for p, digest in source.get("statistics", {}).items()]
    if any(state != "ok" for state in states) or "changed" in elsewhere:
        return "changed"
    return "not reachable" if "missing" in elsewhere else "ok"
