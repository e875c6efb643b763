"""The largest entries of each module."""

from __future__ import annotations

from typing import Any

from pemath.formats.floats import Array
from pemath.methods._dense import Entries, Merge
from pemath.methods._entrywise import check_share, kept_rank, merged, total, trimmed
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting
from pemath.methods._threshold import thresholds
from pemath.methods.exact import exact


@method(
    space="delta",
    source="the definition; magnitude_prune in PEFT 0.21.2, utils/merge_utils.py",
    check=fitting,
    rank=kept_rank,
)
def magnitude_prune(stack: Stack, *, density: float = 0.2, rank: int | None = None) -> Any:
    """Σ trim(cᵢ ΔWᵢ): of each operand the share `density` of largest entries, added up.

    The share is of each weight matrix by itself (all experts or groups of one together) and of each
    bias, to the nearest whole number of entries but at least one; entries as large as the least of
    them are kept too, so that no order decides. PEFT and mergekit round down, and which of equal
    entries they keep is up to torch. A single operand is pruned as well; a `density` of 1 gives the
    exact sum.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    check_share("density", density)
    if density == 1 and rank is None:
        return exact(stack)

    def prepare(entries: Entries) -> Merge:
        least = thresholds(entries, density)

        def merge(blocks: list[Array], start: int) -> Array:
            return total([trimmed(b, t) for b, t in zip(blocks, least, strict=True)])

        return merge

    return merged(stack, prepare, rank)
