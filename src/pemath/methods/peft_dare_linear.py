"""What PEFT's `add_weighted_adapter(combination_type="dare_linear")` computes."""

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
def peft_dare_linear(stack: Stack, *, density: float = 1.0, seed: int = 0) -> Any:
    """PEFT's dare_linear: `linear` of factors with entries dropped at random. Not DARE, nor the sum.

    Each A and each B keeps a random share `density` of its entries and is divided by it; then as
    `peft_linear`, which it is with density 1. A product b·a survives where both do, with
    probability `density`², so the noise is that of DARE with the square. Masks come from `seed`,
    the site, the operand's name and the factor; PEFT's come from torch's global generator, and the
    entries are others. PEFT has no default for `density` and fails without one; here it is 1. At 0
    PEFT writes NaN; here that is refused.
    """
    return on_factors(stack, Pruning(density, seed))
