"""Checkpoints of whole models: a folder with safetensors, in one file or in shards with an index.

Tensors are views of memory maps, and matrices are read by blocks of rows: no weight is ever held
whole by what is in this module.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pemath.errors import (
    ConfigError,
    DuplicateTensor,
    LayoutError,
    PickleRefused,
    ReferenceNotFound,
)
from pemath.formats.floats import Array, Raw, Stored
from pemath.formats.peft import read_json
from pemath.formats.safetensors import Entry, TensorFile
from pemath.limits import LIMITS
from pemath.names import display, is_plain, listing

MODEL_CONFIG = "config.json"
# Stems of the weights' file names: those of transformers and of diffusers.
_STEMS = ("model", "diffusion_pytorch_model")
_SUFFIX = ".safetensors"
# Elements of a matrix that are read in one go.
_BLOCK = 1 << 19


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight as a matrix [out, in]: a convolution's kernel belongs to `in`, and a weight that is
    stored as [in, out] is read `transposed`.
    """

    name: str
    stored: Stored
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        first, *rest = self.stored.shape
        width = math.prod(rest)
        return (width, first) if self.transposed else (first, width)

    def rows(self, start: int, stop: int) -> Array:
        """Rows start:stop in float64, [stop - start, in]."""
        if self.transposed:
            return self.stored[:, start:stop].widen().T
        return self.stored[start:stop].widen().reshape(stop - start, -1)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of blocks of rows that are held at once."""
        rows, width = self.shape
        step = max(1, _BLOCK // max(width, 1))
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def as_stored(self, raw: Raw) -> Raw:
        """Rows [n, in], seen as they lie in the file: [n, in, …] or [in, n]."""
        return raw.T if self.transposed else raw.reshape(-1, *self.stored.shape[1:])


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint: its files by name, and for each tensor the file that has it.

    `index` is the name of the shards' index, None where there is one file.
    """

    path: Path
    files: Mapping[str, TensorFile]
    shards: Mapping[str, str]
    index: str | None = None

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open the checkpoint in `path`; reads the index and the headers.

        Raises: ReferenceNotFound, PickleRefused, ConfigError, FileFormatError, LayoutError,
        StorageError.
        """
        if not path.is_dir():
            raise ReferenceNotFound("there is no such folder of base weights", where=display(path))
        for stem in _STEMS:
            index = f"{stem}{_SUFFIX}.index.json"
            if (path / index).exists():
                return cls._open_shards(path, index)
            if (path / f"{stem}{_SUFFIX}").exists():
                file = TensorFile.open(path / f"{stem}{_SUFFIX}")
                return cls(
                    path, {file.path.name: file}, dict.fromkeys(file.entries, file.path.name)
                )
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        if pickles:
            raise PickleRefused(
                f"the weights are pickles ({listing(pickles)}), which can run code when they are read",
                where=display(path),
                expected="model.safetensors, or shards of it with an index",
                hint="save the model again with save_pretrained where you trust it",
            )
        raise ReferenceNotFound(
            "the folder holds no checkpoint",
            where=display(path),
            expected="model.safetensors, or shards of it with model.safetensors.index.json",
        )

    @classmethod
    def _open_shards(cls, path: Path, index: str) -> Checkpoint:
        where = display(path / index)
        stated = _weight_map(read_json(path / index, LIMITS.index_bytes), where)
        names = list(dict.fromkeys(stated.values()))
        if len(names) > LIMITS.shards:
            raise ConfigError(
                "the index names too many files",
                where=where,
                found=len(names),
                expected=f"at most {LIMITS.shards}",
            )
        files = {name: TensorFile.open(path / name) for name in names}
        found: dict[str, str] = {}
        for name, file in files.items():
            for tensor in file.entries:
                if tensor in found:
                    raise DuplicateTensor(
                        f"tensor `{display(tensor)}` stands in two files",
                        where=f"{display(found[tensor])} and {display(name)}",
                    )
                found[tensor] = name
        wrong = [t for t in {**stated, **found} if stated.get(t) != found.get(t)]
        if wrong:
            raise LayoutError(
                f"the index and the files disagree about {listing(wrong)}",
                where=where,
                hint="a shard is missing or belongs to another checkpoint: fetch them again",
            )
        return cls(path, files, found, index)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The model's config.json, empty if there is none. Raises ConfigError, StorageError."""
        path = self.path / MODEL_CONFIG
        return read_json(path) if path.is_file() else {}

    def file(self, tensor: str) -> TensorFile:
        """The file that holds a tensor."""
        return self.files[self.shards[tensor]]

    def entry(self, tensor: str) -> Entry:
        """A tensor's dtype, shape and place."""
        return self.file(tensor).entries[tensor]

    def stored(self, tensor: str) -> Stored:
        """A tensor as a read-only view. Raises UnknownDtype if it is not of floating point."""
        return self.file(tensor).stored(tensor)

    def sha256(self, tensor: str) -> str:
        """SHA-256 of a tensor's bytes, hexadecimal."""
        return hashlib.sha256(self.file(tensor).raw_bytes(tensor)).hexdigest()

    def find(self, parameter: str) -> str | None:
        """The tensor of a model's parameter, or None.

        Names agree if they are the same, or if one is the other's end: a model in a wrapper has
        longer names (`roberta.encoder…`) than the bare one. Raises LayoutError if several fit.
        """
        if parameter in self.shards:
            return parameter
        longer = self._ends.get(parameter, ())
        shorter = [end for end in _ends(parameter) if end in self.shards]
        fitting = [*longer, *shorter]
        if len(fitting) > 1:
            raise LayoutError(
                f"several parameters of the checkpoint could be `{display(parameter)}`",
                where=display(self.path),
                found=listing(fitting),
                expected="one whose name ends alike",
            )
        return fitting[0] if fitting else None

    def parameter(self, site: str, leaves: Sequence[str] = ("weight", "in_proj_weight")) -> str:
        """The tensor that a PEFT site changes. Raises LayoutError."""
        module = module_of(site)
        for leaf in leaves:
            found = self.find(f"{module}.{leaf}")
            if found is not None:
                return found
        tied = " or is tied to another" if module.endswith(_HEADS) else ""
        raise LayoutError(
            f"the base weights have no `{display(module)}.{leaves[0]}`",
            where=display(self.path),
            found=f"{len(self.shards)} tensors, such as {listing(list(self.shards), 2)}",
            hint=f"the adapter belongs to another model, or its class names modules otherwise{tied}",
        )

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for tensor in self.shards:
            for end in _ends(tensor):
                found.setdefault(end, []).append(tensor)
        return found


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds weights in a checkpoint's files."""
    names = (f"{stem}{_SUFFIX}{end}" for stem in _STEMS for end in ("", ".index.json"))
    return any((folder / name).is_file() for name in names)


