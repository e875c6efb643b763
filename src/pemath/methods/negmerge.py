"""What several modules agree on in sign."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from pemath.errors import RequestError
from pemath.formats.floats import Array
from pemath.kinds.lora import Lora
from pemath.methods._dense import elementwise
from pemath.methods._registry import Operands, Stack, method
from pemath.methods._subtraction import check_finite, fitting, operand_count
from pemath.methods.exact import exact


def _kept_rank(
    ranks: Sequence[int], operands: Operands, rank: int | None = None, **options: Any
) -> int:
    if len(operands) == 1:
        return max(ranks, default=0)
    return rank or sum(ranks)


@method(
    space="delta",
    source="Kim et al. 2025 (arXiv 2410.05583), as in the authors' negmerge.py",
    check=fitting,
    rank=_kept_rank,
    weights="shares",
)
def negmerge(stack: Stack, *, rank: int | None = None) -> Any:
    """NegMerge: Σcᵢ ΔWᵢ, a mean, at the entries where all cᵢ ΔWᵢ have one sign; 0 elsewhere.

    Zero has no sign, so where one operand is zero, or lacks the site, so is the result. Subtract it
    for unlearning: `-0.5*negmerge(a, b, c)`. For (IA)³ and full deltas it is exact. What LoRAs agree
    on has no low rank: the leading `rank` directions are kept, by default as many as the operands
    have together, which leaves out 40 to 60 % (in norm) of two or three operands that have nothing in
    common, more of more, and less of operands that agree. The directions are found by a randomised decomposition, whose random signs come
    from the site's name.
    """
    if rank is not None and rank < 1:
        raise RequestError("`rank` must be at least 1", found=rank)
    if operand_count(stack) == 1:
        return exact(stack)
    check_finite(stack)
    first = stack.values[0]
    if len(stack.values) < operand_count(stack) or not all(stack.weights):
        return first * 0.0
    weighted = [value * c for value, c in zip(stack.values, stack.weights, strict=True)]
    if isinstance(first, Lora):
        rank = rank or sum(value.rank for value in stack.values)
    return elementwise(weighted, _agreed, rank or 0, stack.site)


def _agreed(blocks: list[Array]) -> Array:
    """The sum where all have one sign."""
    keep = (reduce(np.minimum, blocks) > 0) | (reduce(np.maximum, blocks) < 0)
    total: Array = np.where(keep, reduce(add, blocks), 0.0)
    return total
