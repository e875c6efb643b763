"""What PEFT's `add_weighted_adapter(combination_type="dare_ties")` computes."""

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
def peft_dare_ties(
    stack: Stack, *, density: float = 1.0, majority_sign_method: str = "total", seed: int = 0
) -> Any:
    """PEFT's dare_ties: `ties` of factors with entries dropped at random, not trimmed. Not the sum.

    Each A and each B keeps a random share `density` of its entries and is divided by it; then
    signs are elected (`majority_sign_method`) and factors averaged with all the faults of
    `peft_ties`. The average is over those that an entry is left of, so the division by the density
    is not made up for: factors that agree come out too large, up to n times for n operands. Masks
    come from `seed`, the site, the operand's name and the factor; PEFT's come from torch's global
    generator, and the entries are others. PEFT has no default for `density` and fails without one;
    here it is 1. At 0 PEFT writes NaN; here that is refused.
    """
    return on_factors(stack, Pruning(density, seed, majority_sign_method))
