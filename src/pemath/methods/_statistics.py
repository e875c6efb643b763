"""What a run over an adapter's data left in `statistics.safetensors`, for data-driven methods.

`gram.S` holds, for site S, the mean over tokens of x xᵀ [in, in] of the inputs x of a linear
weight, or of x² [n] of what an (IA)³ vector scales. `fisher.T` has the shape of the adapter's
tensor T: the mean over rows x of E(∂ log p(y | x) / ∂T)². All `fisher.` tensors together are read
as an adapter of the same kind and config, so they are checked as strictly as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pemath.errors import LayoutError, StatisticsNeeded
from pemath.formats.files import sha256
from pemath.formats.floats import Array
from pemath.formats.safetensors import Entry, TensorFile
from pemath.kinds import Adapter, Value, refuse_non_finite
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.names import display, listing
from pemath.references import STATISTICS

Needed = Literal["gram", "fisher"]
GRAM = "gram."
FISHER = "fisher."


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics file of one adapter, its header checked against the adapter.

    `fisher` is the Fisher information, read as an adapter; without sites if there is none.
    """

    file: TensorFile
    adapter: Adapter
    fisher: Adapter

    @classmethod
    def open(cls, path: Path | None, adapter: Adapter, method: str) -> Statistics:
        """Open the file at `path`, by default the one in the folder of `adapter`, for `method`.

        Raises: StatisticsNeeded if there is none or it was measured with other weights,
        StorageError, FileFormatError, LayoutError for tensors that do not fit the adapter.
        """
        if path is None:
            path = adapter.folder.path / STATISTICS
            if not path.is_file():
                raise StatisticsNeeded(
                    f"`{method}` is driven by data, and there are no statistics",
                    expected=f"{STATISTICS} in its folder, or another file by --statistics",
                    hint=f"measure them: {_command(adapter)}",
                )
        file = TensorFile.open(path)
        measured = file.metadata.get("adapter")
        if measured != sha256(adapter.folder.tensors.path):
            raise StatisticsNeeded(
                "the statistics were measured with other weights than this adapter's",
                where=display(path),
                found=display(measured, 70),
                expected="the SHA-256 of its adapter_model.safetensors in `adapter`",
                hint=f"measure again: {_command(adapter)}",
            )
        for name in file.entries:
            if not name.startswith((GRAM, FISHER)):
                raise LayoutError(
                    f"tensor `{display(name)}` is no statistic",
                    where=display(path),
                    expected=f"names that begin with {GRAM} or {FISHER}",
                )
        _check_grams(file, adapter)
        return cls(file, adapter, _fisher(file, adapter))

    def at(self, site: str) -> SiteStatistics:
        """What is known about one site."""
        return SiteStatistics(self, site)

    def holding(self, needed: Needed) -> Statistics:
        """Itself, if it holds what is needed. Raises StatisticsNeeded."""
        prefix = GRAM if needed == "gram" else FISHER
        if any(name.startswith(prefix) for name in self.file.entries):
            return self
        wanted = "Gram matrices" if needed == "gram" else "Fisher information"
        raise StatisticsNeeded(
            f"the statistics hold no {wanted}",
            where=display(self.file.path),
            hint=f"measure again: {_command(self.adapter)}",
        )

    def gram_size(self, site: str) -> int:
        """The number of elements of the Gram matrix at `site`; 0 if there is none."""
        entry = self.file.entries.get(GRAM + site)
        return math.prod(entry.shape) if entry else 0

    def rows(self) -> str:
        """How many rows were measured, as the file says."""
        rows, fisher = (
            display(self.file.metadata.get(name, "?"), 20) for name in ("rows", "fisher_rows")
        )
        return f"{rows} rows (Fisher information on {fisher})"

    @cached_property
    def fisher_length(self) -> float:
        """The Euclidean norm of all Fisher information."""
        tensors = self.fisher.folder.tensors
        squares = 0.0
        for name in tensors.entries:
            values = tensors.stored(name).widen()
            squares += float(np.vdot(values, values))
            if not math.isfinite(squares):
                tensors.refuse_non_finite(name)
        return math.sqrt(squares)


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """The statistics of one operand at one site; nothing is read before it is asked for."""

    source: Statistics
    site: str

    def has_gram(self) -> bool:
        """Whether there is a Gram matrix here."""
        return GRAM + self.site in self.source.file.entries

    def gram(self) -> Array:
        """The mean of x xᵀ [in, in], or of x² [n]. Raises NonFiniteValue, LayoutError."""
        name = GRAM + self.site
        values = self.source.file.stored(name).widen()
        if not np.isfinite(values).all():
            self.source.file.refuse_non_finite(name)
        squares = values if values.ndim == 1 else np.diagonal(values)
        return _not_negative(values, squares, self.source.file.path, name)

    def fisher(self, read: Callable[[Value], Array], *, normalize: bool) -> Array:
        """What `read` takes from the Fisher information, which is a value of the operand's kind;
        with `normalize` divided by the norm of all Fisher information of the operand.
        """
        fisher = self.source.fisher
        values = read(fisher.sites[self.site])
        if not np.isfinite(values).all():
            refuse_non_finite([fisher], self.site)
        _not_negative(values, values, self.source.file.path, FISHER + self.site)
        length = self.source.fisher_length if normalize else 1.0
        return values / (length or 1.0)


