"""DARE: random entries of each module dropped, the others rescaled, and the sum of that."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.formats.floats import Array
from pemath.methods._dense import Entries, Merge
from pemath.methods._entrywise import check_share, dropping, kept_rank, merged, total
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting
from pemath.methods.exact import exact


@method(
    space="delta",
    source="Yu et al. 2024 (arXiv 2311.03099); their drop rate p is 1 - density",
    check=fitting,
    rank=kept_rank,
)
def dare_linear(
    stack: Stack, *, density: float = 0.5, seed: int = 0, rank: int | None = None
) -> Any:
    """DARE: Σ mᵢ ⊙ cᵢ ΔWᵢ / density, where each entry of mᵢ is 1 with probability `density`, else 0.

    Its expectation is the exact sum. Masks depend on `seed`, the site and the operand's name as it is
    written, not on threads, the order of operands or the version of numpy; other tools draw other
    ones. The probability is `density` to the nearest 1/65536, and what is kept is divided by just
    that. A `density` of 1 gives the exact sum. PEFT computes the same with random numbers of torch
    (up to 0.18 without the division). mergekit multiplies by what restores each tensor's sum of
    absolute values instead: nearly the same on average, but no single entry keeps its expectation.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    check_share("density", density)
    if density == 1 and rank is None:
        return exact(stack)

    def prepare(entries: Entries) -> Merge:
        drop, rescale = dropping(stack, entries, density, seed)

        def merge(blocks: list[Array], start: int) -> Array:
            found = total(drop(blocks, start))
            return np.multiply(found, rescale, out=found)

        return merge

    return merged(stack, prepare, rank)
