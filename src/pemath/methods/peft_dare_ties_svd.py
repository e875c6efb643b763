"""What PEFT's `add_weighted_adapter(combination_type="dare_ties_svd")` computes."""

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
def peft_dare_ties_svd(
    stack: Stack,
    *,
    density: float = 1.0,
    majority_sign_method: str = "total",
    seed: int = 0,
    svd_rank: int | None = None,
    svd_clamp: float | None = None,
) -> Any:
    """PEFT's dare_ties_svd: `ties_svd` of deltas with entries dropped at random, not trimmed.

    Each delta keeps a random share `density` of its entries and is divided by it; then signs are
    elected (`majority_sign_method`) and deltas averaged with all the faults of `peft_ties_svd`.
    The average is over those that an entry is left of, so the division by the density is not made
    up for: deltas that agree come out too large, up to n times for n operands. The result is
    brought to the largest operand's rank, or `svd_rank`, as B = U·S and A = Vᵀ; `svd_clamp` clips
    both at that quantile of their values. Masks come from `seed`, the site and the operand's name;
    PEFT's come from torch's global generator, and the entries are others. PEFT decomposes the
    dense matrix; here its rows stream by a randomised decomposition. PEFT has no default for
    `density` and fails without one; here it is 1. At 0 PEFT fails on NaN; here that is refused.
    """
    return on_deltas(stack, Pruning(density, seed, majority_sign_method), svd_rank, svd_clamp)
