"""`pemath verify` and `pemath rebuild`."""

import json
import shutil
from pathlib import Path

import pytest

from . import folders
from .conftest import Cli

FILES = (folders.CONFIG, folders.WEIGHTS, "README.md", "pemath.lock.json")


@pytest.fixture
def merged(cli: Cli, here: Path) -> Path:
    words = ("--rank", "4", "--dtype", "bfloat16", "--heads", "average")
    done = cli("compose", "x + 0.5*y", "x=half", "y=rest", "--out", "merged", *words)
    assert done.code == 0
    return here / "merged"


def test_verify(cli: Cli, merged: Path) -> None:
    done = cli("verify", "merged")
    assert (done.code, done.err) == (0, "")
    for name in (*FILES[:3], "source x", "source y"):
        assert any(name in line and line.endswith("ok") for line in done.out.splitlines()), name


def test_verify_as_json(cli: Cli, merged: Path) -> None:
    found = cli("verify", "merged", "--json").json
    assert found["outputs"] == dict.fromkeys(FILES[:3], "ok")
    assert found["sources"] == {"x": "ok", "y": "ok"}


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("change", ["changed", "missing"])
def test_verify_tells_a_tampered_file(cli: Cli, merged: Path, name: str, change: str) -> None:
    if change == "missing":
        (merged / name).unlink()
    else:
        raw = bytearray((merged / name).read_bytes())
        raw[-3] ^= 1
        (merged / name).write_bytes(raw)
    done = cli("verify", "merged")
    assert (done.code, done.out) == (3, "")
    assert f"`{name}` is {change}" in done.err
    assert cli("verify", "merged", "--json").json["error"] == "verification-failed"


def test_verify_tells_a_changed_source(cli: Cli, here: Path, merged: Path) -> None:
    shutil.rmtree(here / "half")
    folders.lora(here / "half", 77, head=2)
    done = cli("verify", "merged")
    assert done.code == 3
    assert "source `x` is changed" in done.err


def test_verify_does_without_the_sources(cli: Cli, here: Path, merged: Path) -> None:
    shutil.rmtree(here / "half")
    done = cli("verify", "merged", "--json")
    assert done.code == 0
    assert done.json["sources"] == {"x": "not reachable", "y": "ok"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"lock_version": 99}'])
def test_a_malformed_lock_is_refused(cli: Cli, merged: Path, text: str) -> None:
    (merged / "pemath.lock.json").write_text(text, encoding="utf-8")
    for words in (("verify", "merged"), ("rebuild", "merged", "--out", "again")):
        done = cli(*words)
        assert done.code == 3
        assert "pemath.lock.json" in done.err


def test_a_lock_cannot_name_files_outside_of_its_folder(cli: Cli, here: Path, merged: Path) -> None:
    lock = json.loads((merged / "pemath.lock.json").read_text(encoding="utf-8"))
    lock["outputs"]["../half/adapter_config.json"] = "0" * 64
    (merged / "pemath.lock.json").write_text(json.dumps(lock), encoding="utf-8")
    assert cli("verify", "merged").code == 3


def test_rebuild_makes_the_same_bytes(cli: Cli, here: Path, merged: Path) -> None:
    done = cli("rebuild", "merged", "--out", "again")
    assert (done.code, done.err) == (0, "")
    assert "same bytes" in done.out
    for name in FILES:
        assert (merged / name).read_bytes() == (here / "again" / name).read_bytes(), name
    assert cli("verify", "again").code == 0


def test_rebuild_from_a_tampered_folder(cli: Cli, here: Path, merged: Path) -> None:
    whole = (merged / folders.WEIGHTS).read_bytes()
    (merged / folders.WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cli("rebuild", "merged", "--out", "again").code == 0
    assert (here / "again" / folders.WEIGHTS).read_bytes() == whole


def test_rebuild_refuses_changed_sources(cli: Cli, here: Path, merged: Path) -> None:
    shutil.rmtree(here / "rest")
    folders.lora(here / "rest", 77, head=2)
    done = cli("rebuild", "merged", "--out", "again")
    assert done.code == 3
    assert "source `y`" in done.err
    assert not (here / "again").exists()


def test_rebuild_without_its_sources(cli: Cli, here: Path, merged: Path) -> None:
    shutil.rmtree(here / "rest")
    done = cli("rebuild", "merged", "--out", "again")
    assert done.code == 5
    assert "`rest`" in done.err
    assert not (here / "again").exists()


def test_rebuild_spares_what_is_there(cli: Cli, here: Path, merged: Path) -> None:
    assert cli("rebuild", "merged", "--out", "a").code == 5
    assert cli("rebuild", "merged", "--out", "merged").code == 5
    assert cli("rebuild", "merged", "--out", "a", "--force").code == 0
    done = cli("rebuild", "merged", "--out", "again", "--json")
    assert done.json["folder"] == str(here / "again")


def test_rebuild_takes_a_hub_source_at_its_commit(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the repository has become since does not matter."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    at_commit, today = here / "snapshots" / commit, here / "snapshots" / "today"
    shutil.copytree(here / "a", at_commit)
    shutil.copytree(here / "b", today)
    asked = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        return str(at_commit if revision == commit or len(asked) == 1 else today)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert cli("compose", "2*a", "a=user/repo", "--heads", "drop", "--out", "first").code == 0
    assert cli("rebuild", "first", "--out", "again").code == 0
    assert asked == [("user/repo", None), ("user/repo", commit)]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(today))
    done = cli("rebuild", "first", "--out", "other")
    assert done.code == 3
    assert "is not what it was" in done.err
    assert not (here / "other").exists()
