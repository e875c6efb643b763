"""The parts of an image pipeline's LoRA, in whichever layout they lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pemath.conversion._source import Source
from pemath.errors import (
    KindMismatch,
    LayoutError,
    ReferenceNotFound,
    RequestError,
    UnsupportedFeature,
)
from pemath.formats import diffusers, kohya
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import Stored
from pemath.formats.module_names import Modules
from pemath.formats.peft import PeftFolder
from pemath.formats.safetensors import TensorFile
from pemath.formats.single_file import COMPONENTS, component_told_by
from pemath.kinds import Adapter, open_adapter, refuse_non_finite
from pemath.kinds.lora import Lora
from pemath.names import display, listing
from pemath.references import CONFIG


@dataclass(frozen=True, eq=False)
class Part:
    """One component's adapter, which is plain LoRA without heads."""

    adapter: Adapter

    @classmethod
    def of(cls, folder: PeftFolder) -> Part:
        """Open it. Raises InputError, KindMismatch, UnsupportedFeature."""
        adapter = open_checked(folder)
        if adapter.kind.name != "lora" or folder.peft_type != "LORA":
            raise KindMismatch(
                "this layout holds plain LoRA only",
                where=display(folder.path),
                found=f"kind {display(folder.peft_type.lower(), 40)}",
                hint="convert it to PEFT's layout, and then with `pemath convert … --to lora`",
            )
        return cls(adapter)

    @cached_property
    def values(self) -> Mapping[str, Lora]:
        """The LoRA of each site."""
        return {
            site: value for site, value in self.adapter.sites.items() if isinstance(value, Lora)
        }

    def refuse_non_finite(self) -> None:
        """Raise NonFiniteValue where a factor is not finite."""
        check_finite(self.adapter)


def open_checked(folder: PeftFolder) -> Adapter:
    """The adapter in a folder, without heads. Raises InputError, UnsupportedFeature."""
    adapter = open_adapter(folder)
    if adapter.obstacles:
        raise adapter.obstacles[0]
    refuse_heads(adapter)
    return adapter


def check_finite(adapter: Adapter) -> None:
    """Raise NonFiniteValue where a value is not finite."""
    for site, value in adapter.sites.items():
        if not value.is_finite():
            refuse_non_finite([adapter], site)


def refuse_heads(adapter: Adapter) -> None:
    """Raise UnsupportedFeature if the adapter has trained weights beside its sites."""
    if adapter.heads:
        raise UnsupportedFeature(
            f"the adapter replaces base weights, which this layout cannot hold: "
            f"{listing(list(adapter.heads))}",
            where=display(adapter.folder.path),
            hint="`pemath compose` with --heads drop makes an adapter without them",
        )


def parts_of(
    source: Source, component: str | None = None, base_weights: Checkpoint | None = None
) -> dict[str, Part]:
    """The components of `source` by name, or the one called `component`.

    `source` is a file in kohya's or diffusers' layout, a folder with the latter, a PEFT folder, or
    a folder with one PEFT folder per component. Raises: UsageError, InputError, KindMismatch.
    """
    if component is not None and component not in COMPONENTS:
        raise RequestError(
            f"`{display(component)}` is no part of a pipeline", expected=listing(list(COMPONENTS))
        )
    path = file_of(source)
    if path is not None:
        folders = folders_in(path, component, base_weights)
    elif source.is_adapter:
        folder = PeftFolder.open(source.path)
        part = Part.of(folder)
        return {component or _component_of(part.values, source.path): part}
    else:
        folders = {
            name: PeftFolder.open(source.path / name)
            for name in COMPONENTS
            if (source.path / name / CONFIG).is_file() and component in (None, name)
        }
    if not folders:
        raise ReferenceNotFound(
            "the folder holds no adapter",
            where=display(source.path),
            expected=f"{CONFIG}, {diffusers.WEIGHTS}, or folders of PEFT named unet, text_encoder…",
        )
    return {name: Part.of(folder) for name, folder in folders.items()}


def file_of(source: Source) -> Path | None:
    """The single file that `source` is, or None if it is a folder of PEFT."""
    if source.path.is_file():
        return source.path
    inside = source.path / diffusers.WEIGHTS
    return inside if not source.is_adapter and inside.is_file() else None


def folders_in(
    path: Path, component: str | None, base_weights: Checkpoint | None
) -> dict[str, PeftFolder]:
    """The components of a file, each seen as a PEFT folder. Raises InputError, RequestError."""
    file = TensorFile.open(path)
    modules = None if base_weights is None else Modules(base_weights.shards)
    if kohya.is_kohya(file):
        parts, stated = kohya.read(file, modules, component), {}
    elif diffusers.is_diffusers(file):
        parts, stated = (
            diffusers.read(file, modules, component),
            diffusers.stated_configs(file),
        )
    else:
        raise LayoutError(
            "the file is neither in kohya's layout nor in diffusers'",
            where=display(path),
            found=listing(list(file.entries), 2) or "no tensors",
            expected="lora_unet_… or lora_te_…; unet.… or text_encoder.…",
            hint="a PEFT adapter is a folder: give the folder",
        )
    return {name: parts.folder(name, stated.get(name)) for name in parts.chosen(component)}


def _component_of(sites: Iterable[str], path: Path) -> str:
    told = next(filter(None, map(component_told_by, sites)), None)
    if told is not None:
        return told
    raise RequestError(
        "the adapter's names do not say which part of a pipeline it belongs to",
        where=display(path),
        hint=f"add --component with one of {listing(list(COMPONENTS))}",
    )


def factors(site: str, value: Lora) -> tuple[Stored, Stored, float]:
    """A [r, in…], B [out, r…] and the scale of a site, as they are stored.

    Raises: UnsupportedFeature for other weights than linear ones and convolutions.
    """
    geometry = value.geometry
    if geometry.layout not in ("linear", "conv") or geometry.blocks > 1 or value.bias is not None:
        what = "with a bias" if value.bias is not None else f"of {geometry.describe()}"
        raise UnsupportedFeature(
            f"a LoRA {what} has no place in this layout",
            where=f"site `{display(site)}`",
            expected="linear weights and convolutions in one group, without a bias",
        )
    (part,) = value.blocks[0].parts
    a, b = part.a.raw.reshape(geometry.shape_a(part.rank)), part.b.raw
    b = b.reshape(geometry.shape_b(part.rank))
    if part.scale == 0:  # an alpha of 0 is not read alike by all
        return Stored(a, part.a.kind), Stored(np.zeros_like(b), part.b.kind), 1.0
    return Stored(a, part.a.kind), Stored(b, part.b.kind), part.scale


def public_name(component: str, site: str) -> str:
    """A site's name as files have it: newer versions of transformers leave out `text_model`."""
    is_bare_clip = component.startswith("text_encoder") and site.startswith("encoder.layers.")
    return f"text_model.{site}" if is_bare_clip else site


def alpha_for(scale: float, rank: int) -> float:
    """The alpha of which alpha / rank is `scale`: to the last bit where there is one."""
    product = scale * rank
    near = (
        float(round(product)),
        float(np.float32(product)),
        product,
        math.nextafter(product, math.inf),
        math.nextafter(product, -math.inf),
    )
    return next((alpha for alpha in near if alpha / rank == scale), product)
