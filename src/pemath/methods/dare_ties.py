"""DARE with TIES: random entries dropped, a sign elected, what agrees merged and rescaled."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.formats.floats import Array
from pemath.methods._dense import Entries, Merge
from pemath.methods._entrywise import (
    check_share,
    check_signs,
    dropping,
    elected,
    kept_rank,
    merged,
)
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting


@method(
    space="delta",
    source="Yu et al. 2024 (arXiv 2311.03099), with TIES-Merging on what is left",
    check=fitting,
    rank=kept_rank,
)
def dare_ties(
    stack: Stack,
    *,
    density: float = 0.5,
    seed: int = 0,
    majority_sign_method: str = "total",
    merge: str = "mean",
    rank: int | None = None,
) -> Any:
    """DARE with TIES: of mᵢ ⊙ cᵢ ΔWᵢ / density a sign is elected, and those that have it are merged.

    Masks with probability `density` from `seed` as in `dare_linear`; `majority_sign_method` and
    `merge` as in `ties`, with the same differences to PEFT and mergekit.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    check_share("density", density)
    check_signs(majority_sign_method, merge)

    def prepare(entries: Entries) -> Merge:
        drop, rescale = dropping(stack, entries, density, seed)

        def merge_rows(blocks: list[Array], start: int) -> Array:
            found = elected(drop(blocks, start), majority_sign_method, merge)
            return np.multiply(found, rescale, out=found)

        return merge_rows

    return merged(stack, prepare, rank)
