"""`--statistics`, and what the lock file keeps of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pemath.formats.files import sha256

from . import folders
from .conftest import Cli

FILES = (folders.CONFIG, folders.WEIGHTS, "README.md", "pemath.lock.json")
STATISTICS = "statistics.safetensors"
CALL = ("compose", "regmean(x, y)", "x=a", "y=b", "--out", "merged")


def measure(folder: Path, seed: int, out: Path | None = None) -> Path:
    tensors = {}
    for site in (folders.QUERY, folders.VALUE):
        inputs = np.random.default_rng([seed, len(site)]).standard_normal((50, folders.IN))
        tensors[f"gram.{site}"] = (inputs.T @ inputs / 50).astype("f4")
    path = out or folder / STATISTICS
    save_file(tensors, path, {"adapter": sha256(folder / folders.WEIGHTS), "rows": "50"})
    return path


@pytest.fixture
def measured(here: Path) -> Path:
    """Statistics of a beside it, those of b elsewhere."""
    measure(here / "a", 0)
    (here / "kept").mkdir()
    measure(here / "b", 1, here / "kept" / "b.safetensors")
    return here


@pytest.fixture
def merged(cli: Cli, measured: Path) -> Path:
    done = cli(*CALL, "--statistics", "y=kept/b.safetensors", "--heads", "drop")
    assert (done.code, done.err) == (0, "")
    assert "statistics of `y` measured on 50 rows" in done.out
    return measured / "merged"


def test_the_lock_pins_the_statistics(merged: Path, measured: Path) -> None:
    lock = json.loads((merged / "pemath.lock.json").read_text("utf-8"))
    kept = "kept/b.safetensors"
    assert lock["request"]["statistics"] == {"y": kept}
    assert lock["sources"]["x"]["files"][STATISTICS] == sha256(measured / "a" / STATISTICS)
    assert lock["sources"]["y"]["statistics"] == {kept: sha256(measured / kept)}
    assert "statistics" not in lock["sources"]["x"]
    assert STATISTICS not in lock["sources"]["y"]["files"]


def test_rebuild_makes_the_same_bytes(cli: Cli, merged: Path, measured: Path) -> None:
    done = cli("rebuild", "merged", "--out", "again")
    assert (done.code, done.err) == (0, "")
    for name in FILES:
        assert (merged / name).read_bytes() == (measured / "again" / name).read_bytes(), name


@pytest.mark.parametrize(("file", "seed", "name"), [("a", 0, "x"), ("kept", 1, "y")])
def test_changed_statistics_are_told(
    cli: Cli, merged: Path, measured: Path, file: str, seed: int, name: str
) -> None:
    assert cli("verify", "merged").code == 0
    adapter = measured / ("a" if file == "a" else "b")
    measure(adapter, 7, measured / file / (STATISTICS if file == "a" else "b.safetensors"))
    done = cli("verify", "merged")
    assert done.code == 3
    assert f"source `{name}` is changed" in done.err
    done = cli("rebuild", "merged", "--out", "again")
    assert done.code == 3
    assert f"source `{name}` is not what it was" in done.err
    assert not (measured / "again").exists()


def test_statistics_that_are_gone(cli: Cli, merged: Path, measured: Path) -> None:
    (measured / "kept" / "b.safetensors").unlink()
    assert cli("verify", "merged", "--json").json["sources"] == {"x": "ok", "y": "not reachable"}
    done = cli("rebuild", "merged", "--out", "again")
    assert done.code == 5
    assert "b.safetensors" in done.err
    assert not (measured / "again").exists()


def test_statistics_that_nothing_needs_are_left_alone(cli: Cli, measured: Path) -> None:
    words = ("x=a", "y=b", "--statistics", "y=nowhere", "--out", "sum", "--heads", "drop")
    assert cli("compose", "x + y", *words).code == 0
    lock = json.loads((measured / "sum" / "pemath.lock.json").read_text("utf-8"))
    assert set(lock["sources"]["x"]["files"]) == {folders.CONFIG, folders.WEIGHTS}
    assert "statistics" not in lock["sources"]["y"]


def test_an_arithmetic_for_the_whole_expression(cli: Cli, merged: Path, measured: Path) -> None:
    words = ("x=a", "y=b", "--arithmetic", "regmean", "--statistics", "y=kept/b.safetensors")
    assert cli("compose", "0.5*x + 0.5*y", *words, "--heads", "drop", "--out", "other").code == 0
    first, other = (folders.deltas(folder) for folder in (merged, measured / "other"))
    assert folders.relative_error(first, other) < 1e-6


def test_a_request_in_yaml(cli: Cli, merged: Path, measured: Path) -> None:
    (measured / "request.yaml").write_text(
        "expression: regmean(x, y)\noperands: {x: a, y: b}\nheads: drop\nout: other\n"
        "statistics: {y: nowhere, x: a/statistics.safetensors}\n"
    )
    done = cli("compose", "--config", "request.yaml", "--statistics", "y=kept/b.safetensors")
    assert done.code == 0
    weights = [(folder / folders.WEIGHTS).read_bytes() for folder in (merged, measured / "other")]
    assert weights[0] == weights[1]


def test_without_statistics_the_command_is_told(cli: Cli, measured: Path) -> None:
    done = cli(*CALL)
    assert (done.code, done.out) == (4, "")
    assert "operand `y`" in done.err
    assert "pemath lab statistics b --model tests/base --task TASK" in done.err
    assert cli(*CALL, "--json").json["error"] == "statistics-needed"
    assert cli(*CALL[:4], "--dry-run").code == 4
    assert not (measured / "merged").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--statistics", "z=kept/b.safetensors"], "which the expression does not use"),
        (["--statistics", "kept/b.safetensors"], "is not a binding"),
        (["--statistics", "y=one", "--statistics", "y=two"], "bound twice"),
    ],
)
def test_bad_bindings(cli: Cli, measured: Path, words: list[str], message: str) -> None:
    done = cli(*CALL, *words)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    "change",
    [
        {"request": {"expression": "a", "statistics": {"y": 3}}},
        {"request": {"expression": "a", "statistics": "y"}},
        {"sources": {"y": {"reference": "b", "files": {}, "statistics": ["x"]}}},
        {"sources": {"y": {"reference": "b", "files": {}, "statistics": {"x": 1}}}},
    ],
)
def test_a_lock_with_malformed_statistics(
    cli: Cli, merged: Path, change: dict[str, object]
) -> None:
    path = merged / "pemath.lock.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
    for words in (("verify", "merged"), ("rebuild", "merged", "--out", "again")):
        done = cli(*words)
        assert done.code == 3
        assert "malformed" in done.err
