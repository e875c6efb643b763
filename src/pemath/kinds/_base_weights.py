"""The base weights under an adapter's sites, whichever way round the checkpoint stores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pemath.errors import LayoutError, ShapeMismatch, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint, Matrix
from pemath.formats.peft import PeftFolder
from pemath.kinds._geometry import Geometry
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.names import display, listing
from pemath.references import CONFIG

Fits = Callable[[tuple[int, ...]], bool]


@dataclass(frozen=True)
class Wanted:
    """What a site needs: whether a weight [out, in, …] of some shape suits it, and whether the
    module is an embedding, which is stored as [number, dim] and read as [dim, number].
    """

    fits: Fits
    embedding: bool = False
    shown: str = ""

    @classmethod
    def of(cls, value: Lora | Ia3, site: str) -> Wanted:
        """The weights that suit a value. Raises UnsupportedFeature for a value that no one weight of
        the base suits.
        """
        if isinstance(value, Ia3):
            axis, length = (0 if value.side == "output" else 1), max(value.shape)
            return cls(lambda shape: shape[axis] == length, shown=value.describe())
        geometry = value.geometry
        refuse_homeless(value, site)
        return cls(_same(geometry), geometry.layout == "embedding", geometry.describe())


def refuse_homeless(value: Lora, site: str) -> None:
    """Raise UnsupportedFeature for a LoRA whose change is not that of one known base weight."""
    reasons = {
        "experts": "which of a module's expert parameters it changes is not stated in its file",
        "conv": "in a convolution with groups it reads all channels, and the base weight does not",
    }
    layout, blocks = value.geometry.layout, value.geometry.blocks
    reason = reasons.get(layout) if blocks > 1 or layout == "experts" else None
    if site.endswith(".base_layer.out_proj"):
        reason = (
            "PEFT 0.21 adds it twice in torch's MultiheadAttention, and that is likely to change"
        )
    if reason is not None:
        raise UnsupportedFeature(
            f"this LoRA cannot be matched with the base weights: {reason}",
            where=f"site `{display(site)}`",
        )


def _same(geometry: Geometry) -> Fits:
    wanted = (geometry.outputs, *geometry.inputs)
    return lambda shape: shape == wanted


def base_matrices(
    checkpoint: Checkpoint, folder: PeftFolder, wanted: Mapping[str, Wanted]
) -> dict[str, Matrix]:
    """The base weight of every site; no tensor is read.

    Layers of GPT-2 (Conv1D) store [in, out]. A shape mostly tells; where a weight is square the
    others of the adapter do, and at last the config's `fan_in_fan_out`.
    Raises: LayoutError, ShapeMismatch, UnknownDtype.
    """
    names = {site: checkpoint.parameter(site) for site in wanted}
    ways = {site: _ways(checkpoint, names[site], need, site) for site, need in wanted.items()}
    known = {
        turned for way in ways.values() if len(way) == 1 for turned in way if turned is not None
    }
    stated = folder.config.get("fan_in_fan_out") is True
    square = [site for site, way in ways.items() if len(way) > 1]
    if square and len(known) > 1:
        raise LayoutError(
            f"whether the base stores {listing(square)} as [out, in] or [in, out] cannot be known",
            where=display(folder.path / CONFIG),
            found="square weights, beside some of either kind",
        )
    turned = known.pop() if known else stated
    return {
        site: Matrix(
            names[site],
            checkpoint.stored(names[site]),
            need.embedding or (turned if len(ways[site]) > 1 else ways[site][0] is True),
        )
        for site, need in wanted.items()
    }


def _ways(checkpoint: Checkpoint, name: str, need: Wanted, site: str) -> tuple[bool | None, ...]:
    """How the tensor can be read: as it is (False), transposed (True), or in one way only that says
    nothing of the other sites (None).
    """
    shape = checkpoint.entry(name).shape
    found: tuple[bool | None, ...] = ()
    if need.embedding or len(shape) > 2:
        found = (None,) if need.fits(shape[::-1] if need.embedding else shape) else ()
    elif len(shape) == 2:
        found = tuple(
            turned for turned in (False, True) if need.fits(shape[::-1] if turned else shape)
        )
    if not found:
        raise ShapeMismatch(
            "the adapter does not fit the base weights",
            where=f"site `{display(site)}`, base parameter `{display(name)}`",
            found="×".join(map(str, shape)) or "a number",
            expected=need.shown,
            hint="give the weights of the model that the adapter was trained on",
        )
    return found
