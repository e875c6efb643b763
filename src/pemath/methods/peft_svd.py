"""What PEFT's `add_weighted_adapter(combination_type="svd")` computes."""

from __future__ import annotations

from typing import Any

from pemath.kinds.lora import Lora
from pemath.methods._peft import (
    check_svd,
    kept_svd_rank,
    lora_only,
    loses,
    shipped_scale,
    singular_pairs,
)
from pemath.methods._registry import Stack, method
from pemath.methods.exact import exact
from pemath.methods.peft_linear import peft_linear


@method(
    space="core",
    source="PEFT 0.21.2, tuners/lora/model.py, add_weighted_adapter with combination_type svd",
    check=lora_only,
    rank=kept_svd_rank,
)
def peft_svd(stack: Stack, *, svd_rank: int | None = None, svd_clamp: float | None = None) -> Any:
    """PEFT's svd: the sum truncated to the largest operand's rank (or `svd_rank`), B' = U·S, A' = Vᵀ.

    Found from the factors, so the same up to the sign of each singular pair, in milliseconds.
    `svd_clamp` clips both factors at that quantile of their values. A single operand is `linear`.
    """
    check_svd(svd_rank, svd_clamp)
    if len(stack.operands) == 1:
        return peft_linear(stack)
    summed: Lora = exact(stack)
    if loses(stack):
        return summed * 0.0
    rank = kept_svd_rank([value.rank for value in stack.values], stack.operands, svd_rank)
    allowed, scale = summed.geometry.block_rank(rank), shipped_scale(stack, rank)
    blocks = (singular_pairs(block, allowed, svd_clamp) * scale for block in summed.blocks)
    return Lora(summed.geometry, tuple(blocks))
