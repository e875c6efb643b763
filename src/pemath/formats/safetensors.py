"""safetensors files: a strict reader over a memory map, and a writer that streams.

The format is an 8-byte little-endian length, a JSON header {name: {dtype, shape, data_offsets}} and
the data. Everything in the header is checked before a tensor is touched: one tensor per name, no
gap and no overlap, every offset inside the file, sizes that agree with shape and dtype.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pemath.errors import (
    BadHeader,
    BadOffsets,
    BadShape,
    BadTensorName,
    DuplicateTensor,
    NonFiniteValue,
    StorageError,
    TruncatedFile,
    UnknownDtype,
)
from pemath.formats.files import open_regular
from pemath.formats.floats import FLOAT_TYPES, FloatType, Raw, Stored, widen
from pemath.limits import LIMITS
from pemath.names import display, is_plain

_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


# Elements looked at in one go: a few megabytes in float64.
_SLAB = 1 << 19


@dataclass(frozen=True)
class Entry:
    """One tensor of a header: `start` and `stop` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class TensorFile:
    """An open safetensors file. Tensors are views of the memory map: nothing is read until used."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int
    _map: mmap.mmap | bytes = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Open and check `path`.

        Raises: StorageError if it cannot be read, a FileFormatError for each way in which the
        header can be wrong.
        """
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                size = status.st_size
                prefix = file.read(8)
                length = _header_length(path, prefix, size)
                header = file.read(length)
                if len(header) < length:
                    raise TruncatedFile(
                        "the file ends inside its header",
                        where=display(path),
                        found=f"{len(header)} bytes",
                        expected=f"{length} bytes",
                    )
                entries, metadata = _parse_header(path, header, 8 + length, size)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StorageError(
                f"cannot read the file: {error.strerror}", where=display(path)
            ) from None
        return cls(path, entries, metadata, size, data)

    def float_type(self, name: str) -> FloatType:
        """The floating-point type of a tensor; raises UnknownDtype for any other dtype."""
        entry = self.entries[name]
        if entry.dtype not in FLOAT_TYPES:
            raise UnknownDtype(
                f"tensor `{display(name)}` has a dtype that pemath does not compute with",
                where=display(self.path),
                found=entry.dtype,
                expected="float64, float32, float16 or bfloat16",
                hint="quantised adapters must be dequantised by the tool that made them",
            )
        return FLOAT_TYPES[entry.dtype]

    def stored(self, name: str) -> Stored:
        """The tensor `name` as a read-only view of the file."""
        kind = self.float_type(name)
        entry = self.entries[name]
        count = math.prod(entry.shape)
        raw: Raw = (
            np.frombuffer(self._map, kind.carrier, count, entry.start)
            if count
            else np.empty(0, kind.carrier)
        )
        return Stored(raw.reshape(entry.shape), kind)

    def raw_bytes(self, name: str) -> memoryview:
        """The bytes of a tensor of any dtype, as a view of the file."""
        entry = self.entries[name]
        return memoryview(self._map)[entry.start : entry.stop]

    def refuse_non_finite(self, name: str) -> None:
        """Raise NonFiniteValue, naming the first bad element, if the tensor has one."""
        stored = self.stored(name)
        flat = stored.raw.reshape(-1)
        for start in range(0, flat.size, _SLAB):
            bad = np.flatnonzero(~np.isfinite(widen(flat[start : start + _SLAB], stored.kind)))
            if len(bad):
                index = np.unravel_index(start + int(bad[0]), stored.shape)
                raise NonFiniteValue(
                    f"tensor `{display(name)}` holds values that are NaN or infinite",
                    where=f"{display(self.path)}, first at index {tuple(int(i) for i in index)}",
                    hint="the training run that wrote this adapter diverged; use an earlier checkpoint",
                )


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise TruncatedFile(
            "the file is too short to be a safetensors file",
            where=display(path),
            found=f"{size} bytes",
            expected="at least 10 bytes",
        )
    (length,) = struct.unpack("<Q", prefix)
    if length > LIMITS.header_bytes:
        raise BadHeader(
            "the header is too long",
            where=display(path),
            found=f"{length} bytes",
            expected=f"at most {LIMITS.header_bytes} bytes",
            hint="if this is a pickle (adapter_model.bin) it must be converted, not renamed",
        )
    if length < 2:
        raise BadHeader("the header is empty", where=display(path), found=f"{length} bytes")
    if 8 + length > size:
        raise TruncatedFile(
            "the file ends inside its header",
            where=display(path),
            found=f"{size} bytes",
            expected=f"{8 + length} bytes",
        )
    return int(length)


