"""DoRA: W' = diag(m / ‖W + s B A‖) (W + s B A), the norms taken of each row.

Source: Liu et al. 2024 (arXiv 2402.09353), section 4. PEFT's folders hold s B A and m; what they change
is known beside the base weights only. A sum of such changes is stored in the same form again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from pemath.errors import LayoutError, OperandError, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import FLOAT_TYPES, Array, FloatType, Stored, narrow
from pemath.formats.peft import PREFIX, PeftFolder, module_name
from pemath.formats.safetensors import Entry, Spec
from pemath.kinds._base_weights import Wanted, base_matrices
from pemath.kinds._contract import Adapter, FolderFormat, Kind, StoredSite
from pemath.kinds._dora import Dora, Learned, row_norms
from pemath.kinds._geometry import Geometry
from pemath.kinds._registry import register
from pemath.kinds.lora import Lora, LoraFolders
from pemath.lowrank import LowRank, Part
from pemath.names import display, listing

_MAGNITUDE = re.compile(r"(?P<site>.+)\.lora_magnitude_vector(\.\w+){0,2}")
_LORA = LoraFolders()


class DoraFolders(FolderFormat):
    """PEFT's LoRA folders with `use_dora`; they are read beside the base weights only."""

    peft_types: ClassVar[tuple[str, ...]] = ()

    def open(self, folder: PeftFolder) -> Adapter:
        """Without base weights it is a LoRA with an obstacle."""
        return _LORA.open(folder)

    def on_base(self, folder: PeftFolder, base: Checkpoint) -> Adapter | None:
        """The adapter on its base weights, where it is a DoRA; no tensor is read.

        Raises: LayoutError, ShapeMismatch, UnsupportedFeature, UnknownDtype.
        """
        if folder.peft_type != "LORA" or not folder.config.get("use_dora"):
            return None
        magnitudes, others = _magnitudes(folder)
        plain = PeftFolder(
            folder.path,
            {**folder.config, "use_dora": False},
            replace(folder.tensors, entries=others),
        )
        adapter = _LORA.open(plain)
        if set(magnitudes) != set(adapter.sites):
            lone = sorted(set(magnitudes) ^ set(adapter.sites))
            raise LayoutError(
                f"factors and magnitudes do not go together at {listing(lone)}",
                where=display(folder.tensors.path),
                expected="lora_A, lora_B and lora_magnitude_vector at every site",
            )
        return _on_base(adapter, folder, base, magnitudes)

    def layout(
        self, values: Mapping[str, Dora], ranks: Mapping[str, int], dtype: FloatType
    ) -> list[Spec]:
        """A and B of each site, and its magnitudes."""
        loras = {
            site: Lora(v.geometry, (LowRank(v.geometry.block_shape),)) for site, v in values.items()
        }
        vectors = [
            Spec(_name(site), _wide(dtype).code, _shape(value.geometry))
            for site, value in values.items()
        ]
        return [*_LORA.layout(loras, ranks, dtype), *vectors]

    def store(self, site: str, value: Dora, rank: int, dtype: FloatType) -> StoredSite:
        """B' = B / (1 + d) and m' = (1 + d) ‖W + B' A‖, for the rows' scaling d and low-rank part
        B A of the value. Magnitudes are stored in float32 at least: their rounding is relative to
        the base weight, which is much larger than its change.

        Raises: OperandError where 1 + d is zero: no DoRA makes a row forget its base weight.
        """
        update, magnitude = _as_learned(site, value)
        stored = _LORA.store(site, Lora(value.geometry, (update,)), rank, dtype)
        if magnitude is None:
            magnitude = (1.0 + value.shift) * row_norms(value.base, stored.value.blocks[0])
        kept = Stored(narrow(magnitude, _wide(dtype)), _wide(dtype))
        learned = Learned(value.base, stored.value, kept)
        pieces = [*stored.pieces, (_name(site), 0, kept.raw)]
        return StoredSite(pieces, Dora(value.base, value.geometry, ((1.0, learned),)))

    def config(
        self, adapters: Sequence[Adapter], values: Mapping[str, Dora], ranks: Mapping[str, int]
    ) -> dict[str, Any]:
        """That of a LoRA, with `use_dora`."""
        loras = {
            site: Lora(v.geometry, (LowRank(v.geometry.block_shape),)) for site, v in values.items()
        }
        return _LORA.config(adapters, loras, ranks) | {"use_dora": True}


