"""References: folders, subfolders, examples and hub repositories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pemath import references
from pemath.errors import ReferenceNotFound, StorageError
from pemath.references import Resolved, examples, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """In the place of huggingface_hub.snapshot_download."""

    def __init__(self, root: Path) -> None:
        self.root = root / "snapshots" / COMMIT
        self.root.mkdir(parents=True)
        self.calls: list[tuple[str, str | None, list[str]]] = []
        self.error: Exception | None = None

    def __call__(self, repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append((repo, revision, allow_patterns))
        if self.error is not None:
            raise self.error
        return str(self.root)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    return found


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


# -------------------------------------------------------------------------------------- local


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    assert resolve(str(folder)) == Resolved(str(folder), folder, None)


def test_a_relative_folder(tmp_path: Path) -> None:
    (tmp_path / "work" / "someone" / "adapter").mkdir(parents=True)
    assert resolve("someone/adapter").folder == Path("someone/adapter")
    assert resolve("./someone/adapter").folder == Path("someone/adapter")


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    assert resolve("~/a").folder == tmp_path / "a"


def test_the_home_of_nobody() -> None:
    for reference in ("~nobody-is-called-so/a", "~nobody-is-called-so/a:b"):
        with pytest.raises(ReferenceNotFound):
            resolve(reference)


def test_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    assert resolve(f"{tmp_path}/a:b").folder == tmp_path / "a" / "b"
    assert resolve(f"{tmp_path}/a:b/c").folder == tmp_path / "a" / "b" / "c"
    assert resolve(f"{tmp_path}/a:b/c").reference == f"{tmp_path}/a:b/c"


def test_a_folder_with_a_colon_in_its_name(tmp_path: Path) -> None:
    for name in ("a:b", "a:", "C:"):
        (tmp_path / name).mkdir()
        assert resolve(f"{tmp_path}/{name}").folder == tmp_path / name


@pytest.mark.parametrize("sub", ["", "..", "../b", "b/../..", "b/../../b", "/", "/tmp", "//tmp"])
def test_a_subfolder_that_is_outside(sub: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ReferenceNotFound, match="inside"):
        resolve(f"{tmp_path}/a:{sub}")


def test_a_subfolder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    for sub in ("b", "file", "b/c", "~"):
        with pytest.raises(ReferenceNotFound, match="no subfolder"):
            resolve(f"{tmp_path}/a:{sub}")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "work" / "some").mkdir()
    (tmp_path / "work" / "some" / "x.safetensors").write_text("x")
    for reference in (f"{tmp_path}/work/some/x.safetensors", "some/x.safetensors"):
        with pytest.raises(ReferenceNotFound, match="it is a file") as refused:
            resolve(reference)
        assert "--to peft" in str(refused.value.hint)


@pytest.mark.parametrize(
    "reference",
    [
        *("", " ", "\0", "a\0b", "a", "/not/there", "./not/there", "../not/there", "~/not there"),
        *("a/b/c", "a//b", "/a", "a/", ":", ":a", "a:", "a:b", "a b/c", "https://example.org/a/b"),
        *("@", "a/b@", "a/b:", "a/b@c:", "a/b@c@d", "-x", "--help", "a\nb/c", "a/b\n"),
        *("\ud800", "a/\udcff", "\x1b[31m", "x" * 5000, "x/" * 3000),
    ],
    ids=lambda reference: ascii(reference[:20]),
)
def test_what_is_no_reference(reference: str, hub: Hub) -> None:
    """Refused without asking the hub, and shown without effect."""
    with pytest.raises(ReferenceNotFound) as refused:
        resolve(reference)
    assert all(line.isprintable() for line in str(refused.value).split("\n"))
    assert len(str(refused.value)) < 1000
    assert hub.calls == []


def test_a_folder_that_may_not_be_looked_at(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "a" / "b").mkdir(parents=True)
    closed.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        for reference in (f"{closed}/a", f"{closed}/a:b"):
            with pytest.raises(StorageError):
                resolve(reference)
    finally:
        if user == 0:
            os.seteuid(user)
        closed.chmod(0o700)


# ----------------------------------------------------------------------------------- examples


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package" / "examples"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
    (folder / "no adapter").mkdir()
    monkeypatch.setattr(references.resources, "files", lambda package: tmp_path / "package")
    return folder


def test_examples(shipped: Path) -> None:
    assert examples() == ["one", "two"]
    assert resolve("example:one") == Resolved("example:one", shipped / "one", None)


@pytest.mark.parametrize(
    "name", ["", "three", "no adapter", "../examples/one", "one/", "ONE", "/etc", "one:two"]
)
def test_what_is_no_example(name: str, shipped: Path, hub: Hub) -> None:
    with pytest.raises(ReferenceNotFound, match="`one`, `two`"):
        resolve(f"example:{name}")
    assert hub.calls == []


def test_every_shipped_example_resolves() -> None:
    for name in examples():
        assert (resolve(f"example:{name}").folder / "adapter_config.json").is_file()


# ---------------------------------------------------------------------------------------- hub


@pytest.mark.parametrize(
    ("reference", "repo", "revision", "prefix"),
    [
        ("user/repo", "user/repo", None, ""),
        ("user/repo@main", "user/repo", "main", ""),
        ("user/repo@refs/pr/1", "user/repo", "refs/pr/1", ""),
        (f"user/repo@{COMMIT}", "user/repo", COMMIT, ""),
        ("user/repo:sub", "user/repo", None, "sub/"),
        ("user/repo@v1.0:sub/folder", "user/repo", "v1.0", "sub/folder/"),
        ("u-s.e_r/r-e.p_o", "u-s.e_r/r-e.p_o", None, ""),
    ],
)
def test_a_repository(
    reference: str, repo: str, revision: str | None, prefix: str, hub: Hub
) -> None:
    """Only the two files are fetched, and the commit that the hub chose is kept."""
    found = resolve(reference)
    files = [prefix + "adapter_config.json", prefix + "adapter_model.safetensors"]
    assert hub.calls == [(repo, revision, files)]
    assert found == Resolved(reference, hub.root / prefix, COMMIT)


def test_a_folder_comes_before_a_repository(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "work" / "user" / "repo").mkdir(parents=True)
    assert resolve("user/repo").revision is None
    assert hub.calls == []


@pytest.mark.parametrize("sub", ["..", "../x", "a/../../x", "/etc", "a/.."])
def test_a_subfolder_outside_a_repository(sub: str, hub: Hub) -> None:
    with pytest.raises(ReferenceNotFound, match="inside"):
        resolve(f"user/repo:{sub}")
    assert hub.calls == []


@pytest.mark.parametrize("sub", ["*", "?", "[a-z]", "a/*"])
def test_a_subfolder_is_no_pattern(sub: str, hub: Hub) -> None:
    """The hub's client takes patterns: a subfolder's name must not choose more than itself."""
    try:
        resolve(f"user/repo:{sub}")
    except ReferenceNotFound:
        assert hub.calls == []
    else:
        ((_, _, patterns),) = hub.calls
        assert all("*" not in p.replace("[*]", "") for p in patterns)
        assert all("?" not in p.replace("[?]", "") for p in patterns)
        assert "[a-z]" not in patterns[0]


@pytest.mark.parametrize("revision", ["..", "../../x", "a/../../b", "/etc/passwd"])
def test_a_revision_is_no_path(revision: str, hub: Hub) -> None:
    """The hub's client makes a path of it."""
    with pytest.raises(ReferenceNotFound):
        resolve(f"user/repo@{revision}")
    assert hub.calls == []


@pytest.mark.parametrize(
    "error",
    [OSError("offline"), ValueError("bad name"), RuntimeError("\x1b[31m\u202e" + "x" * 10_000)],
    ids=["OSError", "ValueError", "RuntimeError"],
)
def test_a_hub_that_fails(error: Exception, hub: Hub) -> None:
    hub.error = error
    with pytest.raises(ReferenceNotFound, match="user/repo") as refused:
        resolve("user/repo")
    assert "\x1b" not in str(refused.value)
    assert "\u202e" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert refused.value.exit_code == 5


def test_an_interrupted_download_is_interrupted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.snapshot_download", stop)
    with pytest.raises(KeyboardInterrupt):
        resolve("user/repo")


def test_without_a_network() -> None:
    """The client itself, offline as in every test: its own errors become ours."""
    with pytest.raises(ReferenceNotFound):
        resolve("someone-who-does-not-exist/nothing")
