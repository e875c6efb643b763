"""What one adapter is: kind, base model, ranks, scaling, norms, size, and what keeps it from being
composed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pemath.errors import (
    PemathError,
    UnknownDtype,
    UnsupportedFeature,
    UnsupportedKind,
)
from pemath.formats.floats import FLOAT_TYPES
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, Value, open_adapter, refuse_non_finite
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.references import resolve
from pemath.threads import Progress, on_threads, silent


@dataclass(frozen=True)
class SiteFacts:
    """One site: its shape in words, its rank (None for a kind without ranks), what its factors are
    multiplied by (alpha / r or alpha / √r; None likewise), and the Frobenius norm of its delta
    ((IA)³: of l - 1).
    """

    shape: str
    rank: int | None
    scale: float | None
    norm: float


@dataclass(frozen=True)
class Inspection:
    """What there is to know about an adapter from its files.

    `kind` is pemath's name of the kind, None for one that it does not read; then there are no
    sites. `dtypes` counts the tensors of each dtype, `heads` the parameters of each head,
    `parameters` those of all tensors, heads included. `obstacles` are why the adapter cannot be
    composed; the norms are then of what the factors say, not of the layer's whole change. Strings
    are as the files have them: show them with `names.display`.
    """

    reference: str
    folder: Path
    revision: str | None
    kind: str | None
    peft_type: str
    base_model: str | None
    peft_version: str | None
    sites: Mapping[str, SiteFacts]
    heads: Mapping[str, int]
    dtypes: Mapping[str, int]
    parameters: int
    size: int
    notes: tuple[str, ...]
    obstacles: tuple[PemathError, ...]

    @property
    def ranks(self) -> list[int]:
        """The distinct ranks, ascending."""
        return sorted({site.rank for site in self.sites.values() if site.rank is not None})

    @property
    def scales(self) -> list[float]:
        """The distinct scales, ascending."""
        return sorted({site.scale for site in self.sites.values() if site.scale is not None})

    @property
    def norm(self) -> float:
        """Frobenius norm of the delta over all sites."""
        return math.hypot(*(site.norm for site in self.sites.values()))

    def as_dict(self) -> dict[str, Any]:
        """For `--json`. Sizes are in bytes."""
        ranks = self.ranks
        return {
            "reference": self.reference,
            "folder": str(self.folder),
            "revision": self.revision,
            "kind": self.kind,
            "peft_type": self.peft_type,
            "base_model": self.base_model,
            "peft_version": self.peft_version,
            "ranks": {"min": ranks[0], "max": ranks[-1], "distinct": ranks} if ranks else None,
            "scales": self.scales,
            "dtypes": dict(self.dtypes),
            "parameters": self.parameters,
            "size": self.size,
            "norm": self.norm,
            "heads": dict(self.heads),
            "notes": list(self.notes),
            "obstacles": [error.as_dict() for error in self.obstacles],
            "sites": {
                name: {"shape": s.shape, "rank": s.rank, "scale": s.scale, "norm": s.norm}
                for name, s in self.sites.items()
            },
        }


def inspect(reference: str, *, progress: Progress = silent) -> Inspection:
    """Look at the adapter that `reference` names.

    An adapter that cannot be composed is shown too, with the reason among its `obstacles`.
    Raises: StorageError, FileFormatError, ConfigError, PickleRefused, LayoutError, NonFiniteValue.
    """
    found = resolve(reference)
    folder = PeftFolder.open(found.folder)
    adapter: Adapter | None = None
    obstacles: list[PemathError] = []
    try:
        adapter = open_adapter(folder)
        obstacles += adapter.obstacles
    except (UnsupportedKind, UnsupportedFeature, UnknownDtype) as error:
        obstacles.append(error)
    sites: dict[str, SiteFacts] = {}
    notes: list[str] = []
    heads: dict[str, int] = {}
    if adapter is not None:
        norms = _norms(adapter, progress)
        sites = {name: _facts(value, norms[name]) for name, value in adapter.sites.items()}
        notes = [*adapter.notes, *_remarks(adapter, norms)]
        heads = {name: _head_size(adapter, name) for name in adapter.heads}
    entries = folder.tensors.entries.values()
    codes = [entry.dtype for entry in entries]
    version = folder.config.get("peft_version")
    return Inspection(
        reference=reference,
        folder=found.folder,
        revision=found.revision,
        kind=None if adapter is None else adapter.kind.name,
        peft_type=folder.peft_type,
        base_model=folder.base_model,
        peft_version=version if isinstance(version, str) else None,
        sites=sites,
        heads=heads,
        dtypes={_dtype_name(code): codes.count(code) for code in dict.fromkeys(codes)},
        parameters=sum(math.prod(entry.shape) for entry in entries),
        size=folder.tensors.size,
        notes=tuple(notes),
        obstacles=tuple(obstacles),
    )


def flips(value: Ia3) -> int:
    """How many entries of l crossed zero from "no change" (one): they are zero or negative."""
    return int(np.count_nonzero(value.vector() <= 0))


def _norms(adapter: Adapter, progress: Progress) -> dict[str, float]:
    norms: dict[str, float] = {}

    def one(site: str) -> None:
        # What overflows here is named below, and needs no warning beside that.
        with np.errstate(all="ignore"):
            norms[site] = adapter.sites[site].norm()
        if not math.isfinite(norms[site]):
            refuse_non_finite([adapter], site)

    on_threads(one, adapter.sites, what="reading", progress=progress)
    for head in adapter.heads.values():
        for tensor in head.tensors.values():
            if adapter.folder.tensors.entries[tensor].dtype in FLOAT_TYPES:
                adapter.folder.tensors.refuse_non_finite(tensor)
    return norms


def _facts(value: Value, norm: float) -> SiteFacts:
    if not isinstance(value, Lora):
        return SiteFacts(value.describe(), None, None, norm)
    return SiteFacts(value.geometry.describe(), value.rank, value.blocks[0].parts[0].scale, norm)


def _remarks(adapter: Adapter, norms: Mapping[str, float]) -> list[str]:
    if norms and not any(norms.values()):
        return ["the update is zero at every site, as before any training"]
    flipped = sum(flips(value) for value in adapter.sites.values() if isinstance(value, Ia3))
    return (
        [f"{flipped} entries of l are not positive: they flip or silence activations"]
        if flipped
        else []
    )


def _head_size(adapter: Adapter, module: str) -> int:
    entries = adapter.folder.tensors.entries
    return sum(math.prod(entries[t].shape) for t in adapter.heads[module].tensors.values())


def _dtype_name(code: str) -> str:
    return FLOAT_TYPES[code].name if code in FLOAT_TYPES else code.lower()
