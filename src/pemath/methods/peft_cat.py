"""What PEFT's `add_weighted_adapter(combination_type="cat")` computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pemath.kinds.lora import Lora
from pemath.methods._peft import (
    factors,
    largest_rank,
    lora_only,
    loses,
    of_factors,
    shipped_scale,
)
from pemath.methods._registry import Operands, Stack, method
from pemath.methods.peft_linear import peft_linear


def _all_ranks(ranks: Sequence[int], operands: Operands, **options: Any) -> int:
    if len(operands) == 1:
        return max(ranks, default=0)
    return max(sum(ranks), sum(largest_rank([adapter]) for adapter in operands if adapter))


@method(
    space="factor",
    source="PEFT 0.21.2, tuners/lora/model.py, add_weighted_adapter with combination_type cat",
    check=lora_only,
    rank=_all_ranks,
)
def peft_cat(stack: Stack) -> Any:
    """PEFT's cat: the factors side by side, c·s on A. The exact sum, at the sum of the ranks.

    Its faults are elsewhere: a bias of B is dropped, rsLoRA comes out √r too large, and the first
    operand's layers_to_transform and exclude_modules hold for all. For a convolution in groups it
    is not the sum: whole A's are put below each other, where each group needs its own rows of all
    of them. What is redundant is kept: every operand takes its largest rank at every site. A
    single operand is `linear`. Computed in float32, tensor for tensor.
    """
    if len(stack.operands) == 1:
        return peft_linear(stack)
    first: Lora = stack.values[0]
    if loses(stack):
        return first * 0.0
    tops, sides = [], []
    for value, weight in zip(stack.values, stack.weights, strict=True):
        a, b, scale = factors(value)
        tops.append(a * np.float32(weight) * np.float32(scale))
        sides.append(b)
    rank = _all_ranks([value.rank for value in stack.values], stack.operands)
    block_rank = first.geometry.block_rank(rank)
    a, b = np.concatenate(tops), np.concatenate(sides, axis=1)
    a = np.pad(a, ((0, first.geometry.site_rank(block_rank) - len(a)), (0, 0)))
    b = np.pad(b, ((0, 0), (0, block_rank - b.shape[1])))
    return of_factors(first.geometry, a, b, shipped_scale(stack, rank))
