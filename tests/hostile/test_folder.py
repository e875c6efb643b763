"""Hostile folders: what is there in place of the two files, and where links lead."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pemath
from pemath.composition.request import read_request
from pemath.errors import (
    ConfigError,
    InputError,
    PemathError,
    PickleRefused,
    ReferenceNotFound,
    StorageError,
)
from pemath.formats.peft import PICKLES, PeftFolder, read_json
from pemath.formats.safetensors import TensorFile

from . import attacks
from .attacks import CONFIG, WEIGHTS
from .judge import leftovers, outcome


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nothing(path: Path) -> None:
    path.symlink_to("/dev/null")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("not there"))


def loop(path: Path) -> None:
    path.symlink_to(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


IRREGULAR = [fifo, folder, endless, nothing, dangling, loop, a_socket]


@pytest.fixture
def released(tmp_path: Path) -> object:
    """Whoever hangs on a FIFO of this test is let go afterwards, so that only this test fails."""
    yield
    for path in tmp_path.rglob("*"):
        if path.is_fifo():
            handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            threading.Timer(0.2, os.close, [handle]).start()


def replaced(path: Path, make: Callable[[Path], None]) -> Path:
    path.unlink()
    make(path)
    return path


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("make", IRREGULAR)
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_irregular_files(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a")
    replaced(operand / name, make)
    error = outcome(lambda: pemath.compose("a", tmp_path / "out", operands={"a": str(operand)}))
    assert isinstance(error, InputError | StorageError)
    assert leftovers(tmp_path, "a") == []


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("make", IRREGULAR)
@pytest.mark.parametrize("read", [TensorFile.open, read_json])
def test_irregular_files_given_to_a_reader(
    read: Callable[[Path], object], make: Callable[[Path], None], tmp_path: Path
) -> None:
    """A path that was a file a moment ago: the readers themselves must neither wait nor fill memory."""
    path = tmp_path / "file"
    make(path)
    assert isinstance(outcome(lambda: read(path), waiting=3), InputError | StorageError)


@pytest.mark.parametrize("make", [endless, nothing, folder, dangling, loop])
def test_irregular_request_files(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    make(path)
    assert isinstance(outcome(lambda: read_request(path)), PemathError)


def test_links_to_regular_files_are_fine(tmp_path: Path) -> None:
    """A hub's cache consists of links."""
    store, operand = attacks.lora(tmp_path / "store"), tmp_path / "a"
    operand.mkdir()
    for name in (CONFIG, WEIGHTS):
        (operand / name).symlink_to(store / name)
    assert PeftFolder.open(operand).peft_type == "LORA"


def test_a_link_in_the_place_of_the_output(tmp_path: Path) -> None:
    """Neither followed nor replaced, with or without --force."""
    operand, precious = attacks.lora(tmp_path / "a"), attacks.lora(tmp_path / "precious", seed=3)
    before = {path.name: path.read_bytes() for path in precious.iterdir()}
    for target in (precious, tmp_path / "not there"):
        out = tmp_path / "out"
        out.symlink_to(target)
        for force in (False, True):
            with pytest.raises(StorageError):
                pemath.compose("a", out, operands={"a": str(operand)}, force=force)
        assert out.is_symlink()
        out.unlink()
    assert {path.name: path.read_bytes() for path in precious.iterdir()} == before
    assert leftovers(tmp_path, "a", "precious") == []


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name: str, tmp_path: Path) -> None:
    """Never opened: the folder is refused by the file's name, whatever is in it."""
    operand = attacks.lora(tmp_path / "a")
    (operand / WEIGHTS).unlink()
    (operand / name).write_bytes(
        b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    )
    with pytest.raises(PickleRefused, match="save_pretrained") as refused:
        pemath.compose("a", tmp_path / "out", operands={"a": str(operand)})
    assert name in str(refused.value)
    assert leftovers(tmp_path, "a") == []


