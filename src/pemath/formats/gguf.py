"""GGUF files of llama.cpp: a strict reader of the header, and a writer.

Little-endian, version 3: magic, counts of tensors and of keys, the keys with typed values, then for
each tensor its name, its shape (fastest axis first), type and offset, and behind padding the data,
each tensor aligned.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pemath.errors import BadHeader, BadShape, DuplicateTensor, StorageError, TruncatedFile
from pemath.formats.files import open_regular
from pemath.formats.floats import Raw
from pemath.limits import LIMITS
from pemath.names import display, is_plain

Value = str | int | float | bool

_MAGIC = b"GGUF"
_VERSION = 3
_READ_VERSIONS = (2, 3)  # 2 differs in nothing that is read here
_ALIGNMENT = 32
_DIMENSIONS = 4
# Vocabularies of 260,000 tokens with merges take 16 MB.
_HEADER_BYTES = 4 * LIMITS.header_bytes
_TEXT_BYTES = 1 << 20
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # fmt: skip
_TEXT, _ARRAY = 8, 9
_TENSOR_TYPES = {np.dtype("<f4"): 0, np.dtype("<f2"): 1}


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself: numbers and texts by key (arrays are left out), and the
    shape of each tensor, slowest axis first.
    """

    path: Path
    metadata: Mapping[str, Value]
    shapes: Mapping[str, tuple[int, ...]]


def read_header(path: Path) -> Header:
    """The header of a file. Raises: StorageError, BadHeader, TruncatedFile, DuplicateTensor."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise TruncatedFile(
                    "the file is too short to be a GGUF file",
                    where=display(path),
                    found=f"{size} bytes",
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Cursor(path, data, min(size, _HEADER_BYTES), whole=size).header()
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror}", where=display(path)) from None


class _Cursor:
    """A place in a header that never leaves it."""

    def __init__(self, path: Path, data: mmap.mmap, size: int, *, whole: int) -> None:
        self._path, self._data, self._size, self._whole = path, data, size, whole
        self._at = 0

    def header(self) -> Header:
        """The whole header."""
        if self._bytes(4) != _MAGIC:
            raise self._bad("the file does not begin as GGUF files do")
        version = self._number("I")
        if version not in _READ_VERSIONS:
            raise self._bad("an unknown version of GGUF", found=version)
        tensors, keys = self._number("Q"), self._number("Q")
        if tensors > LIMITS.tensors or keys > LIMITS.tensors:
            raise self._bad("the header names too many things", found=f"{tensors} and {keys}")
        metadata: dict[str, Value] = {}
        seen: set[str] = set()
        for _ in range(keys):
            key = self._name()
            if key in seen:
                raise self._bad(f"the key `{display(key)}` stands twice")
            seen.add(key)
            value = self._value(self._number("I"))
            if value is not None:
                metadata[key] = value
        shapes: dict[str, tuple[int, ...]] = {}
        for _ in range(tensors):
            name = self._name()
            if name in shapes:
                raise DuplicateTensor(
                    f"the name `{display(name)}` stands twice in the header",
                    where=display(self._path),
                )
            shapes[name] = self._shape(name)
            self._number("I")
            self._number("Q")
        return Header(self._path, metadata, shapes)

    def _shape(self, name: str) -> tuple[int, ...]:
        count = self._number("I")
        if count > _DIMENSIONS:
            raise BadShape(
                f"tensor `{display(name)}` has too many dimensions",
                where=display(self._path),
                found=count,
                expected=f"at most {_DIMENSIONS}",
            )
        shape = tuple(self._number("Q") for _ in range(count))[::-1]
        if math.prod(n for n in shape if n) > LIMITS.tensor_elements:
            raise BadShape(
                f"tensor `{display(name)}` has an absurd shape",
                where=display(self._path),
                found=display(shape, 80),
            )
        return shape

    def _value(self, kind: int) -> Value | None:
        """A value; None for an array, which is passed over."""
        if kind == _TEXT:
            return self._bytes(self._length(_TEXT_BYTES)).decode("utf-8", "replace")
        if kind != _ARRAY:
            return self._scalar(kind)
        kind, count = self._number("I"), self._number("Q")
        if kind == _TEXT:
            for _ in range(count):  # each takes 8 bytes at least: the header's end stops it
                self._skip(self._number("Q"))
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise self._bad("an array of an unknown type", found=kind)
        return None

    def _scalar(self, kind: int) -> Value:
        if kind not in _SCALARS:
            raise self._bad("a value of an unknown type", found=kind)
        (value,) = struct.unpack(f"<{_SCALARS[kind]}", self._bytes(struct.calcsize(_SCALARS[kind])))
        return value  # type: ignore[no-any-return]

    def _name(self) -> str:
        raw = self._bytes(self._length(LIMITS.tensor_name_length))
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._bad("a name is not UTF-8") from None
        if not name or not is_plain(name):
            raise self._bad("a name is empty or not printable", found=display(name))
        return name

    def _length(self, most: int) -> int:
        length = self._number("Q")
        if length > most:
            raise self._bad("a text is too long", found=length, expected=f"at most {most} bytes")
        return length

    def _number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self._bytes(struct.calcsize(code)))
        return int(value)

    def _bytes(self, count: int) -> bytes:
        start = self._at
        self._skip(count)
        return self._data[start : self._at]

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > self._size:
            if self._size < self._whole:
                raise self._bad("the header is too long", expected=f"at most {self._size} bytes")
            raise TruncatedFile("the file ends inside its header", where=display(self._path))

    def _bad(self, what: str, found: object = None, expected: str | None = None) -> BadHeader:
        return BadHeader(what, where=display(self._path), found=found, expected=expected)


def write(
    path: Path,
    metadata: Mapping[str, str | float],
    specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    tensors: Iterable[Raw],
) -> None:
    """A new file with these keys (texts, and numbers as float32) and tensors.

    `specs` has each tensor's shape and type (float32 or float16) by name; `tensors` gives their
    values in that order, and each is written before the next is asked for.
    Raises: OSError, ValueError if a tensor is not as announced.
    """
    head = [_MAGIC, struct.pack("<IQQ", _VERSION, len(specs), len(metadata))]
    for key, value in metadata.items():
        head.append(_text(key))
        if isinstance(value, str):
            head.append(struct.pack("<I", _TEXT) + _text(value))
        else:
            head.append(struct.pack("<If", 6, value))
    position = 0
    for name, (shape, kind) in specs.items():
        head.append(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1]))
        head.append(struct.pack("<IQ", _TENSOR_TYPES[kind], position))
        position += _aligned(math.prod(shape) * kind.itemsize)
    with open(path, "xb") as file:
        _write_aligned(file, b"".join(head))
        for (name, (shape, kind)), values in zip(specs.items(), tensors, strict=True):
            if (values.shape, values.dtype) != (shape, kind):
                raise ValueError(f"{name}: {values.shape} {values.dtype} is not as announced")
            _write_aligned(file, values.tobytes())


def _write_aligned(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.write(bytes(_aligned(len(data)) - len(data)))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
