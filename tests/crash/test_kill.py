"""kill -9 and Ctrl-C: never a partial output, whenever they come."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pemath

from .adapters import Content, check_whole, content, lora, names_in

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "OMP_NUM_THREADS": "1",
}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A child that is gone in the end."""
    child = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def operands(root: Path, **shape: int) -> dict[str, str]:
    return {name: str(lora(root / name, seed, **shape)) for seed, name in enumerate("ab")}


@pytest.mark.parametrize("force", [False, True], ids=["new", "replacing"])
def test_killed_at_every_step(force: bool, tmp_path: Path) -> None:
    """The output is absent or whole; one that is replaced is the old or the new one, or it lies
    beside, complete, under a hidden name.
    """
    bound, out = operands(tmp_path), tmp_path / "out"
    before: Content | None = None
    if force:
        pemath.compose("a", out, operands={"a": bound["a"]})
        before = content(out)
    killed = 0
    with process(str(HERE / "victim.py"), str(tmp_path), *(["force"] if force else [])) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        for line in child.stdout:
            if line.startswith("done"):
                assert line.split() == ["done", "0"]
                break
            where = f"killed at step {line.strip()}"
            killed += 1
            left = names_in(tmp_path, "a", "b", "out", "warm")
            assert all(name.startswith(".out.") for name in left), where
            if out.exists():
                if content(out) != before:
                    check_whole(out)
            elif before is not None:
                aside = [name for name in left if name.endswith(".replaced")]
                assert [content(tmp_path / name) for name in aside] == [before], where
            # The next child starts from the same place.
            for name in left:
                shutil.rmtree(tmp_path / name)
            shutil.rmtree(out, ignore_errors=True)
            if before is not None:
                out.mkdir()
                for name, data in before.items():
                    (out / name).write_bytes(data)
            child.stdin.write("\n")
            child.stdin.flush()
        else:
            assert child.stderr is not None
            pytest.fail(child.stderr.read())
    assert killed >= 10
    check_whole(out)


def test_what_the_dead_left_is_in_nobodys_way(tmp_path: Path) -> None:
    bound = operands(tmp_path)
    with process(str(HERE / "victim.py"), str(tmp_path)) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        for _ in range(8):
            child.stdout.readline()
            child.stdin.write("\n")
            child.stdin.flush()
        child.stdout.readline()
    assert names_in(tmp_path, "a", "b", "warm")
    pemath.compose("a + b", tmp_path / "out", operands=bound, heads="average")
    check_whole(tmp_path / "out")


def compose_words(root: Path) -> list[str]:
    """Some ten megabytes, so that there is time to be hit."""
    return ["-m", "pemath", "compose", "0.5*a + 0.5*b", f"a={root / 'a'}", f"b={root / 'b'}",
            "--out", str(root / "out")]  # fmt: skip


def wait_for_staging(root: Path, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < end:
        if any(name.startswith(".out.") for name in names_in(root, "a", "b", "out")):
            return
        time.sleep(0.001)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
def test_killed_from_outside(delay: float, tmp_path: Path) -> None:
    operands(tmp_path, sites=24, rank=32, size=1024)
    with process(*compose_words(tmp_path)) as child:
        wait_for_staging(tmp_path, child)
        time.sleep(delay)
        child.kill()
    if (tmp_path / "out").exists():
        check_whole(tmp_path / "out")
    assert all(name.startswith(".out.") for name in names_in(tmp_path, "a", "b", "out"))


@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_interrupted_from_outside(delay: float, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, one line, no trace."""
    operands(tmp_path, sites=24, rank=32, size=1024)
    with process(*compose_words(tmp_path)) as child:
        wait_for_staging(tmp_path, child)
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    if (tmp_path / "out").exists():
        check_whole(tmp_path / "out")
    else:
        # Where the signal meets an import that makes a dataclass, Python itself ends by it after
        # our handling: 130 too, for a shell.
        assert child.returncode in (130, -signal.SIGINT), errors
        assert "Traceback" not in errors
    assert names_in(tmp_path, "a", "b", "out") == []


def test_the_output_stays_when_killed_without_force(tmp_path: Path) -> None:
    bound = operands(tmp_path)
    pemath.compose("a", tmp_path / "out", operands={"a": bound["a"]})
    before = content(tmp_path / "out")
    with process(*compose_words(tmp_path)) as child:
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 5, errors
    assert "--force" in errors
    assert content(tmp_path / "out") == before
    assert names_in(tmp_path, "a", "b", "out") == []