def test_a_pickle_beside_safetensors_is_not_opened(tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a")
    fifo(operand / "adapter_model.bin")
    assert outcome(lambda: PeftFolder.open(operand)) is None


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "absent"):
        with pytest.raises(ReferenceNotFound, match="not a folder"):
            PeftFolder.open(tmp_path / name)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="save_pretrained"):
        PeftFolder.open(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a")
    (operand / WEIGHTS).unlink()
    with pytest.raises(ReferenceNotFound, match=WEIGHTS):
        PeftFolder.open(operand)


def test_subfolders_with_names_that_act(tmp_path: Path) -> None:
    """Their names are shown in the hint."""
    for name in ("\x1b[31mred", "new\nline", "\u202ereversed", "`code`"):
        attacks.lora(tmp_path / "a" / name)
    error = outcome(lambda: PeftFolder.open(tmp_path / "a"))
    assert isinstance(error, ReferenceNotFound)


@pytest.mark.parametrize("reference", ["..", "../precious", "/etc", "a/../..", "a/../../precious"])
def test_subfolders_outside(reference: str, tmp_path: Path) -> None:
    attacks.lora(tmp_path / "precious")
    root = attacks.lora(tmp_path / "root")
    (root / "a").mkdir()
    error = outcome(
        lambda: pemath.compose("a", tmp_path / "out", operands={"a": f"{root}:{reference}"})
    )
    assert isinstance(error, ReferenceNotFound)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/../../b", "~"])
def test_sites_named_like_paths(name: str, tmp_path: Path) -> None:
    """They are names and nothing else: all that is written lies in the output."""
    prefix = f"{attacks.PREFIX}{name}.proj"
    tensors = {
        f"{prefix}.lora_A.weight": attacks.tensor((2, 3)),
        f"{prefix}.lora_B.weight": attacks.tensor((4, 2)),
    }
    operand = attacks.write(tmp_path / "inner" / "a", attacks.LORA, tensors)
    out = tmp_path / "inner" / "out"
    assert outcome(lambda: pemath.compose("a", out, operands={"a": str(operand)})) is None
    assert leftovers(out, CONFIG, WEIGHTS, "README.md", "pemath.lock.json") == []
    assert leftovers(tmp_path / "inner", "a", "out") == []
    assert leftovers(tmp_path, "inner") == []


def test_an_operand_inside_the_output(tmp_path: Path) -> None:
    """PEFT saves adapters in subfolders: --force must not delete what is being read."""
    outer = attacks.lora(tmp_path / "outer")
    inner = attacks.lora(outer / "other", seed=3)
    before = (inner / WEIGHTS).read_bytes()
    error = outcome(lambda: pemath.compose("a", outer, operands={"a": str(inner)}, force=True))
    assert isinstance(error, PemathError)
    assert (inner / WEIGHTS).read_bytes() == before


def test_the_output_inside_an_operand(tmp_path: Path) -> None:
    """A new subfolder of an operand harms nothing."""
    operand = attacks.lora(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in operand.iterdir()}
    outcome(lambda: pemath.compose("a", operand / "sub", operands={"a": str(operand)}))
    assert {p.name: p.read_bytes() for p in operand.iterdir() if p.is_file()} == before


def test_force_spares_other_peoples_files(tmp_path: Path) -> None:
    """A training run's folder holds an adapter and its checkpoints: it is no composed adapter."""
    run, operand = attacks.lora(tmp_path / "run"), attacks.lora(tmp_path / "a", seed=3)
    checkpoint = attacks.lora(run / "checkpoint-500", seed=4)
    error = outcome(lambda: pemath.compose("a", run, operands={"a": str(operand)}, force=True))
    assert isinstance(error, StorageError)
    assert (checkpoint / WEIGHTS).is_file()


@pytest.mark.parametrize(
    "out",
    ["x" * 300, "nul\0byte", "surrogate\ud800", "y/" * 3000 + "z"],
    ids=["long", "NUL", "surrogate", "deep"],
)
def test_outputs_with_impossible_names(out: str, tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a")
    error = outcome(lambda: pemath.compose("a", f"{tmp_path}/{out}", operands={"a": str(operand)}))
    assert isinstance(error, PemathError)
    assert leftovers(tmp_path, "a") == []


def test_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    """They exist on Linux; the lock file must still be written, or the operand refused."""
    operand = attacks.lora(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")))
    error = outcome(lambda: pemath.compose("a", tmp_path / "out", operands={"a": str(operand)}))
    if error is None:
        assert (tmp_path / "out" / "pemath.lock.json").read_text("utf-8")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs Unix permissions")
def test_folders_that_may_not_be_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    operand = attacks.lora(closed / "a")
    closed.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        errors = [
            outcome(lambda: pemath.compose("a", tmp_path / "out", operands={"a": str(operand)})),
            outcome(lambda: pemath.compose("a", operand / "out", operands={"a": str(operand)})),
            outcome(lambda: read_request(closed / "request.yaml")),
        ]
    finally:
        if user == 0:
            os.seteuid(user)
        closed.chmod(0o700)
    assert [type(error) for error in errors] == [StorageError] * 3 or all(
        isinstance(error, StorageError) for error in errors
    )


# -------------------------------------------------------------------------------- request files

REQUESTS = {
    "nothing": b"",
    "a list": b"- a\n- b\n",
    "text": b"a + b\n",
    "an unknown key": b"expression: a\nexpresion: b\n",
    "a key twice": b"expression: a\nexpression: b\n",
    "a wrong type": b"expression: 5\n",
    "wrong types everywhere": b"expression: [a]\noperands: [a]\nrank: two\nforce: 1\ndtype: {}\n",
    "a nested type": b"expression: a\noperands: {a: [b]}\n",
    "invalid UTF-8": b"expression: \xff\n",
    "NUL": b"expression: a\0\n",
    "ESC as a key": b'"\\e[31m": 1\n',
    "bidi as a key": '"\u202e": 1\n'.encode(),
    "never closed": b"expression: [a\n",
    "a tab": b"operands:\n\ta: b\n",
    "deep": b"[" * 600,
    "deep and closed": b"[" * 700 + b"]" * 700,
    "Python": b"!!python/object/apply:os.system ['true']\n",
    "Python in a value": b"expression: !!python/name:os.system\n",
    "an unknown tag": b"expression: !x y\n",
    "a false boolean": b"expression: !!bool maybe\n",
    "an empty integer": b"rank: !!int ''\n",
    "a false integer": b"rank: !!int x\n",
    "a false float": b"max_error: !!float x\n",
    "a false date": b"out: !!timestamp x\n",
    "an impossible date": b"out: 2024-13-45\n",
    "false binary": b"out: !!binary \xc3\xa9\n",
    "a false map": b"!!omap {a: b}\n",
    "a list as a key": b"? [a, b]\n: c\n",
    "a map as a key": b"? {a: b}\n: c\n",
    "an unknown anchor": b"expression: *a\n",
    "an anchor of itself": b"operands: &a\n  a: *a\n",
    "a merge of text": b"<<: text\n",
    "billion laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 106)
    ),
    "two documents": b"expression: a\n---\nexpression: b\n",
    "a directive": b"%YAML 9.9\n---\nexpression: a\n",
    "digits": b"rank: " + b"9" * 5000 + b"\n",
    "a large number": b"max_error: 1e999\n",
    "no number": b"max_error: .nan\n",
    "an infinite one": b"max_error: .inf\n",
    "a percentage of nothing": b"max_error: '%'\n",
    "percent of percent": b"max_error: '1%%%'\n",
    "too large": b"#" * (9 << 20),
    "a megabyte of list": b"- a\n" * 250_000,
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_files(name: str, tmp_path: Path) -> None:
    """A YAML request is read without executing anything, and every mistake is a ConfigError."""
    path = tmp_path / "request.yaml"
    path.write_bytes(REQUESTS[name])

    def use() -> None:
        fields = {"expression": "a", "operands": {"a": "nowhere"}, "out": "out"} | read_request(
            path
        )
        out = fields.pop("out")
        fields.pop("force", None)
        pemath.compose(fields.pop("expression"), tmp_path / str(out), **fields)

    error = outcome(use, seconds=10)
    assert isinstance(error, PemathError)
    assert error.exit_code in (2, 3, 5)


def test_a_request_file_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_text("expression: 0.5*a\noperands: {a: here}\nmax_error: 1%\nforce: no\nout: no\n")
    with pytest.raises(ConfigError, match="force"):
        read_request(path)  # YAML 1.2: `no` is text
    path.write_text(
        "expression: 0.5*a\noperands: {a: here}\nmax_error: 1%\nforce: false\nout: no\n"
    )
    assert read_request(path) == {
        "expression": "0.5*a",
        "operands": {"a": "here"},
        "max_error": pytest.approx(0.01),
        "force": False,
        "out": "no",
    }
