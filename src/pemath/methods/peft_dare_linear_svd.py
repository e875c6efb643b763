"""What PEFT's `add_weighted_adapter(combination_type="dare_linear_svd")` computes."""

from __future__ import annotations

from typing import Any

from pemath.methods._peft import kept_svd_rank, lora_only
from pemath.methods._peft_pruning import Pruning, on_deltas
from pemath.methods._registry import Stack, method


@method(
    space="delta",
    source="PEFT 0.21.2, tuners/lora/model.py and utils/merge_utils.py",
    check=lora_only,
    rank=kept_svd_rank,
)
def peft_dare_linear_svd(
    stack: Stack,
    *,
    density: float = 1.0,
    seed: int = 0,
    svd_rank: int | None = None,
    svd_clamp: float | None = None,
) -> Any:
    """PEFT's dare_linear_svd: the sum of deltas with entries dropped at random, truncated.

    Each delta keeps a random share `density` of its entries, is divided by it, as in DARE, and
    weighted. The sum is brought to the largest operand's rank, or `svd_rank`, as B = U·S and A =
    Vᵀ; `svd_clamp` clips both at that quantile of their values. Dropping at random adds noise of
    full rank, which the truncation mostly takes away again. Masks come from `seed`, the site and
    the operand's name; PEFT's come from torch's global generator, and the entries are others. PEFT
    decomposes the dense matrix; here its rows stream by a randomised decomposition. PEFT has no
    default for `density` and fails without one; here it is 1. At 0 PEFT fails on NaN; here that is
    refused.
    """
    return on_deltas(stack, Pruning(density, seed), svd_rank, svd_clamp)
