"""What PEFT's `add_weighted_adapter(combination_type="linear")` computes."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from pemath.errors import KindMismatch, PemathError
from pemath.formats.floats import FLOAT_TYPES, Stored
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods._peft import factors, loses, of_factors, shipped_scale
from pemath.methods._registry import Stack, method
from pemath.methods.paper import equal_ranks, kept_rank

_F32 = FLOAT_TYPES["F32"]


def _combinable(stack: Stack) -> PemathError | None:
    if isinstance(stack.values[0], Lora | Ia3):
        return equal_ranks(stack)
    return KindMismatch(
        "PEFT combines LoRA and (IA)³ only", where=f"site `{stack.site}`", hint="use the exact sum"
    )


@method(
    space="factor",
    source="PEFT 0.21.2, tuners/lora/model.py and tuners/ia3/model.py, add_weighted_adapter",
    check=_combinable,
    rank=kept_rank,
)
def peft_linear(stack: Stack) -> Any:
    """PEFT's linear: √|c·s| on A and B, the sign on A; for (IA)³ the bare sum Σc·l. Not the sum.

    Kept to show what existing merges are: equal A and weights (1, -1) give zero, (0.5, 0.5) give
    twice the mean; a bias of B is dropped, rsLoRA comes out √r too large, and the first operand's
    layers_to_transform and exclude_modules hold for all. Computed in float32, tensor for tensor.
    """
    first = stack.values[0]
    if isinstance(first, Ia3):
        total = np.zeros(math.prod(first.shape), np.float32)
        for value, weight in zip(stack.values, stack.weights, strict=True):
            total += value.vector().astype(np.float32) * np.float32(weight)
        return Ia3(first.side, first.shape, ((1.0, Stored(total.reshape(first.shape), _F32)),))
    if isinstance(first, Lora):
        if loses(stack):
            return first * 0.0
        found = [factors(value) for value in stack.values]
        scaled = [w * scale for w, (_, _, scale) in zip(stack.weights, found, strict=True)]
        roots = [math.sqrt(abs(product)) for product in scaled]
        signed = [math.copysign(root, product) for root, product in zip(roots, scaled, strict=True)]
        a = reduce(add, (np.float32(w) * a for w, (a, _, _) in zip(signed, found, strict=True)))
        b = reduce(add, (np.float32(w) * b for w, (_, b, _) in zip(roots, found, strict=True)))
        return of_factors(first.geometry, a, b, shipped_scale(stack, first.rank))
    raise KindMismatch("PEFT combines LoRA and (IA)³ only", where=f"site `{stack.site}`")
