"""Whole folders or nothing: write into a staging folder beside the target, then rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pemath.errors import OutputExists, StorageError
from pemath.names import display
from pemath.references import CONFIG, LOCK


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that exists, unless `force` and it is an adapter folder, one that pemath made
    (or an empty one).

    Raises: OutputExists, StorageError (parent is missing or no folder).
    """
    try:
        _check_target(target, force=force)
    except (OSError, ValueError) as error:  # a name that the system does not take
        raise StorageError(
            f"this cannot be the output: {display(getattr(error, 'strerror', None) or error)}",
            where=display(target),
        ) from None


def _check_target(target: Path, *, force: bool) -> None:
    if "\0" in str(target):
        raise ValueError("a name cannot hold a null character")
    os.fsencode(target)
    if not target.parent.is_dir():
        raise StorageError(
            "the output's parent folder does not exist",
            where=display(target.parent),
            hint="create it first",
        )
    if not (target.exists() or target.is_symlink()):
        return
    if not force:
        raise OutputExists(
            "the output exists already",
            where=display(target),
            hint="choose another folder, or pass --force to replace it",
        )
    replaceable = (
        target.is_dir()
        and not target.is_symlink()
        and (any((target / n).is_file() for n in (CONFIG, LOCK)) or not any(target.iterdir()))
        and not any(item.is_dir() for item in target.iterdir())
    )
    if not replaceable:
        raise OutputExists(
            "--force replaces adapter folders only, and this is not one",
            where=display(target),
            expected=f"a folder with {CONFIG} and no folders in it",
            hint="remove it yourself, or choose another folder",
        )


def check_target_file(target: Path, *, force: bool) -> None:
    """Refuse a target that exists, unless `force` and it is a regular file.

    Raises: OutputExists, StorageError (parent is missing or no folder).
    """
    if force and target.is_file() and not target.is_symlink():
        return
    check_target(target, force=False)


@contextmanager
def staged_file(target: Path, *, force: bool = False) -> Iterator[Path]:
    """The path of a file to be made that becomes `target` when the block ends well, and vanishes
    otherwise.

    Raises: OutputExists, StorageError.
    """
    target = Path(os.path.abspath(target))
    check_target_file(target, force=force)
    staging = target.parent / f".{target.name}.{secrets.token_hex(6)}.partial"
    try:
        yield staging
        _sync(staging)
        check_target_file(target, force=force)
        staging.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write the output: {error.strerror or error}", where=display(target)
        ) from None
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def staged(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A staging folder that becomes `target` when the block ends well, and vanishes otherwise.

    Raises: OutputExists, StorageError.
    """
    target = Path(os.path.abspath(target))
    check_target(target, force=force)
    staging = target.parent / f".{target.name}.{secrets.token_hex(6)}.partial"
    try:
        staging.mkdir()
        yield staging
        for file in staging.iterdir():
            _sync(file)
        _sync(staging)
        check_target(target, force=force)
        _replace(staging, target)
        _sync(target.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write the output: {error.strerror or error}", where=display(target)
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    aside = target.parent / f".{target.name}.{secrets.token_hex(6)}.replaced"
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
