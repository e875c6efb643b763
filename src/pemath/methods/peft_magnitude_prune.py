"""What PEFT's `add_weighted_adapter(combination_type="magnitude_prune")` computes."""

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
def peft_magnitude_prune(stack: Stack, *, density: float = 1.0) -> Any:
    """PEFT's magnitude_prune: `linear` of factors that keep their largest entries. Not the sum.

    Each A and each B keeps the share `density` of its entries, the largest, and then √|c·s| goes
    on both and the sign on A. What is small in a factor need not be small in the delta, and what
    is wrong with `peft_linear` is wrong here; with density 1 it is `peft_linear`. PEFT has no
    default for `density` and fails without one; here it is 1.
    """
    return on_factors(stack, Pruning(density))
