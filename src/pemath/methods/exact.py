"""The exact weighted sum of delta weights."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from pemath.methods._registry import Stack, method


@method(
    space="factor",
    source="the definition; Ilharco et al. 2023 (arXiv 2212.04089) call it task arithmetic",
    any_kind=True,
)
def exact(stack: Stack) -> Any:
    """The weighted sum of the delta weights, without loss: LoRA ranks add up.

    Any ranks, scales, dtypes and sites go together; a site that an operand lacks counts as zero.
    """
    return reduce(add, (v * w for v, w in zip(stack.values, stack.weights, strict=True)))
