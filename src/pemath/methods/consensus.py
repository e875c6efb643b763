"""Consensus merging: the sum where several modules need it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.errors import RequestError
from pemath.formats.floats import Array
from pemath.methods._entrywise import kept_rank, merged, votes
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting, operand_count


@method(
    space="delta",
    source="Wang et al. 2024 (arXiv 2405.07813)",
    check=fitting,
    rank=kept_rank,
)
def consensus(
    stack: Stack, *, k: int = 2, tall_mask_lambda: float = 0.4, rank: int | None = None
) -> Any:
    """Consensus of TALL masks: τ = Σ cᵢ ΔWᵢ where at least `k` operands have |cᵢ ΔWᵢ| ≥ λ |τ - cᵢ ΔWᵢ|.

    With k = 2 it drops what only one operand wants, or none. λ is `tall_mask_lambda`: the authors tune
    it for each task on validation data, here it is one number. The paper scales the result by a
    coefficient: multiply the call by it. An operand that lacks a site wants nothing there. `k` may
    not exceed the number of operands.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    if not 1 <= k <= operand_count(stack):
        raise RequestError(
            "`k` is out of range",
            found=k,
            expected=f"1 to the number of operands, {operand_count(stack)}",
        )
    if not 0 <= tall_mask_lambda < np.inf:
        raise RequestError("`tall_mask_lambda` must not be negative", found=tall_mask_lambda)

    def merge(blocks: list[Array], start: int) -> Array:
        tau = np.add.reduce(blocks)
        masks = []
        for block in blocks:
            rest = np.subtract(tau, block)
            np.abs(rest, out=rest)
            np.multiply(rest, tall_mask_lambda, out=rest)
            masks.append(np.abs(block, out=block) >= rest)
        return np.multiply(tau, votes(masks) >= k, out=tau)

    return merged(stack, lambda entries: merge, rank)