def module_of(site: str) -> str:
    """The base's module at a PEFT site, whose name says where PEFT has wrapped a layer."""
    return site.replace(".base_layer", "")


_HEADS = ("lm_head", "embed_out", "output_layer", "decoder")


def _ends(name: str) -> Iterator[str]:
    """What is left of a name without the first word, without the first two and so on, as long as
    those are no numbers and none is before a number (`layers.0` is one place).
    """
    parts = name.split(".")
    for index in range(1, len(parts) - 1):
        if parts[index - 1].isdigit() or parts[index].isdigit():
            return
        yield ".".join(parts[index:])


def _is_file_name(name: str) -> bool:
    return name.endswith(_SUFFIX) and Path(name).name == name and is_plain(name)


def _weight_map(index: Mapping[str, Any], where: str) -> dict[str, str]:
    table = index.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ConfigError("the index has no `weight_map`", where=where)
    if len(table) > LIMITS.tensors:
        raise ConfigError(
            "the index names too many tensors",
            where=where,
            found=len(table),
            expected=f"at most {LIMITS.tensors}",
        )
    for tensor, name in table.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise ConfigError(
                f"the index puts tensor `{display(tensor)}` into a file that is none of the folder's",
                where=where,
                found=display(name, 80),
                expected=f"a plain file name that ends in {_SUFFIX}",
            )
    return table
