"""What AdapterHub's `average_adapter(combine_strategy="lora_linear_only_negate_b")` computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pemath.kinds.ia3 import Ia3
from pemath.methods._adapterhub import added, one_configuration, shares
from pemath.methods._registry import Stack, method
from pemath.methods.paper import kept_rank
from pemath.methods.peft_linear import peft_linear


@method(
    space="factor",
    source="AdapterHub's adapters 1.3.0, methods/lora.py, average_adapter; after Zhang et al. 2023 "
    "(arXiv 2306.14870)",
    check=one_configuration,
    rank=kept_rank,
    weights="shares",
)
def adapters_linear_only_negate_b(stack: Stack, *, normalize_weights: bool = True) -> Any:
    """AdapterHub's lora_linear_only_negate_b: A' = Σ|c|A, B' = ΣcB, c divided by Σc. Not the sum.

    Of several operands, without `normalize_weights`, this is `paper`; of a single one `paper`
    leaves A alone, and here 2a is 4a. With it, c is divided by its sum and not by Σ|c|: a single
    -a is a, `a - 0.5*b` comes out as if 2 and -1 had been asked for, and `a - b`, a division by
    zero in AdapterHub, is refused. Exact for equal A where Σ|c| = 1 after that. (IA)³ is as in
    `adapters_linear`. Operands need one rank, one alpha and the same sites.
    """
    weights = shares(stack, normalize_weights)
    if isinstance(stack.values[0], Ia3):
        return peft_linear(replace(stack, weights=weights))  # the same bare sum
    return added(stack, [abs(weight) for weight in weights], weights)
