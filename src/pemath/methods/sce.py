"""SCE: select by variance, weight by energy, erase what disagrees in sign."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.formats.floats import Array
from pemath.methods._dense import ALL, Entries, Merge
from pemath.methods._entrywise import agreeing, check_share, kept_rank, merged, total
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting, operand_count
from pemath.methods._threshold import kept_count, nth_largest


@method(
    space="delta",
    source="Wan et al. 2024 (arXiv 2408.07990)",
    check=fitting,
    rank=kept_rank,
)
def sce(stack: Stack, *, select_topk: float = 1.0, rank: int | None = None) -> Any:
    """SCE: the entries that vary most across cᵢ ΔWᵢ; of those with the elected sign the mean, by energy.

    Select: the share `select_topk` of entries with the largest variance across all operands (one
    that lacks the site is zero there). Calculate: an operand weighs as much as the squares of its
    selected entries add up to. Erase: entries against the sign of the sum. The weights of what
    remains are made to add up to 1 at each entry, as in mergekit; there a sum of squares or of
    weights below 1e-6 is treated apart, so small deltas come out as plain means, or smaller than
    they are: here the scale does not matter. mergekit counts the share among the entries whose
    variance is not zero.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    check_share("select_topk", select_topk)
    count = operand_count(stack)

    def prepare(entries: Entries) -> Merge:
        least = 0.0
        if select_topk < 1:
            size = entries.shape[0] * entries.shape[1]

            def variance(rows: slice, columns: slice) -> Array:
                return _variance([read(rows, columns) for read in entries.readers], count)

            least = nth_largest(entries, variance, [kept_count(select_topk, size)])[0]

        def selected(blocks: list[Array]) -> list[Array]:
            if least > 0:
                keep = _variance(blocks, count) >= least
                for block in blocks:
                    np.multiply(block, keep, out=block)
            return blocks

        energies = np.zeros(len(entries.readers))
        for rows in entries.blocks():
            blocks = selected([read(rows, ALL) for read in entries.readers])
            energies += [float(np.vdot(block, block)) for block in blocks]
        shares = energies / (energies.sum() or 1.0)

        def merge(blocks: list[Array], start: int) -> Array:
            selected(blocks)
            agreements = agreeing(blocks, "total")
            weight = np.zeros_like(blocks[0])
            for block, agrees, share in zip(blocks, agreements, shares, strict=True):
                kept = np.multiply(agrees, block.dtype.type(share))
                np.multiply(block, kept, out=block)
                np.add(weight, kept, out=weight)
            np.add(weight, weight == 0, out=weight)
            found = total(blocks)
            return np.divide(found, weight, out=found)

        return merge

    return merged(stack, prepare, rank)


def _variance(blocks: list[Array], count: int) -> Array:
    """Of `count` numbers at each entry: those of the blocks, and zeros."""
    mean: Array = np.add.reduce(blocks)
    np.divide(mean, count, out=mean)
    found: Array = np.square(mean)
    np.multiply(found, count - len(blocks), out=found)
    for block in blocks:
        apart = np.subtract(block, mean)
        np.square(apart, out=apart)
        np.add(found, apart, out=found)
    return found
