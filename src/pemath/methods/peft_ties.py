"""What PEFT's `add_weighted_adapter(combination_type="ties")` computes."""

from __future__ import annotations

from typing import Any

from pemath.methods._peft import one_rank
from pemath.methods._peft_pruning import Pruning, on_factors
from pemath.methods._registry import Stack, method
from pemath.methods.paper import kept_rank


@method(
    space="factor",
    source="PEFT 0.21.2, tuners/lora/model.py and utils/merge_utils.py",
    check=one_rank,
    rank=kept_rank,
)
def peft_ties(stack: Stack, *, density: float = 1.0, majority_sign_method: str = "total") -> Any:
    """PEFT's ties: trim, elect and merge, of A and of B one after the other. Not TIES, nor the sum.

    Each factor keeps the share `density` of its entries, the largest. At each entry a sign is
    elected, that of the sum (`majority_sign_method` "total") or of the majority ("frequency"), and
    the factors with that sign, times √|c·s|, are added and divided by their number. The sign of c
    goes on A, but after the election: `a - b` is voted on as `a + b`. Weights do not weigh in the
    division: equal adapters with weights (0.5, 0.5) give half of one. A and B elect without
    knowing of each other. PEFT has no default for `density` and fails without one; here it is 1:
    nothing is trimmed.
    """
    return on_factors(stack, Pruning(density, vote=majority_sign_method))
