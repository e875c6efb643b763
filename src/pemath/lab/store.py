"""Finished work kept under a hash of what determines it, so that nothing is done twice."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pemath.errors import StorageError
from pemath.names import display

_VERSION = 2  # of how trials are computed: a change that alters results makes a new number
_PACKAGES = ("pemath", "torch", "transformers", "peft")


@cache
def made_with() -> dict[str, str]:
    """What a result depends on beside its key: the packages that compute, by version."""
    found = {"trials": str(_VERSION)}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@dataclass(frozen=True)
class Store:
    """A folder of finished pieces of work, safe for several processes at once.

    A piece is a folder that appears whole: it is made beside the others and renamed. What was
    interrupted leaves its scratch folder, from which it goes on; two that want the same piece at the
    same time wait for each other.
    """

    root: Path

    def get(self, what: str, key: Mapping[str, Any], make: Callable[[Path, Path], None]) -> Path:
        """The folder of the piece `what` with `key`, made by `make(folder, scratch)` if absent.

        `key` holds JSON values: everything that the piece depends on. Raises StorageError.
        """
        text = json.dumps({"made_with": made_with(), "what": what, **key}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:20]
        target = self.root / what / digest
        if (target / "key.json").is_file():
            return target
        scratch = self.root / "unfinished" / f"{what}-{digest}"
        staging = self.root / "unfinished" / f"{what}-{digest}-{secrets.token_hex(4)}"
        lock = scratch.with_suffix(".lock")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.parent.mkdir(parents=True, exist_ok=True)
            with open(lock, "w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)  # ends with the process, however it ends
                if (target / "key.json").is_file():
                    return target
                scratch.mkdir(exist_ok=True)
                staging.mkdir()
                try:
                    make(staging, scratch)
                    (staging / "key.json").write_text(text + "\n", encoding="utf-8")
                    os.rename(staging, target)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
                shutil.rmtree(scratch, ignore_errors=True)
                lock.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot keep finished work: {error.strerror}", where=display(self.root)
            ) from None
        return target
