"""DELLA: entries dropped at random, small ones more often; a sign elected, what agrees merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.errors import RequestError
from pemath.formats.floats import Array
from pemath.methods._dense import Entries, Merge
from pemath.methods._entrywise import (
    check_signs,
    draws_of,
    elected,
    kept_rank,
    levels,
    merged,
    probability,
)
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting

Levels = NDArray[np.uint16]

# Of a float32's exponent and mantissa: 16 octaves below the row's largest, 64 steps in each.
_CODE_BITS = 10
# Narrower rows are sorted: tables for all rows of a block would be too large.
_WIDE = 64


@method(
    space="delta",
    source="Deep et al. 2024 (arXiv 2406.11617)",
    check=fitting,
    rank=kept_rank,
)
def della(
    stack: Stack,
    *,
    density: float = 0.7,
    epsilon: float = 0.07,
    seed: int = 0,
    majority_sign_method: str = "total",
    merge: str = "mean",
    rank: int | None = None,
) -> Any:
    """DELLA: entries of cᵢ ΔWᵢ dropped at random, small ones more often; a sign elected, those merged.

    MAGPRUNE keeps an entry with probability `density` + `epsilon` (F - ½), where F is the share of
    its row that it exceeds in magnitude (equal ones counted half), and divides it by that. The
    paper's ranks give the same to half a step of epsilon/n. mergekit's range is twice as wide,
    density ± epsilon, and one factor for the whole tensor restores its norm on demand, instead of one
    for each entry. A row is what feeds one output of a LoRA, or lies along the first axis of a full
    delta; a vector, an (IA)³ too, is one row. In a LoRA of more than 2¹⁸ entries, magnitudes that
    agree in seven binary digits count as equal.

    Then `majority_sign_method` and `merge` elect and merge as in `ties`. Draws come from `seed` as in
    `dare_linear`.

    What is left after pruning has no low rank: LoRAs keep the leading `rank` directions, by default as
    many as the operands have together, and state an estimate of what that leaves out. (IA)³ and full
    deltas are exact.
    """
    if not (0 <= epsilon <= 1 and density - epsilon / 2 > 0 and density + epsilon / 2 <= 1):
        raise RequestError(
            "`density` and `epsilon` give no probabilities",
            found=f"density ± epsilon/2 = {density:g} ± {epsilon / 2:g}",
            expected="above 0, and at most 1",
        )
    check_signs(majority_sign_method, merge)

    def prepare(entries: Entries) -> Merge:
        draws = draws_of(stack, seed, entries.label, entries.shape[1])

        def merge_rows(blocks: list[Array], start: int) -> Array:
            for block, drawn in zip(blocks, draws, strict=True):
                _drop(block, drawn.rows(start, len(block)), density, epsilon)
            return elected(blocks, majority_sign_method, merge)

        return merge_rows

    return merged(stack, prepare, rank)


def _drop(block: Array, drawn: Levels, density: float, epsilon: float) -> None:
    """Keep each entry with its own probability, and divide it by that."""
    counted = block.dtype == np.float32 and block.shape[1] >= _WIDE
    standing = _standing if counted else _exact_standing

    def highest_of(share: Array) -> Levels:
        """The largest draw that keeps an entry which exceeds this share of its row."""
        np.multiply(share, epsilon, out=share)
        np.add(share, density - epsilon / 2, out=share)
        found: Levels = (levels(share) - 1).astype(np.uint16)
        return found

    highest = standing(block, highest_of)
    np.multiply(block, drawn <= highest, out=block)
    chances = highest.astype(block.dtype)
    np.add(chances, 1, out=chances)
    np.multiply(chances, probability(1), out=chances)
    np.divide(block, chances, out=block)


def _exact_standing(block: Array, function: Callable[[Array], Levels]) -> Levels:
    """`function` of the share of its row that each entry exceeds in magnitude, equals counted half."""
    width = block.shape[1]
    sizes = np.abs(block)
    order = np.argsort(sizes, axis=1)
    ordered = np.take_along_axis(sizes, order, axis=1)
    first = np.ones(block.shape, np.bool_)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=first[:, 1:])
    last = np.ones(block.shape, np.bool_)
    last[:, :-1] = first[:, 1:]
    places = np.arange(width)
    below = np.maximum.accumulate(np.where(first, places, 0), axis=1)
    up_to = np.minimum.accumulate(np.where(last, places + 1, width)[:, ::-1], axis=1)[:, ::-1]
    found = np.empty(block.shape, np.uint16)
    np.put_along_axis(found, order, function((below + up_to) / (2 * width)), 1)
    return found


def _standing(block: Array, function: Callable[[Array], Levels]) -> Levels:
    """The same for float32: magnitudes that agree in seven binary digits count as equal, and so do
    all below 2⁻¹⁶ of the row's largest. They are counted, which is much faster than sorting.
    """
    height, width = block.shape
    bits = np.abs(block).view(np.int32)
    bits -= bits.max(axis=1, keepdims=True) - ((16 << 23) - 1)
    np.maximum(bits, 0, out=bits)
    np.right_shift(bits, 27 - _CODE_BITS, out=bits)
    bits += np.arange(height, dtype=np.int32)[:, None] << _CODE_BITS
    codes = bits.astype(np.intp)
    found = np.bincount(codes.ravel(), minlength=height << _CODE_BITS)
    counts: Any = found.astype(np.float32).reshape(height, -1)
    share: Any = np.cumsum(counts, axis=1)
    counts *= np.float32(0.5)
    share -= counts
    share *= np.float32(1 / width)
    return np.take(function(share), codes, mode="clip")