def _not_negative(values: Array, squares: Array, path: Path, name: str) -> Array:
    if squares.size and squares.min() < 0:
        raise LayoutError(
            "a mean of squares is negative", where=f"{display(path)}, `{display(name)}`"
        )
    return values


def _command(adapter: Adapter) -> str:
    """How a user measures the statistics of `adapter`."""
    folder, model = adapter.folder.path, adapter.folder.base_model
    return f"pemath lab statistics {display(folder)} --model {display(model or 'NAME')} --task TASK"


def _part(file: TensorFile, prefix: str) -> dict[str, Entry]:
    """The tensors whose names begin with `prefix`, by the rest of the name."""
    return {
        name.removeprefix(prefix): entry
        for name, entry in file.entries.items()
        if name.startswith(prefix)
    }


def _check_grams(file: TensorFile, adapter: Adapter) -> None:
    """All Gram matrices that there should be, and none that there should not."""
    found = {site: entry.shape for site, entry in _part(file, GRAM).items()}
    wanted = {site: gram_shape(value) for site, value in adapter.sites.items()}
    # Which matrices of a full delta multiply inputs its folder does not say: embeddings do not.
    optional = adapter.kind.name == "full" or not found
    for site in {**wanted, **found}:
        shape, expected = found.get(site), wanted.get(site)
        if shape != expected and not (optional and shape is None):
            raise LayoutError(
                f"the Gram matrix of `{display(site)}` does not fit the adapter",
                where=display(file.path),
                found=shape or "none",
                expected=expected or "none",
            )


def gram_shape(value: Any) -> tuple[int, ...] | None:
    """The shape of the Gram matrix at the site of `value`; None where there is none."""
    if isinstance(value, Ia3):
        return (math.prod(value.shape),)
    if isinstance(value, Lora):
        inputs = value.geometry.block_shape[1]
        return (inputs, inputs) if value.geometry.layout == "linear" else None
    return (value.shape[1], value.shape[1]) if len(value.shape) == 2 else None


def _fisher(file: TensorFile, adapter: Adapter) -> Adapter:
    part = _part(file, FISHER)
    tensors = replace(file, entries={name: replace(e, name=name) for name, e in part.items()})
    folder = replace(adapter.folder, tensors=tensors)
    if not part or adapter.kind.folders is None:
        return replace(adapter, folder=folder, sites={}, heads={})
    fisher = adapter.kind.folders.open(folder)
    wanted, found = _shapes(adapter.sites), _shapes(fisher.sites)
    differing = [site for site in {**wanted, **found} if wanted.get(site) != found.get(site)]
    if differing:
        site = differing[0]
        raise LayoutError(
            f"the Fisher information does not fit the adapter at {listing(differing)}",
            where=display(file.path),
            found=found.get(site, "none"),
            expected=wanted.get(site, "none"),
        )
    return fisher


def _shapes(sites: Mapping[str, Value]) -> dict[str, str]:
    return {site: value.describe() for site, value in sites.items()}
