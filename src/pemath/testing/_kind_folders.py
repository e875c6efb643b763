"""Values of a kind in folders, written as compose writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pemath.formats.floats import FloatType
from pemath.formats.peft import PeftFolder, write_json
from pemath.formats.safetensors import Spec, TensorFile, TensorWriter
from pemath.kinds import Adapter, FolderFormat, Kind
from pemath.references import CONFIG, WEIGHTS
from pemath.testing import _conformance as conformance
from pemath.testing.strategies import Family


@dataclass(frozen=True, eq=False)
class Written:
    """A value in a folder, and what store() said that a reader gets back."""

    family: Family
    value: Any
    dtype: FloatType
    folder: Path
    kept: Any

    def __str__(self) -> str:
        return f"{self.value.describe()} in {self.dtype.name}"


def write(
    kind: Kind,
    value: Any,
    dtype: FloatType,
    folder: Path,
    *,
    operand: Adapter | None = None,
    strange: str | None = None,
) -> Any:
    """Write one value as compose does; gives what store() says that a reader gets back."""
    folders = _format(kind)
    site, rank = conformance.site_of(value), _rank(value)
    values, ranks = folders.unify({site: value}), {site: rank}
    folder.mkdir()
    operand = operand or conformance.adapter(kind, value)
    write_json(folder / CONFIG, folders.config([operand], values, ranks))
    specs = [*folders.layout(values, ranks, dtype)]
    if strange:
        specs.append(Spec(strange, dtype.code, (1, 1)))
    writer = TensorWriter(folder / WEIGHTS, specs, {"format": "pt"})
    try:
        stored = folders.store(site, values[site], rank, dtype)
        for name, offset, data in stored.pieces:
            writer.write(name, data, offset)
        if strange:
            writer.write(strange, np.zeros((1, 1), dtype.carrier))
        writer.close()
    finally:
        writer.abandon()
    return stored.value


def has_folders(kind: Kind) -> bool:
    """Whether a folder holds values of the kind by itself."""
    return kind.folders is not None and bool(kind.folders.peft_types)


def _format(kind: Kind) -> FolderFormat:
    if kind.folders is None:
        raise ValueError(f"no folder stores the kind {kind.name}")
    return kind.folders


def _rank(value: Any) -> int:
    """The rank to write: one at least, for kinds that have any."""
    rank = getattr(value, "rank", None)
    return 0 if rank is None else int(rank or value.geometry.site_rank(1))


def read(kind: Kind, folder: Path) -> Adapter:
    """The adapter in a folder."""
    return _format(kind).open(PeftFolder.open(folder))


def spoil(path: Path, dtype: FloatType) -> str:
    """Put NaN into the first number of the last tensor of a file; gives the tensor's name."""
    entries = TensorFile.open(path).entries
    entry = max((e for e in entries.values() if e.stop > e.start), key=lambda e: e.start)
    bits = np.uint16(0x7FC0) if dtype.code == "BF16" else np.array(np.nan, dtype.carrier)
    with path.open("r+b") as file:
        file.seek(entry.start)
        file.write(np.asarray(bits).tobytes())
    return entry.name
