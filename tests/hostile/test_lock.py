"""Hostile lock files: `verify` and `rebuild` take a folder from a stranger."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import pemath
from pemath.errors import InputError, PemathError

from . import attacks
from .attacks import CONFIG, WEIGHTS
from .judge import leftovers, outcome
from .test_mutations import damaged, rewritten

LOCK = "pemath.lock.json"


@pytest.fixture(scope="module")
def original() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A composed folder, and its lock file as it was at first."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bound = {"a": str(attacks.lora(root / "a"))}
        pemath.compose("0.5*a", root / "out", operands=bound, heads="drop", dtype="bfloat16")
        yield root / "out", json.loads((root / "out" / LOCK).read_text("utf-8"))


@pytest.fixture(scope="module")
def composed(original: tuple[Path, dict[str, Any]]) -> Path:
    return original[0]


@pytest.fixture(scope="module")
def lock(original: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return original[1]


def check(folder: Path, text: bytes) -> None:
    """Refused on purpose or fine; whatever it says, only the output folder is written."""
    (folder / LOCK).write_bytes(text)
    outcome(lambda: pemath.verify(folder))
    outcome(lambda: pemath.rebuild(folder, folder.parent / "again", force=True))
    assert leftovers(folder.parent, "a", "out", "again") == []


@settings(max_examples=200)
@given(data=...)
def test_not_at_all_a_lock(composed: Path, data: bytes) -> None:
    check(composed, data)


def test_parts_changed(composed: Path, lock: dict[str, Any]) -> None:
    @settings(max_examples=250)
    @given(changed=rewritten(lock))
    def run(changed: Any) -> None:
        check(composed, json.dumps(changed).encode())

    run()


def test_bytes_changed(composed: Path, lock: dict[str, Any]) -> None:
    text = json.dumps(lock).encode()

    @settings(max_examples=150)
    @given(changed=damaged(text, len(text)))
    def run(changed: bytes) -> None:
        check(composed, changed)

    run()


@pytest.mark.parametrize("name", ["../a/adapter_config.json", "/etc/passwd", "", ".", "x", LOCK])
def test_outputs_elsewhere(name: str, composed: Path, lock: dict[str, Any]) -> None:
    """Nothing outside the folder is opened, not even to tell whether it is there."""
    changed = {**lock, "outputs": {**lock["outputs"], name: "0" * 64}}
    (composed / LOCK).write_text(json.dumps(changed))
    assert isinstance(outcome(lambda: pemath.verify(composed)), InputError)


@pytest.mark.parametrize("name", ["../out/adapter_config.json", "/etc/passwd", "/dev/zero", "x"])
def test_source_files_elsewhere(name: str, composed: Path, lock: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(lock))
    changed["sources"]["a"]["files"][name] = "0" * 64
    (composed / LOCK).write_text(json.dumps(changed))
    outcome(lambda: pemath.verify(composed))


@pytest.mark.parametrize(
    "reference",
    [
        *("", "\0", "/", "/proc/self", "~nobody-is-called-so/x", "x" * 5000, "example:none"),
        *("..", "a:..", "\ud800", "user/repo"),
    ],
    ids=lambda reference: ascii(reference[:20]),
)
def test_references(reference: str, composed: Path, lock: dict[str, Any]) -> None:
    """`verify` asks nobody on the network."""
    changed = json.loads(json.dumps(lock))
    changed["sources"]["a"]["reference"] = reference
    changed["request"]["operands"]["a"] = reference
    check(composed, json.dumps(changed).encode())


@pytest.mark.parametrize(
    "expression",
    [
        *("\x1b[31m", "b", "a" + "*1" * 3000, "(" * 5000, "a + 'x\u202e'", "0*a"),
        "1e30*(" * 20 + "a" + ")" * 20,
    ],
    ids=lambda expression: ascii(expression[:20]),
)
def test_expressions(expression: str, composed: Path, lock: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(lock))
    changed["request"]["expression"] = expression
    check(composed, json.dumps(changed).encode())


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md", LOCK])
def test_files_that_are_no_files(
    name: str, composed: Path, lock: dict[str, Any], tmp_path: Path
) -> None:
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        folder = tmp_path / "copy"
        shutil.copytree(composed, folder)
        (folder / LOCK).write_text(json.dumps(lock))
        (folder / name).unlink()
        make(folder / name)
        assert isinstance(outcome(lambda f=folder: pemath.verify(f)), PemathError)
        shutil.rmtree(folder)
