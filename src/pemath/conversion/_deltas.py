"""The change of each base parameter by rows, as it lies in the checkpoint, whatever the kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pemath.conversion._source import Source
from pemath.errors import LayoutError, RequestError, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint, Matrix, module_of
from pemath.formats.floats import Array, Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, open_adapter
from pemath.kinds._base_weights import Wanted, base_matrices, refuse_homeless
from pemath.kinds._dora import Dora
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.names import display

Rows = Callable[[int, int], Array]
_BLOCK = 1 << 19


@dataclass(frozen=True, eq=False)
class Delta:
    """The change of one parameter of `shape`, which is a matrix [first axis, all others]; a vector is
    one column.

    `read` gives rows(start, stop) in float64 and does what they share first. `transposed` is true of
    a weight that is stored [in, out] (Conv1D of GPT-2, embeddings). `geometry` is that of a LoRA
    that makes this change.
    """

    parameter: str
    shape: tuple[int, ...]
    read: Callable[[], Rows]
    geometry: Geometry | None = None
    transposed: bool = False

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, width)."""
        first, *rest = self.shape or (1,)
        return first, math.prod(rest)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Rows and where they are, a few megabytes at a time."""
        count, width = self.matrix_shape
        rows = self.read()
        step = max(1, _BLOCK // max(width, 1))
        for start in range(0, count, step):
            place = slice(start, min(start + step, count))
            yield place, rows(place.start, place.stop)


def needs_base(adapter: Adapter) -> bool:
    """Whether the change depends on the base weights."""
    return any(isinstance(value, Dora | Ia3) for value in adapter.sites.values())


def opened(source: Source, base: Checkpoint | None) -> Adapter:
    """The adapter of `source`, beside the base weights if they are given.

    Raises: RequestError where they are needed, InputError, StorageError.
    """
    if base is None:
        adapter = source.adapter
    else:
        adapter = open_adapter(PeftFolder.open(source.path), base)
        if adapter.obstacles:
            raise adapter.obstacles[0]
    if base is None and needs_base(adapter):
        raise RequestError(
            f"the change that kind {adapter.kind.name} makes depends on the base weights",
            where=display(source.path),
            hint="add --base-weights FOLDER",
        )
    return adapter


def deltas(adapter: Adapter, base: Checkpoint | None) -> dict[str, Delta]:
    """The changes of all parameters by name, as the adapter's model calls them; no tensor is read.

    Raises: LayoutError, ShapeMismatch, UnsupportedFeature, UnknownDtype.
    """
    found: dict[str, Delta] = {}
    linear = {s: v for s, v in adapter.sites.items() if isinstance(v, Lora | Ia3)}
    matrices: dict[str, Matrix] = {}
    if base is not None and linear:
        wanted = {site: Wanted.of(value, site) for site, value in linear.items()}
        matrices = base_matrices(base, adapter.folder, wanted)
    for site, value in adapter.sites.items():
        for delta in _of(site, value, adapter, matrices.get(site), base):
            if delta.parameter in found:
                raise LayoutError(
                    f"parameter `{display(delta.parameter)}` is changed twice",
                    where=display(adapter.folder.tensors.path),
                )
            found[delta.parameter] = delta
    return found


def _of(
    site: str, value: Any, adapter: Adapter, matrix: Matrix | None, base: Checkpoint | None
) -> Iterator[Delta]:
    module = module_of(site)
    if isinstance(value, FullDelta):
        yield of_full(site, value)
    elif isinstance(value, Dora):
        shape, turned = value.base.stored.shape, value.base.transposed
        yield Delta(
            _name(value.base, module), shape, lambda: _dora_rows(value), value.geometry, turned
        )
    elif isinstance(value, Ia3):
        assert matrix is not None  # noqa: S101 - `opened` has refused it
        turned, geometry = matrix.transposed, _geometry(matrix)
        shape = matrix.stored.shape
        yield Delta(
            _name(matrix, module), shape, lambda: _ia3_rows(value, matrix), geometry, turned
        )
        bias = base.find(f"{module}.bias") if base is not None else None
        if base is not None and bias is not None and value.side == "output":
            stored = base.stored(bias)
            yield Delta(f"{module}.bias", stored.shape, lambda: _bias_rows(value, stored))
    elif isinstance(value, Lora):
        yield _lora(value, site, adapter, matrix)
        if value.bias is not None:
            column = value.bias
            yield Delta(f"{module}.bias", (value.geometry.outputs,), lambda: _whole(column.dense()))
    else:
        raise UnsupportedFeature(f"kind {adapter.kind.name} has no dense change here")


def of_full(parameter: str, value: FullDelta) -> Delta:
    """The change that a full delta makes."""
    return Delta(parameter, value.shape, lambda: _full_rows(value))


def _name(matrix: Matrix, module: str) -> str:
    """`module.weight`, whatever the checkpoint calls the module."""
    return f"{module}.{matrix.name.rsplit('.', 1)[-1]}"


def _lora(value: Lora, site: str, adapter: Adapter, matrix: Matrix | None) -> Delta:
    module = module_of(site)
    geometry = value.geometry
    refuse_homeless(value, site)
    embedding = geometry.layout == "embedding"
    turned = embedding or (
        geometry.layout == "linear"
        and (
            matrix.transposed
            if matrix is not None
            else adapter.folder.config.get("fan_in_fan_out") is True
        )
    )
    shape = (geometry.outputs, *geometry.inputs)
    name = f"{module}.weight" if matrix is None else _name(matrix, module)
    return Delta(
        name,
        shape[::-1] if turned else shape,
        lambda: low_rank_rows(value.blocks[0], transposed=turned),
        geometry,
        turned,
    )


def low_rank_rows(block: LowRank, *, transposed: bool) -> Rows:
    """Rows of B A, or of its transpose."""
    simple = block.simplified()
    b, a = simple.b(), simple.a()
    if transposed:
        b, a = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    return lambda start, stop: b[start:stop] @ a


def _dora_rows(value: Dora) -> Rows:
    turned = value.base.transposed
    changed = low_rank_rows(value.low_rank, transposed=turned)
    stored, shift = value.base.stored, value.shift

    def rows(start: int, stop: int) -> Array:
        weight = stored[start:stop].widen().reshape(stop - start, -1)
        weight *= shift[None] if turned else shift[start:stop, None]
        weight += changed(start, stop)
        return weight

    return rows


def _ia3_rows(value: Ia3, matrix: Matrix) -> Rows:
    """(l - 1) ⊙ W: rows of W are scaled where outputs are, in the layer's own order of axes."""
    deviation, stored = value.deviation(), matrix.stored
    by_row = (value.side == "output") != matrix.transposed

    def rows(start: int, stop: int) -> Array:
        weight = stored[start:stop].widen()
        if by_row:
            weight *= deviation[start:stop].reshape(-1, *(1 for _ in weight.shape[1:]))
        else:
            weight *= deviation.reshape(-1, *(1 for _ in weight.shape[2:]))
        return weight.reshape(stop - start, -1)

    return rows


def _bias_rows(value: Ia3, bias: Stored) -> Rows:
    return _whole((value.deviation() * bias.widen())[:, None])


def _whole(column: Array) -> Rows:
    return lambda start, stop: column[start:stop]


def _full_rows(value: FullDelta) -> Rows:
    _, *rest = value.shape or (1,)
    width = math.prod(rest)
    flat = [(scale, weight.flat()) for scale, weight in value.terms]

    def rows(start: int, stop: int) -> Array:
        total = np.zeros((stop - start) * width)
        for scale, weight in flat:
            part = weight[start * width : stop * width].widen()
            total += part if scale == 1.0 else scale * part
        return total.reshape(stop - start, width)

    return rows


def _geometry(matrix: Matrix) -> Geometry:
    shape = matrix.stored.shape
    if len(shape) > 2:
        return Geometry("conv", shape[0], shape[1:])
    outputs, inputs = matrix.shape
    return Geometry("linear", outputs, (inputs,))
