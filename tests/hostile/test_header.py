"""Hostile weight files: every lie of a header is refused by its own error, before a tensor is read."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import safetensors

import pemath
from pemath.errors import BadHeader, FileFormatError, TruncatedFile
from pemath.formats import safetensors as format_module
from pemath.formats.safetensors import TensorFile
from pemath.limits import LIMITS

from . import attacks
from .attacks import Attack
from .judge import check_refused, leftovers, outcome


def by_name(attack: Attack) -> str:
    return attack.name


def put(folder: Path, data: bytes) -> Path:
    path = folder / attacks.WEIGHTS
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("attack", attacks.HEADERS, ids=by_name)
def test_header(attack: Attack, tmp_path: Path) -> None:
    path = put(tmp_path, attack.data)
    check_refused(outcome(lambda: TensorFile.open(path)), attack.error)


@pytest.mark.parametrize("name", attacks.ACCEPTED)
def test_what_is_no_attack(name: str, tmp_path: Path) -> None:
    """The reader is strict, and takes all that the format allows."""
    data = attacks.ACCEPTED[name]
    opened = TensorFile.open(put(tmp_path, data))
    reference = dict(safetensors.deserialize(data))
    assert opened.entries.keys() == reference.keys()
    for tensor, entry in opened.entries.items():
        assert list(entry.shape) == reference[tensor]["shape"]
        assert bytes(opened.raw_bytes(tensor)) == bytes(reference[tensor]["data"])


@pytest.mark.parametrize("attack", attacks.HEADERS, ids=by_name)
def test_through_compose(attack: Attack, tmp_path: Path) -> None:
    """The same refusal reaches a user, with the operand's name, and leaves nothing behind."""
    operand = attacks.write(tmp_path / "a", attacks.LORA, attack.data)
    error = outcome(lambda: pemath.compose("a", tmp_path / "out", operands={"a": str(operand)}))
    check_refused(error, attack.error)
    assert "operand `a`" in str(error)
    assert leftovers(tmp_path, "a") == []


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / attacks.WEIGHTS
    for length in range(len(attacks.VALID)):
        path.write_bytes(attacks.VALID[:length])
        error = outcome(lambda: TensorFile.open(path))
        assert type(error) is TruncatedFile, f"cut to {length} bytes: {error!r}"


def test_composing_what_is_truncated_at_every_byte(tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a")
    for length in range(len(attacks.VALID)):
        os.truncate(operand / attacks.WEIGHTS, length)
        error = outcome(
            lambda: pemath.compose("2*a", tmp_path / "out", operands={"a": str(operand)})
        )
        assert isinstance(error, FileFormatError), f"cut to {length} bytes: {error!r}"
        (operand / attacks.WEIGHTS).write_bytes(attacks.VALID)
    assert leftovers(tmp_path, "a") == []


def test_every_byte_of_the_header_overwritten(tmp_path: Path) -> None:
    """Any value in any place of the length field and of the JSON: accepted, or refused on purpose."""
    path = tmp_path / attacks.WEIGHTS
    end = 8 + int.from_bytes(attacks.VALID[:8], "little")
    for position in range(end):
        for value in b'\x00",9}':
            changed = bytearray(attacks.VALID)
            changed[position] = value
            path.write_bytes(changed)
            error = outcome(lambda: TensorFile.open(path))
            assert error is None or isinstance(error, FileFormatError), (position, value, error)


def test_bytes_added_behind(tmp_path: Path) -> None:
    for count in (1, 2, 4096):
        path = put(tmp_path, attacks.VALID + b"\0" * count)
        assert isinstance(outcome(lambda path=path: TensorFile.open(path)), FileFormatError)


@pytest.mark.parametrize("field", ["tensors", "header_bytes", "dimensions", "tensor_elements"])
def test_limits(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bound of the header is one that the reader asks for."""
    path = put(tmp_path, attacks.VALID)
    TensorFile.open(path)
    monkeypatch.setattr(format_module, "LIMITS", dataclasses.replace(LIMITS, **{field: 1}))
    assert isinstance(outcome(lambda: TensorFile.open(path)), FileFormatError)


def test_a_header_of_the_largest_size_takes_bounded_time(tmp_path: Path) -> None:
    """Millions of small JSON values in the place of one shape."""
    filler = "[" + "[]," * ((LIMITS.header_bytes - 200) // 3) + "0]"
    path = put(tmp_path, attacks.shaped(filler))
    check_refused(outcome(lambda: TensorFile.open(path), seconds=10), FileFormatError)


def test_a_pickle_under_the_name_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadHeader, match="pickle"):
        TensorFile.open(put(tmp_path, b"\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94."))
