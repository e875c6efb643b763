"""What AdapterHub's `average_adapter(combine_strategy="linear")` computes."""

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
    source="AdapterHub's adapters 1.3.0, methods/lora.py, average_adapter",
    check=one_configuration,
    rank=kept_rank,
    weights="shares",
)
def adapters_linear(stack: Stack, *, normalize_weights: bool = True) -> Any:
    """AdapterHub's linear: A' = ΣcA and B' = ΣcB, c divided by Σc; for (IA)³ Σc·l. Not the sum.

    A weight goes on both factors, so it is squared and loses its sign: -a is a, and 2a is 4a.
    `normalize_weights` divides by Σc first: then a mean of equal A is exact, a single operand is
    itself whatever its weight, and `a - b`, a division by zero in AdapterHub, is refused. For
    (IA)³ it is exact where the weights have the sum 1; otherwise the vectors are scaled around
    zero, not around one. Operands need one rank, one alpha and the same sites.
    """
    weights = shares(stack, normalize_weights)
    if isinstance(stack.values[0], Ia3):
        return peft_linear(replace(stack, weights=weights))  # the same bare sum
    return added(stack, weights, weights)
