"""What methods that prune and merge single entries share: pruning, random draws, elected signs.

Everywhere the weights are applied first: an operand's entries are those of cᵢ ΔWᵢ, signs included.
Blocks of rows are overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.errors import RequestError
from pemath.formats.floats import Array
from pemath.kinds.lora import Lora
from pemath.methods._dense import Entries, Prepare, entrywise
from pemath.methods._registry import Operands, Stack
from pemath.methods._subtraction import check_finite
from pemath.names import display

Mask = NDArray[np.bool_]

# Random numbers have 16 binary digits; four lie in one word of the generator.
_LEVELS = 1 << 16
_PER_WORD = 4


def kept_rank(
    ranks: Sequence[int], operands: Operands, rank: int | None = None, **options: Any
) -> int:
    """The rank of the result: `rank`, or what the operands have together."""
    return rank or sum(ranks)


def merged(stack: Stack, prepare: Prepare, rank: int | None) -> Any:
    """What `prepare` makes of the weighted values.

    Raises: RequestError, NonFiniteValue.
    """
    if rank is not None and rank < 1:
        raise RequestError("`rank` must be at least 1", found=rank)
    check_finite(stack)
    first = stack.values[0]
    weighted = [value * c for value, c in zip(stack.values, stack.weights, strict=True)]
    if isinstance(first, Lora):
        rank = rank or sum(value.rank for value in stack.values)
    return entrywise(weighted, prepare, rank or 0, stack.site)


def check_share(name: str, value: float, *, zero: bool = False) -> None:
    """Raises RequestError unless 0 < value ≤ 1, or 0 ≤ value ≤ 1 where it may be `zero`."""
    if not (0 < value <= 1 or (zero and value == 0)):
        expected = "a share from 0 to 1" if zero else "a share above 0, up to 1"
        raise RequestError(f"`{name}` is out of range", found=value, expected=expected)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises RequestError unless the value is one of `choices`."""
    if value not in choices:
        listing = " or ".join(f'"{choice}"' for choice in choices)
        raise RequestError(f"`{name}` is unknown", found=display(value, 60), expected=listing)


def trimmed(block: Array, least: float) -> Array:
    """The entries whose magnitude is at least `least`; zero elsewhere."""
    if least > 0:
        np.multiply(block, np.abs(block) >= least, out=block)
    return block


def total(blocks: Sequence[Array]) -> Array:
    """The sum."""
    first, *others = blocks
    for block in others:
        np.add(first, block, out=first)
    return first


class Draws:
    """Uniform random numbers 0 … 65535 for one tensor of one operand, one for each entry.

    They depend on the seed, the tensor and the operand's name alone; blocks may be asked for in any
    order and size, on any thread. Source: the raw stream of Philox 4×64 (Salmon et al. 2011), whose
    bits no version of numpy changes.
    """

    def __init__(self, seed: int, label: str, name: str, width: int) -> None:
        digest = hashlib.sha256(json.dumps([seed, label, name]).encode()).digest()
        self._key = int.from_bytes(digest[:16], "little")
        self._width = width
        self._words = -(-width // (_PER_WORD * 4)) * 4  # whole steps of the counter for each row

    def rows(self, start: int, count: int) -> NDArray[np.uint16]:
        """The numbers of `count` rows, [count, width]."""
        philox = np.random.Philox(key=self._key, counter=start * self._words // 4)
        raw = philox.random_raw(count * self._words).astype("<u8", copy=False).view("<u2")
        return raw.reshape(count, -1)[:, : self._width]


def levels(share: Any) -> Any:
    """How many of the 65536 values of a draw keep an entry: at least one, so that what is kept can
    be divided by the probability that this is.
    """
    return np.clip(np.rint(np.multiply(share, _LEVELS)), 1, _LEVELS)


def probability(kept_levels: Any) -> Any:
    """The probability that a draw is below `kept_levels`."""
    return kept_levels / _LEVELS


def draws_of(stack: Stack, seed: int, label: str, width: int) -> list[Draws]:
    """Those of each operand that has the site."""
    return [Draws(seed, label, name, width) for name in stack.names]


def dropping(
    stack: Stack, entries: Entries, density: float, seed: int
) -> tuple[Callable[[list[Array], int], list[Array]], float]:
    """What drops entries of blocks that begin at a row, each kept with probability `density`; and the
    inverse of that probability, by which what is left is to be multiplied.
    """
    kept = int(levels(density))
    draws = draws_of(stack, seed, entries.label, entries.shape[1])

    def drop(blocks: list[Array], start: int) -> list[Array]:
        if kept < _LEVELS:
            for block, drawn in zip(blocks, draws, strict=True):
                keep = drawn.rows(start, len(block)) < kept
                np.multiply(block, keep, out=block)
        return blocks

    return drop, 1 / probability(kept)


def check_signs(majority_sign_method: str, merge: str) -> None:
    """Raises RequestError for an unknown way to elect signs or to merge what they elect."""
    check_choice("majority_sign_method", majority_sign_method, ("total", "frequency"))
    check_choice("merge", merge, ("mean", "sum"))


def elected(blocks: Sequence[Array], majority_sign_method: str, merge: str = "sum") -> Array:
    """The sum, or the mean, of the entries that have the elected sign; zero where none is elected.

    The sign is that of the sum, or by "frequency" that of most entries that are not zero.
    """
    agreements = agreeing(blocks, majority_sign_method)
    for block, agrees in zip(blocks, agreements, strict=True):
        np.multiply(block, agrees, out=block)
    found = total(blocks)
    if merge == "mean" and len(blocks) > 1:
        np.divide(found, np.maximum(votes(agreements), 1), out=found)
    return found


def agreeing(blocks: Sequence[Array], majority_sign_method: str) -> list[Mask]:
    """Where each operand has the elected sign."""
    positive, negative = [block > 0 for block in blocks], [block < 0 for block in blocks]
    if majority_sign_method == "total":
        ballot = reduce(add, blocks)
        up, down = ballot > 0, ballot < 0
    else:
        ayes, noes = votes(positive), votes(negative)
        up, down = ayes > noes, ayes < noes
    for over, under in zip(positive, negative, strict=True):
        np.logical_and(over, up, out=over)
        np.logical_and(under, down, out=under)
        np.logical_or(over, under, out=over)
    return positive


def votes(masks: Sequence[Mask]) -> NDArray[np.integer[Any]]:
    """How many of the masks hold, at each entry."""
    counted = np.zeros(masks[0].shape, np.uint8 if len(masks) < 256 else np.uint16)
    for mask in masks:
        np.add(counted, mask.view(np.uint8), out=counted)
    return counted
