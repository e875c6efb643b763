"""What PEFT's `add_weighted_adapter` makes of its operands, whatever the combination.

Source: PEFT 0.21.2, tuners/lora/model.py. The result's config is the first operand's with r and
lora_alpha replaced, whatever that means for the other operands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.errors import KindMismatch, PemathError, RankMismatch, RequestError
from pemath.formats.floats import FLOAT_TYPES, Array, Stored
from pemath.formats.patterns import names_match
from pemath.kinds import Adapter
from pemath.kinds._geometry import Geometry
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Operands, Stack
from pemath.methods.paper import equal_ranks
from pemath.names import display

Single = NDArray[np.float32]
_F32 = FLOAT_TYPES["F32"]
_LAYER = re.compile(r"\.(\d+)\.")


def largest_rank(operands: Operands) -> int:
    """The one rank that svd gives to all sites: the largest r or pattern value of any operand."""
    ranks = [1]
    for adapter in operands:
        if adapter is not None:
            config = adapter.folder.config
            pattern = (config.get("rank_pattern") or {}).values()
            ranks += [rank for rank in (config.get("r"), *pattern) if isinstance(rank, int)]
    return max(ranks)


def shipped_scale(stack: Stack, rank: int) -> float:
    """What the written config multiplies the factors by: √r too much under rsLoRA, since
    `use_rslora` is kept beside lora_alpha = r.
    """
    first = stack.operands[0] if stack.operands else None
    rooted = first is not None and first.folder.config.get("use_rslora")
    return math.sqrt(rank) if rooted else 1.0


def loses(stack: Stack) -> bool:
    """Whether the first operand's filters keep this site out of the result."""
    first = stack.operands[0] if stack.operands else None
    if first is None or stack.site in first.sites:
        return False
    return _is_filtered(first, stack.site)


def _is_filtered(adapter: Adapter, site: str) -> bool:
    config = adapter.folder.config
    layers = config.get("layers_to_transform")
    layer = _LAYER.search(f".{site}.")
    if layers is not None and layer is not None:
        wanted = layers if isinstance(layers, list) else [layers]
        if int(layer[1]) not in wanted:
            return True
    excluded = config.get("exclude_modules")
    if isinstance(excluded, list):
        return any(site == name or site.endswith(f".{name}") for name in excluded)
    return excluded is not None and names_match(site, excluded, "exclude_modules")


def lora_only(stack: Stack) -> PemathError | None:
    """KindMismatch for what PEFT cannot combine in this way: all but LoRAs on modules."""
    where = f"site `{display(stack.site)}`"
    if not all(isinstance(value, Lora) for value in stack.values):
        return KindMismatch(
            "PEFT combines only LoRAs in this way", where=where, hint="use the exact sum"
        )
    if any(value.geometry.layout == "experts" for value in stack.values):
        return KindMismatch(
            "PEFT does not combine LoRAs on expert parameters",
            where=where,
            hint="use the exact sum",
        )
    return None


def one_rank(stack: Stack) -> PemathError | None:
    """`lora_only`, and RankMismatch where r, or the factors of the site, differ."""
    error = lora_only(stack) or equal_ranks(stack)
    stated = {largest_rank([adapter]) for adapter in stack.operands if adapter is not None}
    if error is not None or len(stated) <= 1:
        return error
    return RankMismatch(
        "PEFT adds factors of one r only",
        where=f"site `{display(stack.site)}`",
        found=f"largest ranks {', '.join(map(str, sorted(stated)))}",
        expected="one rank",
        hint="use the exact arithmetic, which takes any ranks",
    )


def factors(value: Lora) -> tuple[Single, Single, float]:
    """A and B as PEFT stores them, [rank, in] and [out, rank] (for a convolution in groups
    [out, rank per group]), and the scale.
    """
    rank = value.geometry.block_rank(value.rank)
    outputs, inputs = value.blocks[0].shape
    parts = [block.joined() for block in value.blocks]
    is_common = all(part.scale == parts[0].scale for part in parts)
    a = np.zeros((len(parts), rank, inputs), np.float32)
    b = np.zeros((len(parts), outputs, rank), np.float32)
    for part, into_a, into_b in zip(parts, a, b, strict=True):
        into_a[: part.rank] = part.a.widen()
        into_b[:, : part.rank] = part.b.widen() * (1.0 if is_common else part.scale)
    scale = parts[0].scale if is_common else 1.0
    return a.reshape(len(parts) * rank, inputs), b.reshape(len(parts) * outputs, rank), scale


def of_factors(geometry: Geometry, a: Single, b: Single, scale: float = 1.0) -> Lora:
    """The value that PEFT reads from A and B stored like this."""
    blocks = (
        LowRank(
            (len(outputs), rows.shape[1]), (Part(Stored(rows, _F32), Stored(outputs, _F32), scale),)
        )
        for rows, outputs in zip(
            np.split(a, geometry.blocks), np.split(b, geometry.blocks), strict=True
        )
    )
    return Lora(geometry, tuple(blocks))


def check_svd(svd_rank: int | None, svd_clamp: float | None) -> None:
    """Raise RequestError for options of the svd out of range."""
    if svd_rank is not None and svd_rank < 1:
        raise RequestError("`svd_rank` must be at least 1", found=svd_rank)
    if svd_clamp is not None and not 0 <= svd_clamp <= 1:
        raise RequestError("`svd_clamp` is a quantile between 0 and 1", found=svd_clamp)


def kept_svd_rank(
    ranks: Sequence[int], operands: Operands, svd_rank: int | None = None, **options: Any
) -> int:
    """The rank of what PEFT's svd writes; a single operand keeps its own."""
    if len(operands) == 1:
        return max(ranks, default=0)
    return svd_rank or max(largest_rank(operands), *ranks)


def singular_pairs(block: LowRank, rank: int, clamp: float | None = None) -> LowRank:
    """The leading `rank` singular pairs as PEFT stores them, B = U·S and A = Vᵀ, both cut off at
    the quantile `clamp` of their values.
    """
    found = block.simplified().decomposed()
    rank = min(rank, len(found.values))
    root = np.sqrt(found.values[:rank])
    a: Array = found.factor_a(rank) / np.where(root > 0, root, 1.0)[:, None]
    b: Array = found.factor_b(rank) * root
    if clamp is not None and rank:
        highest = np.quantile(np.concatenate([b.ravel(), a.ravel()]), clamp)
        a, b = np.clip(a, -highest, highest), np.clip(b, -highest, highest)
    return LowRank(block.shape, (Part(Stored.of(a), Stored.of(b)),))
