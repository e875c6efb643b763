"""Model breadcrumbs: neither the largest entries of a module nor the many small ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.errors import RequestError
from pemath.formats.floats import Array
from pemath.methods._dense import Entries, Merge
from pemath.methods._entrywise import check_share, kept_rank, merged, total, trimmed
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting
from pemath.methods._threshold import kept_count, magnitudes, nth_largest
from pemath.methods.exact import exact


@method(
    space="delta",
    source="Davari and Belilovsky 2024 (arXiv 2312.06795)",
    check=fitting,
    rank=kept_rank,
)
def breadcrumbs(
    stack: Stack, *, density: float = 0.143, gamma: float = 0.007, rank: int | None = None
) -> Any:
    """Breadcrumbs: Σ mᵢ ⊙ cᵢ ΔWᵢ, where mᵢ drops the share `gamma` of largest entries and keeps `density`.

    The defaults are the paper's β = 85 % and γ = 99.3 %: it keeps what lies between these quantiles of
    magnitude, layer by layer. The `density` of entries kept comes next to those that are dropped as
    too large; entries that equal the largest or the least of them are kept too. mergekit is the same
    but for that, and for rounding both numbers down.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    check_share("density", density)
    check_share("gamma", gamma, zero=True)
    if density + gamma > 1 + 1e-12:
        raise RequestError(
            "`density` and `gamma` together are more than all entries",
            found=f"{density:g} + {gamma:g}",
            expected="at most 1",
        )
    if density == 1 and rank is None:
        return exact(stack)

    def prepare(entries: Entries) -> Merge:
        size = entries.shape[0] * entries.shape[1]
        dropped = round(gamma * size)
        kept = min(kept_count(density, size), size - dropped)
        places = [dropped + 1, dropped + kept]
        limits = [
            nth_largest(entries, magnitudes(entries, i), places)
            for i in range(len(entries.readers))
        ]

        def merge(blocks: list[Array], start: int) -> Array:
            for block, (most, _) in zip(blocks, limits, strict=True):
                np.multiply(block, np.abs(block) <= most, out=block)
            return total([trimmed(b, least) for b, (_, least) in zip(blocks, limits, strict=True)])

        return merge

    return merged(stack, prepare, rank)