def on_base(adapter: Adapter, base: Checkpoint) -> Adapter:
    """A plain LoRA as a DoRA that scales no row. Raises LayoutError, ShapeMismatch,
    UnsupportedFeature.
    """
    return _on_base(adapter, adapter.folder, base, {})


def _on_base(
    adapter: Adapter, folder: PeftFolder, base: Checkpoint, magnitudes: Mapping[str, str]
) -> Adapter:
    updates: dict[str, Lora] = {}
    for site, value in adapter.sites.items():
        if not isinstance(value, Lora) or value.bias is not None or value.geometry.blocks != 1:
            raise UnsupportedFeature(
                "DoRA has no form with a bias of its own, groups or experts",
                where=f"site `{display(site)}`",
            )
        updates[site] = value
    wanted = {site: Wanted.of(update, site) for site, update in updates.items()}
    matrices = base_matrices(base, folder, wanted)
    sites = {}
    for site, update in updates.items():
        magnitude = None
        if site in magnitudes:
            magnitude = folder.tensors.stored(magnitudes[site])
            if magnitude.shape not in (_shape(update.geometry), (update.geometry.outputs,)):
                raise LayoutError(
                    f"the magnitudes of site `{display(site)}` have a wrong shape",
                    where=display(folder.tensors.path),
                    found=list(magnitude.shape),
                    expected=list(_shape(update.geometry)),
                )
        learned = Learned(matrices[site], update, None if magnitude is None else magnitude.flat())
        sites[site] = Dora(matrices[site], update.geometry, ((1.0, learned),))
    return replace(adapter, folder=folder, kind=KIND, sites=sites)


def _magnitudes(folder: PeftFolder) -> tuple[dict[str, str], dict[str, Entry]]:
    """The tensors with magnitudes by site, and the entries of all others."""
    found: dict[str, str] = {}
    others = {}
    for tensor, entry in folder.tensors.entries.items():
        match = _MAGNITUDE.fullmatch(module_name(tensor))
        if match is None:
            others[tensor] = entry
        elif found.setdefault(match["site"], tensor) != tensor:
            raise LayoutError(
                f"site `{display(match['site'])}` has two vectors of magnitudes",
                where=display(folder.tensors.path),
            )
    return found, others


def _as_learned(site: str, value: Dora) -> tuple[LowRank, Array | None]:
    """s B A to store and, where it stays as it was trained, m."""
    if len(value.terms) == 1:
        scale, change = value.terms[0]
        if scale == 1.0 and isinstance(change, Learned) and change.magnitude is not None:
            return change.update.blocks[0], change.magnitude.widen()
    factor = 1.0 + value.shift
    lost = np.flatnonzero(factor == 0)
    if len(lost):
        raise OperandError(
            "the sum takes the base weight away from a row, which no DoRA can do",
            where=f"site `{display(site)}`, row {lost[0]} and {len(lost) - 1} more",
            hint="choose other weights, or `pemath convert --to full` and compose those",
        )
    part = value.low_rank
    if (factor == 1.0).all():
        return part, None
    scaled = tuple(
        Part(p.a, Stored.of(p.b.widen() * (p.scale / factor[:, None]))) for p in part.parts
    )
    return LowRank(part.shape, scaled), None


def _name(site: str) -> str:
    return f"{PREFIX}{site}.lora_magnitude_vector"


def _shape(geometry: Geometry) -> tuple[int, ...]:
    """[out], and [1, out, 1, …] of a convolution."""
    if geometry.layout == "conv":
        return (1, geometry.outputs, *(1 for _ in geometry.inputs[1:]))
    return (geometry.outputs,)


def _wide(dtype: FloatType) -> FloatType:
    return FLOAT_TYPES["F64" if dtype.code == "F64" else "F32"]


KIND = register(
    Kind(
        name="dora",
        summary="DoRA: rows of the base weight rescaled, and a low-rank update (LORA with use_dora)",
        value=Dora,
        zero_like=lambda value: Dora(value.base, value.geometry),
        folders=DoraFolders(),
    )
)
