"""Staged output: whole folders or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pemath.errors import OutputExists, StorageError
from pemath.formats import commit
from pemath.formats.commit import check_target, staged


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def make_adapter(folder: Path, text: str = "old") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(text)
    return folder


def test_a_new_folder(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".out.")
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert content(tmp_path / "out") == {"a": "1", "b": "2"}


def test_a_relative_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the working directory changes meanwhile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with staged(Path("out")) as folder:
        (folder / "a").write_text("1")
        os.chdir("elsewhere")
    assert names(tmp_path) == ["elsewhere", "out"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), MemoryError()]
)
def test_nothing_after_an_error(error: BaseException, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("1")
        (folder / "sub").mkdir()
        raise error

    with pytest.raises(type(error)) as raised, staged(tmp_path / "out") as folder:
        fail(folder)
    assert raised.value is error
    assert names(tmp_path) == []


def test_errors_of_the_system_become_ours(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left") as raised, staged(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert raised.value.exit_code == 5
    assert names(tmp_path) == []


def test_our_own_errors_stay(tmp_path: Path) -> None:
    with pytest.raises(OutputExists), staged(tmp_path / "out"):
        raise OutputExists("x")


def test_an_existing_folder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    out = make_adapter(tmp_path / "out")
    with pytest.raises(OutputExists, match="--force"), staged(out):
        pytest.fail("the block was entered")
    assert names(tmp_path) == ["out"]
    assert content(out) == {"adapter_config.json": "old"}


def test_force_replaces_the_whole_folder(tmp_path: Path) -> None:
    out = make_adapter(tmp_path / "out")
    (out / "stale").write_text("x")
    with staged(out, force=True) as folder:
        (folder / "adapter_config.json").write_text("new")
        assert content(out) == {"adapter_config.json": "old", "stale": "x"}
    assert content(out) == {"adapter_config.json": "new"}
    assert names(tmp_path) == ["out"]


def test_force_with_an_error_keeps_the_old_folder(tmp_path: Path) -> None:
    out = make_adapter(tmp_path / "out")

    def fail(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staged(out, force=True) as folder:
        fail(folder)
    assert content(out) == {"adapter_config.json": "old"}
    assert names(tmp_path) == ["out"]


def test_force_without_anything_to_replace(tmp_path: Path) -> None:
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("1")
    assert content(tmp_path / "out") == {"a": "1"}


def test_force_on_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("1")
    assert content(tmp_path / "out") == {"a": "1"}


@pytest.mark.parametrize(
    "what", ["file", "other folder", "link", "dangling link", "link to an adapter"]
)
def test_force_replaces_adapters_only(what: str, tmp_path: Path) -> None:
    out, real = tmp_path / "out", make_adapter(tmp_path / "real")
    match what:
        case "file":
            out.write_text("precious")
        case "other folder":
            out.mkdir()
            (out / "thesis.tex").write_text("precious")
        case "link":
            (tmp_path / "empty").mkdir()
            out.symlink_to(tmp_path / "empty")
        case "dangling link":
            out.symlink_to(tmp_path / "absent")
        case "link to an adapter":
            out.symlink_to(real)
    for force in (False, True):
        with pytest.raises(OutputExists):
            check_target(out, force=force)
        with pytest.raises(OutputExists), staged(out, force=force):
            pytest.fail("the block was entered")
    assert os.path.lexists(out)
    assert content(real) == {"adapter_config.json": "old"}


@pytest.mark.parametrize("root", [Path("/"), Path()])
def test_folders_that_are_never_a_target(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    for force in (False, True):
        with pytest.raises(StorageError), staged(root, force=force):
            pytest.fail("the block was entered")


@pytest.mark.parametrize("parent", ["absent", "file", "dangling"])
def test_a_parent_that_is_no_folder(parent: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(StorageError, match="parent"):
        check_target(tmp_path / parent / "out", force=True)


def test_a_target_that_appears_meanwhile(tmp_path: Path) -> None:
    """Someone else was faster: their folder stays, ours goes."""
    out = tmp_path / "out"

    def write(folder: Path) -> None:
        (folder / "a").write_text("ours")
        make_adapter(out, "theirs")

    with pytest.raises(OutputExists), staged(out) as folder:
        write(folder)
    assert content(out) == {"adapter_config.json": "theirs"}
    assert names(tmp_path) == ["out"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as one, staged(tmp_path / "other") as two:
        assert one != two
        (one / "a").write_text("1")
        (two / "a").write_text("2")
    assert content(tmp_path / "out") == {"a": "1"}
    assert content(tmp_path / "other") == {"a": "2"}


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), KeyboardInterrupt()])
def test_a_replacement_that_fails_half_way(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder was moved aside when the new one could not take its place: it comes back."""
    out = make_adapter(tmp_path / "out")
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".partial"):
            raise error
        real(source, target)

    monkeypatch.setattr(commit.os, "rename", rename)
    with pytest.raises((StorageError, KeyboardInterrupt)), staged(out, force=True) as folder:
        (folder / "adapter_config.json").write_text("new")
    assert names(tmp_path) == ["out"]
    assert content(out) == {"adapter_config.json": "old"}


def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, then their folder, then the rename, then the parent folder."""
    events: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(handle: int) -> None:
        events.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real_sync(handle)

    def rename(source: Path, target: Path) -> None:
        events.append("rename")
        real_rename(source, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    monkeypatch.setattr(commit.os, "fsync", sync)
    monkeypatch.setattr(commit.os, "rename", rename)
    with staged(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    at = events.index("rename")
    assert {"a", "b", folder.name} <= set(events[:at])
    assert events.index(folder.name) > max(events.index("a"), events.index("b"))
    assert tmp_path.name in events[at:]


def test_cleaning_up_never_hides_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rmtree(path: Path, **options: object) -> None:
        assert options == {"ignore_errors": True}

    monkeypatch.setattr(commit.shutil, "rmtree", rmtree)
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out"):
        raise ZeroDivisionError
    monkeypatch.undo()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"], ids=["long", "NUL", "surrogate"])
def test_impossible_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError), staged(tmp_path / name):
        pytest.fail("the block was entered")
    assert names(tmp_path) == []


def test_the_longest_name(tmp_path: Path) -> None:
    """What the file system takes as a name is taken, or refused; the staging name is longer."""
    try:
        with staged(tmp_path / ("x" * 250)) as folder:
            (folder / "a").write_text("1")
    except StorageError:
        assert names(tmp_path) == []
    else:
        assert names(tmp_path) == ["x" * 250]
