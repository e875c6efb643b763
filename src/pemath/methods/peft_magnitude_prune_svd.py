"""What PEFT's `add_weighted_adapter(combination_type="magnitude_prune_svd")` computes."""

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
def peft_magnitude_prune_svd(
    stack: Stack,
    *,
    density: float = 1.0,
    svd_rank: int | None = None,
    svd_clamp: float | None = None,
) -> Any:
    """PEFT's magnitude_prune_svd: the sum of deltas that keep their largest entries, truncated.

    Each delta keeps the share `density` of its entries, the largest, and is weighted. The sum is
    brought to the largest operand's rank, or `svd_rank`, as B = U·S and A = Vᵀ; `svd_clamp` clips
    both at that quantile of their values. A pruned delta has no low rank: the certificate says
    what is lost. PEFT decomposes the dense matrix; here its rows stream by a randomised
    decomposition, and the factors are PEFT's as far as that finds them. With density 1 it is
    `peft_svd`, but slower. PEFT has no default for `density` and fails without one; here it is 1.
    """
    return on_deltas(stack, Pruning(density), svd_rank, svd_clamp)
