"""TIES merging: trim, elect signs, merge what agrees."""

from __future__ import annotations

from typing import Any

from pemath.formats.floats import Array
from pemath.methods._dense import Entries, Merge
from pemath.methods._entrywise import (
    check_share,
    check_signs,
    elected,
    kept_rank,
    merged,
    trimmed,
)
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting
from pemath.methods._threshold import thresholds


@method(
    space="delta",
    source="Yadav et al. 2023 (arXiv 2306.01708), section 4 and algorithm 1",
    check=fitting,
    rank=kept_rank,
)
def ties(
    stack: Stack,
    *,
    density: float = 0.2,
    majority_sign_method: str = "total",
    merge: str = "mean",
    rank: int | None = None,
) -> Any:
    """TIES: each cᵢ ΔWᵢ trimmed to its largest entries, a sign elected, the mean of those that have it.

    Of each operand the share `density` of largest entries stays, as in `magnitude_prune`. The sign
    of an entry is that of the sum of the trimmed operands (`majority_sign_method` "total"), or the
    one that more of them have ("frequency"). `merge` says what becomes of those that have it: their
    "mean", Σ cᵢ ΔWᵢ over their number, as in the paper and in PEFT, or their "sum". mergekit divides by
    the sum of their weights instead, which may be near zero where weights differ in sign; without
    `normalize` it is the sum.

    Weights come first, so that `ties(a, -b)` merges a with what is opposite to b. PEFT elects signs
    before the weights are applied, which is wrong for negative ones. Where no sign wins (one operand
    against one by "frequency", or a sum of exactly zero) the result is zero, as in the paper's
    formula; PEFT and mergekit take the positive ones then, so their result depends on the sign of
    the whole. The paper trims each task vector over all weights; here, in PEFT and in mergekit every
    weight is trimmed by itself.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    check_share("density", density)
    check_signs(majority_sign_method, merge)

    def prepare(entries: Entries) -> Merge:
        least = thresholds(entries, density)

        def merge_rows(blocks: list[Array], start: int) -> Array:
            kept = [trimmed(b, t) for b, t in zip(blocks, least, strict=True)]
            return elected(kept, majority_sign_method, merge)

        return merge_rows

    return merged(stack, prepare, rank)