def _parse_header(
    path: Path, header: bytes, data_start: int, size: int
) -> tuple[dict[str, Entry], dict[str, str]]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise DuplicateTensor(
                f"the name `{display(twice)}` stands twice in the header", where=display(path)
            )
        return found

    if header[:1] != b"{":
        raise BadHeader("the header is not a JSON object", where=display(path))
    try:
        table = json.loads(
            header.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_constant
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadHeader(
            f"the header is not valid JSON: {display(error)}", where=display(path)
        ) from None
    if not isinstance(table, dict):
        raise BadHeader("the header is not a JSON object", where=display(path))
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadHeader("`__metadata__` is not a table of strings", where=display(path))
    if len(table) > LIMITS.tensors:
        raise BadHeader(
            "the header names too many tensors",
            where=display(path),
            found=len(table),
            expected=f"at most {LIMITS.tensors}",
        )
    entries = {
        name: _check_entry(path, name, entry, data_start, size) for name, entry in table.items()
    }
    _check_cover(path, list(entries.values()), data_start, size)
    return entries, metadata


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_entry(path: Path, name: str, entry: Any, data_start: int, size: int) -> Entry:
    where = f"{display(path)}, tensor `{display(name)}`"
    if not name or len(name) > LIMITS.tensor_name_length or not is_plain(name):
        raise BadTensorName(
            "a tensor name is empty, too long or not printable",
            where=where,
            expected=f"1 to {LIMITS.tensor_name_length} printable characters",
        )
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadHeader(
            "a tensor's header entry is malformed",
            where=where,
            expected="exactly dtype, shape and data_offsets",
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise UnknownDtype(
            "a tensor has an unknown dtype",
            where=where,
            found=display(dtype, 40),
            expected=", ".join(sorted(_SIZES)),
        )
    if (
        not isinstance(shape, list)
        or len(shape) > LIMITS.dimensions
        or not all(_is_count(n) for n in shape)
        or any(n > LIMITS.tensor_elements for n in shape)
        or math.prod(n for n in shape if n) > LIMITS.tensor_elements
    ):
        raise BadShape(
            "a tensor has an absurd shape",
            where=where,
            found=display(shape, 80),
            expected=f"at most {LIMITS.dimensions} whole numbers >= 0",
        )
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_count(n) and n < 1 << 63 for n in offsets)
    ):
        raise BadOffsets("data_offsets are not two whole numbers below 2**63", where=where)
    start, stop = offsets
    nbytes = math.prod(shape) * _SIZES[dtype]
    if start > stop or stop - start != nbytes:
        raise BadOffsets(
            "data_offsets disagree with shape and dtype",
            where=where,
            found=f"{stop - start} bytes",
            expected=f"{nbytes} bytes",
        )
    if data_start + stop > size:
        raise TruncatedFile(
            "the file ends before the tensor does",
            where=where,
            found=f"{size} bytes",
            expected=f"at least {data_start + stop} bytes",
            hint="the download or copy was cut off: fetch the file again",
        )
    return Entry(name, dtype, tuple(shape), data_start + start, data_start + stop)


def _check_cover(path: Path, entries: list[Entry], data_start: int, size: int) -> None:
    """Tensors must lie one behind the other and fill the file."""
    position = data_start
    for entry in sorted(entries, key=lambda e: (e.start, e.stop)):
        if entry.start != position:
            verb = "overlaps another" if entry.start < position else "leaves a gap before it"
            raise BadOffsets(
                f"tensor `{display(entry.name)}` {verb}",
                where=display(path),
                found=f"offset {entry.start - data_start}",
                expected=f"offset {position - data_start}",
            )
        position = entry.stop
    if position != size:
        raise BadOffsets(
            "there are bytes behind the last tensor",
            where=display(path),
            found=f"{size} bytes",
            expected=f"{position} bytes",
        )


@dataclass(frozen=True)
class Spec:
    """A tensor to be written: dtype is a safetensors code."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * _SIZES[self.dtype]


class TensorWriter:
    """Writes a safetensors file tensor by tensor, in any order and from any thread.

    The header, and so every offset, is fixed when the writer is made: only the tensor at hand is in
    memory. `close` checks that every byte of every tensor has been written.
    """

    def __init__(self, path: Path, specs: Sequence[Spec], metadata: Mapping[str, str]) -> None:
        # Wide dtypes first keeps every tensor aligned; then by name, so that the bytes are fixed.
        ordered = sorted(specs, key=lambda spec: (-_SIZES[spec.dtype], spec.name))
        header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
        position = 0
        offsets = {}
        for spec in ordered:
            offsets[spec.name] = position
            end = position + spec.nbytes
            header[spec.name] = {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": [position, end],
            }
            position = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._specs = {spec.name: spec for spec in ordered}
        self._missing = {spec.name: spec.nbytes for spec in ordered}
        self._starts = {name: 8 + len(text) + start for name, start in offsets.items()}
        self.size = 8 + len(text) + position
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._pwrite(struct.pack("<Q", len(text)) + text, 0)

    def write(self, name: str, data: Raw | memoryview, at: int = 0) -> None:
        """Write `data` into tensor `name`, from byte `at` of that tensor on."""
        view = np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data
        view = view.cast("B") if view.nbytes else memoryview(b"")
        if at < 0 or at + len(view) > self._specs[name].nbytes:
            raise ValueError(f"{name}: {len(view)} bytes at {at} do not fit")
        self._pwrite(view, self._starts[name] + at)
        self._missing[name] -= len(view)

    def close(self) -> str:
        """Flush to the disk; returns the file's SHA-256, which is computed meanwhile.

        Raises: ValueError if a tensor was not written whole, OSError.
        """
        unwritten = [name for name, missing in self._missing.items() if missing]
        if unwritten:
            raise ValueError(f"tensors were not written: {unwritten[:3]}")
        errors: list[Exception] = []

        def flush() -> None:
            try:
                os.fsync(self._file)
            except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
                errors.append(error)

        flusher = threading.Thread(target=flush)
        flusher.start()
        try:
            digest = self._sha256()
        finally:
            flusher.join()
        if errors:
            raise errors[0]
        self.abandon()
        return digest

    def abandon(self) -> None:
        """Close the file, whatever was written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _sha256(self) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
        position = 0
        while read := os.preadv(self._file, [buffer], position):
            digest.update(buffer[:read])
            position += read
        return digest.hexdigest()

    def _pwrite(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view = view[written:]
            offset += written
