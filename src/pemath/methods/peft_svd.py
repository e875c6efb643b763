"""What PEFT's `add_weighted_adapter(combination_type="svd")` computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pemath.errors import KindMismatch, PemathError, RequestError
from pemath.formats.floats import Array, Stored
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._peft import largest_rank, loses, shipped_scale
from pemath.methods._registry import Operands, Stack, method
from pemath.methods.exact import exact
from pemath.methods.peft_linear import peft_linear


def _lora_only(stack: Stack) -> PemathError | None:
    if all(isinstance(value, Lora) for value in stack.values):
        return None
    return KindMismatch(
        "PEFT's svd combines LoRAs only", where=f"site `{stack.site}`", hint="use the exact sum"
    )


def _kept_rank(
    ranks: Sequence[int], operands: Operands, svd_rank: int | None = None, **options: Any
) -> int:
    if len(operands) == 1:
        return max(ranks, default=0)
    return svd_rank or max(largest_rank(operands), *ranks)


@method(
    space="core",
    source="PEFT 0.21.2, tuners/lora/model.py, add_weighted_adapter with combination_type svd",
    check=_lora_only,
    rank=_kept_rank,
)
def peft_svd(stack: Stack, *, svd_rank: int | None = None, svd_clamp: float | None = None) -> Any:
    """PEFT's svd: the sum truncated to the largest operand's rank (or `svd_rank`), B' = U·S, A' = Vᵀ.

    Found from the factors, so the same up to the sign of each singular pair, in milliseconds.
    `svd_clamp` clips both factors at that quantile of their values. A single operand is `linear`.
    """
    if svd_rank is not None and svd_rank < 1:
        raise RequestError("`svd_rank` must be at least 1", found=svd_rank)
    if svd_clamp is not None and not 0 <= svd_clamp <= 1:
        raise RequestError("`svd_clamp` is a quantile between 0 and 1", found=svd_clamp)
    if len(stack.operands) == 1:
        return peft_linear(stack)
    summed: Lora = exact(stack)
    if loses(stack):
        return summed * 0.0
    ranks = (value.rank for value in stack.values)
    rank = svd_rank or max(largest_rank(stack.operands), *ranks)
    allowed, scale = summed.geometry.block_rank(rank), shipped_scale(stack, rank)
    blocks = (_truncated(block, allowed, svd_clamp) * scale for block in summed.blocks)
    return Lora(summed.geometry, tuple(blocks))


def _truncated(block: LowRank, rank: int, clamp: float | None) -> LowRank:
    found = block.simplified().decomposed()
    rank = min(rank, len(found.values))
    root = np.sqrt(found.values[:rank])
    a: Array = found.factor_a(rank) / np.where(root > 0, root, 1.0)[:, None]
    b: Array = found.factor_b(rank) * root
    if clamp is not None and rank:
        highest = np.quantile(np.concatenate([b.ravel(), a.ravel()]), clamp)
        a, b = np.clip(a, -highest, highest), np.clip(b, -highest, highest)
    return LowRank(block.shape, (Part(Stored.of(a), Stored.of(b)),))
