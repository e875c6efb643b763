"""What AdapterHub's `average_adapter` makes of its operands, whatever the strategy.

Source: adapters 1.3.0, model_mixin.py and methods/lora.py. Its merges are in float32, and of adapters
with one configuration: a difference in rank or alpha is refused there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np

from pemath.errors import KindMismatch, OperandError, PemathError, RequestError
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods._peft import factors, of_factors
from pemath.methods._registry import Stack
from pemath.methods._subtraction import operand_count
from pemath.methods.paper import equal_ranks
from pemath.names import display, listing


def one_configuration(stack: Stack) -> PemathError | None:
    """KindMismatch for what is neither LoRA nor (IA)³, RankMismatch and OperandError for operands
    of different ranks, scales or sites.
    """
    where = f"site `{display(stack.site)}`"
    if not isinstance(stack.values[0], Lora | Ia3):
        return KindMismatch(
            "AdapterHub averages the factors of LoRAs and the vectors of (IA)³",
            where=where,
            hint="use the exact sum",
        )
    if len(stack.values) < operand_count(stack):
        return OperandError(
            "AdapterHub averages only what all operands have",
            where=where,
            found=f"only in {listing(list(stack.names))}",
            hint="use the exact sum, in which a site that is lacking is no change",
        )
    scales = {
        part.scale
        for value in stack.values
        if isinstance(value, Lora)
        for block in value.blocks
        for part in block.parts
    }
    if len(scales) > 1:
        return OperandError(
            "AdapterHub averages adapters of one alpha / r only",
            where=where,
            found=", ".join(f"{scale:g}" for scale in sorted(scales)),
            expected="one number",
            hint="use the exact sum",
        )
    return equal_ranks(stack)


def shares(stack: Stack, normalize_weights: bool) -> list[float]:  # noqa: FBT001
    """The weights, divided by their sum if that is wanted. Raises RequestError if it is zero."""
    if not normalize_weights:
        return list(stack.weights)
    total = sum(stack.weights)
    if total == 0:
        raise RequestError(
            "weights that add up to zero cannot be normalized",
            found=", ".join(f"{weight:g}" for weight in stack.weights),
            hint="AdapterHub fails with a division by zero here: use normalize_weights=false",
        )
    return [weight / total for weight in stack.weights]


def added(stack: Stack, on_a: Sequence[float], on_b: Sequence[float]) -> Lora:
    """The LoRA of Σ on_a·A and Σ on_b·B."""
    first: Lora = stack.values[0]
    every_a, every_b, scales = zip(*(factors(value) for value in stack.values), strict=True)
    is_common = len(set(scales)) == 1
    if not is_common:  # of sums, whose factors have no alpha of their own
        every_b = tuple(b * np.float32(s) for b, s in zip(every_b, scales, strict=True))
    a = reduce(add, (x * np.float32(w) for x, w in zip(every_a, on_a, strict=True)))
    b = reduce(add, (x * np.float32(w) for x, w in zip(every_b, on_b, strict=True)))
    return of_factors(first.geometry, a, b, scales[0] if is_common else 1.0)
