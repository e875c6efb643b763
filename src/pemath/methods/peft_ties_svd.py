"""What PEFT's `add_weighted_adapter(combination_type="ties_svd")` computes."""

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
def peft_ties_svd(
    stack: Stack,
    *,
    density: float = 1.0,
    majority_sign_method: str = "total",
    svd_rank: int | None = None,
    svd_clamp: float | None = None,
) -> Any:
    """PEFT's ties_svd: trim, elect and merge of the dense deltas, truncated.

    Each delta keeps the share `density` of its entries, the largest. At each entry a sign is
    elected, that of the sum (`majority_sign_method` "total") or of the majority ("frequency"), and
    the weighted deltas with that sign are added and divided by their number. Signs are elected
    before the weights are applied: `a - b` is voted on as `a + b`; and weights do not weigh in the
    division: equal adapters with weights (0.5, 0.5) give half of one. The result is brought to the
    largest operand's rank, or `svd_rank`, as B = U·S and A = Vᵀ; `svd_clamp` clips both at that
    quantile of their values. PEFT decomposes the dense matrix; here its rows stream by a
    randomised decomposition, and the factors are PEFT's as far as that finds them. PEFT has no
    default for `density` and fails without one; here it is 1: nothing is trimmed.
    """
    return on_deltas(stack, Pruning(density, vote=majority_sign_method), svd_rank, svd_clamp)
