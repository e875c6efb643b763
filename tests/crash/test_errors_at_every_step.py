"""Whatever fails, and wherever: the output is whole or is not there, and nothing else is left."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pemath
from pemath.errors import PemathError, StorageError

from . import steps
from .adapters import CONFIG, WEIGHTS, Content, check_whole, content, lora, names_in

Failure = Callable[[], BaseException]
FAILURES: dict[str, Failure] = {
    "disk full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "disk broken": lambda: OSError(errno.EIO, "Input/output error"),
    "quota": lambda: OSError(errno.EDQUOT, "Disk quota exceeded"),
    "interrupt": KeyboardInterrupt,
    "memory": MemoryError,
}


@pytest.fixture
def bound(tmp_path: Path) -> dict[str, str]:
    found = {name: str(lora(tmp_path / name, seed)) for seed, name in enumerate("ab")}
    pemath.compose("a", tmp_path / "warm", operands={"a": found["a"]})
    shutil.rmtree(tmp_path / "warm")
    return found


def compose(bound: dict[str, str], out: Path, **options: Any) -> Any:
    return pemath.compose("0.5*a + 0.5*b", out, operands=bound, **options)


def fail_at(step: int, failure: Failure) -> Callable[[int, str], None]:
    """From this step on, as a full disk does; an interrupt comes once."""

    def at_step(number: int, name: str) -> None:
        error = failure()
        if number == step or (number > step and isinstance(error, OSError) and name != "rename"):
            raise error

    return at_step


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("exists", [False, True], ids=["new", "replacing"])
def test_every_step(exists: bool, what: str, bound: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    before: Content | None = None
    if exists:
        compose(bound, out, dtype="float64")
        before = content(out)
    count = len(steps.names(lambda: compose(bound, tmp_path / "count")))
    shutil.rmtree(tmp_path / "count")
    assert count >= 10
    for step in range(count + 2):
        expected = StorageError if isinstance(FAILURES[what](), OSError) else type(FAILURES[what]())
        try:
            with steps.intercepted(fail_at(step, FAILURES[what])):
                compose(bound, out, force=exists)
        except expected:
            pass
        where = f"step {step}"
        assert names_in(tmp_path, "a", "b", "out") == [], where
        if not out.exists():
            assert not exists, f"{where}: the old output is gone"
        elif content(out) != before:
            check_whole(out)
            shutil.rmtree(out)
            if exists:
                compose(bound, out, dtype="float64")
    if not exists:
        assert not out.exists()


def test_without_force_an_output_is_not_touched(bound: dict[str, str], tmp_path: Path) -> None:
    """Not a byte and not a time: nothing is opened for writing at all."""
    out = tmp_path / "out"
    compose(bound, out)
    before, times = content(out), [p.stat().st_mtime_ns for p in sorted(out.iterdir())]
    taken: list[str] = []
    with steps.intercepted(lambda number, name: taken.append(name)), pytest.raises(StorageError):
        compose(bound, out, rank=1)
    assert taken == []
    assert content(out) == before
    assert [p.stat().st_mtime_ns for p in sorted(out.iterdir())] == times


def test_an_output_that_is_refused_is_not_touched(bound: dict[str, str], tmp_path: Path) -> None:
    """With --force, an error of the request or of an input leaves the old output as it was."""
    out = tmp_path / "out"
    compose(bound, out)
    before = content(out)
    weights = Path(bound["b"]) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for options in ({}, {"rank": 1, "max_error": 0.1}, {"heads": "zed"}, {"arithmetic": "zed"}):
        with pytest.raises(PemathError):
            compose(bound, out, force=True, **options)
        assert content(out) == before
    assert names_in(tmp_path, "a", "b", "out") == []


def test_writes_that_are_cut_short(
    bound: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may write less than it is asked to."""
    compose(bound, tmp_path / "whole")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: real(handle, bytes(data[:7]), at))
    compose(bound, tmp_path / "out")
    monkeypatch.undo()
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("size", [0, 1, 100, 700, 1000, 1400, 2000])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "replacing"])
def test_files_that_may_not_grow(
    exists: bool, size: int, bound: dict[str, str], tmp_path: Path
) -> None:
    """A real refusal of the system, at each file in turn."""
    out = tmp_path / "out"
    before: Content | None = None
    if exists:
        compose(bound, out, dtype="float64")
        before = content(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        compose(bound, out, force=exists)
        failed = None
    except StorageError as error:
        failed = error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed is not None
    assert "write" in str(failed)
    assert names_in(tmp_path, "a", "b", "out") == []
    assert (content(out) if out.exists() else None) == before


def test_progress_that_fails(bound: dict[str, str], tmp_path: Path) -> None:
    """A caller's own error comes back to the caller."""

    def progress(what: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compose(bound, tmp_path / "out", progress=progress)
    assert names_in(tmp_path, "a", "b") == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_source_that_vanishes_meanwhile(file: str, bound: dict[str, str], tmp_path: Path) -> None:
    """The lock file never lacks a source: composed with all digests, or not at all."""
    digest = hashlib.sha256((Path(bound["b"]) / file).read_bytes()).hexdigest()

    def at_step(number: int, name: str) -> None:
        if number == 0:
            (Path(bound["b"]) / file).unlink()

    try:
        with steps.intercepted(at_step):
            compose(bound, tmp_path / "out")
    except StorageError:
        assert names_in(tmp_path, "a", "b") == []
    else:
        lock = json.loads((tmp_path / "out" / "pemath.lock.json").read_text("utf-8"))
        assert set(lock["sources"]) == {"a", "b"}
        assert lock["sources"]["b"]["files"][file] == digest


@pytest.mark.parametrize("step", [1, 2, 5, 8])
def test_a_folder_that_vanishes_meanwhile(step: int, bound: dict[str, str], tmp_path: Path) -> None:
    """Someone removes the parent of the output."""
    (tmp_path / "parent").mkdir()

    def at_step(number: int, name: str) -> None:
        if number == step:
            shutil.rmtree(tmp_path / "parent")

    with steps.intercepted(at_step), pytest.raises(StorageError):
        compose(bound, tmp_path / "parent" / "out")
    assert names_in(tmp_path, "a", "b") == []


def test_rebuilding_fails_like_composing(bound: dict[str, str], tmp_path: Path) -> None:
    compose(bound, tmp_path / "out")
    for step in (0, 3, 8):
        with steps.intercepted(fail_at(step, FAILURES["disk full"])), pytest.raises(StorageError):
            pemath.rebuild(tmp_path / "out", tmp_path / "again")
        assert names_in(tmp_path, "a", "b", "out") == []
