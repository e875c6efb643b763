"""PEFT's pruning and election of signs, on the factors and on the dense deltas.

Source: PEFT 0.21.2, utils/merge_utils.py. Its weights are float32, and so are its tensors. The random
entries that it keeps come from torch.bernoulli and torch's global generator, so that no two of its
runs agree unless torch is seeded just before; ours come from the seed, the tensor and the operand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.errors import RequestError
from pemath.formats.floats import Array
from pemath.kinds.lora import Lora
from pemath.methods._dense import Entries, Merge, entrywise
from pemath.methods._entrywise import Draws, check_choice, check_share, levels, votes
from pemath.methods._peft import (
    Single,
    check_svd,
    factors,
    kept_svd_rank,
    loses,
    of_factors,
    shipped_scale,
    singular_pairs,
)
from pemath.methods._registry import Stack
from pemath.methods._subtraction import check_finite
from pemath.methods._threshold import magnitudes, nth_largest
from pemath.methods.peft_linear import peft_linear

# The smallest share that random entries are drawn with.
_FINEST = 2.0**-16
Mask = NDArray[np.bool_]
Floats = NDArray[Any]  # float32 or float64
Prune = Callable[[list[Array], int], list[Array]]


@dataclass(frozen=True)
class Pruning:
    """What happens to tensors before and while they are added.

    Each operand keeps the share `density` of its entries: the largest, or with a `seed` random ones,
    which are then divided by the density. `vote` is PEFT's majority_sign_method; without one the
    weighted sum is taken. Raises RequestError for a value out of range.
    """

    density: float
    seed: int | None = None
    vote: str | None = None

    def __post_init__(self) -> None:
        check_share("density", self.density, zero=self.seed is None)
        if self.seed is not None and self.density < _FINEST:
            raise RequestError(
                "`density` is out of range", found=self.density, expected="at least 1/65536"
            )
        if self.vote is not None:
            check_choice("majority_sign_method", self.vote, ("total", "frequency"))

    def draws(self, tensor: str, operand: str, width: int) -> Draws:
        """The numbers that decide on the entries of one tensor of an operand."""
        return Draws(self.seed or 0, tensor, operand, width)

    def drawn(self, draws: Draws, start: int, count: int) -> Mask:
        """Which entries of `count` rows are kept at random: a share that is a multiple of 1/65536."""
        kept: Mask = draws.rows(start, count) < levels(self.density)
        return kept

    def pruned(self, values: Floats, kept: Mask) -> Floats:
        """Zero but for what is kept."""
        found = np.multiply(values, kept)
        return found if self.seed is None else np.divide(found, np.float32(self.density), out=found)

    def merged(self, tensors: Sequence[Floats], weights: Sequence[float]) -> Floats:
        """The weighted sum; with a vote, of those whose sign was elected, divided by their number.

        As in PEFT the weights have no part in the election, nor in the division.
        """
        weighted = [x * np.float32(w) for x, w in zip(tensors, weights, strict=True)]
        if self.vote is None:
            return reduce(add, weighted)
        positive, negative = [x > 0 for x in tensors], [x < 0 for x in tensors]
        if self.vote == "total":
            elected = reduce(add, tensors) >= 0
        else:
            elected = votes(positive) >= votes(negative)
        agree = [(p & elected) | (n & ~elected) for p, n in zip(positive, negative, strict=True)]
        chosen = (np.multiply(x, mask) for mask, x in zip(agree, weighted, strict=True))
        found: Floats = reduce(add, chosen)
        np.divide(found, np.maximum(votes(agree), 1), out=found)
        return found


def on_factors(stack: Stack, pruning: Pruning) -> Lora:
    """A and B pruned and merged, each by itself: √|c·s| on both, the sign on A. Not a merge of the
    deltas. A single operand is `linear`.

    Raises: NonFiniteValue.
    """
    check_finite(stack)
    if len(stack.operands) == 1:
        alone: Lora = peft_linear(stack)
        return alone
    first: Lora = stack.values[0]
    if loses(stack):
        return first * 0.0
    a, b, scales = zip(*(factors(value) for value in stack.values), strict=True)
    scaled = [weight * scale for weight, scale in zip(stack.weights, scales, strict=True)]
    roots = [math.sqrt(abs(product)) for product in scaled]
    signed = [math.copysign(root, product) for root, product in zip(roots, scaled, strict=True)]

    def merged(factor: str, tensors: Sequence[Single], weights: Sequence[float]) -> Single:
        kept = [
            pruning.pruned(tensor, _kept(tensor, pruning, f"{stack.site} {factor}", name))
            for tensor, name in zip(tensors, stack.names, strict=True)
        ]
        return pruning.merged(kept, weights)

    merged_a, merged_b = merged("A", a, signed), merged("B", b, roots)
    return of_factors(first.geometry, merged_a, merged_b, shipped_scale(stack, first.rank))


def _kept(tensor: Single, pruning: Pruning, label: str, operand: str) -> Mask:
    """Which entries of a factor are kept. Of equal absolute values the first come first; PEFT leaves
    that to torch.topk.
    """
    if pruning.density >= 1:
        return np.ones(tensor.shape, np.bool_)
    if pruning.seed is not None:
        return pruning.drawn(pruning.draws(label, operand, tensor.shape[1]), 0, len(tensor))
    count = int(pruning.density * tensor.size)
    kept = np.zeros(tensor.size, np.bool_)
    if count:
        sizes = np.abs(tensor).ravel()
        least = np.partition(sizes, tensor.size - count)[tensor.size - count]
        kept = sizes > least
        kept[np.flatnonzero(sizes == least)[: count - np.count_nonzero(kept)]] = True
    return kept.reshape(tensor.shape)


def on_deltas(
    stack: Stack, pruning: Pruning, svd_rank: int | None, svd_clamp: float | None
) -> Lora:
    """The dense deltas pruned and merged, then brought to PEFT's rank. A single operand is `linear`.

    Of equal absolute values at the limit all are kept. Where the delta is large, the decomposition is
    randomised, and its singular pairs are PEFT's as far as that finds them.
    Raises: RequestError, NonFiniteValue.
    """
    check_svd(svd_rank, svd_clamp)
    check_finite(stack)
    if len(stack.operands) == 1:
        alone: Lora = peft_linear(stack)
        return alone
    first: Lora = stack.values[0]
    if loses(stack):
        return first * 0.0

    def prepare(entries: Entries) -> Merge:
        prune = _pruner(entries, pruning, stack.names)
        return lambda blocks, start: pruning.merged(prune(blocks, start), stack.weights)

    rank = kept_svd_rank([value.rank for value in stack.values], stack.operands, svd_rank)
    bare = [replace(value, bias=None) for value in stack.values]
    found = entrywise(bare, prepare, rank, stack.site)
    allowed, scale = first.geometry.block_rank(rank), shipped_scale(stack, rank)
    blocks = (singular_pairs(block, allowed, svd_clamp) * scale for block in found.blocks)
    return Lora(first.geometry, tuple(blocks), None, found.left_out * scale)


def _pruner(entries: Entries, pruning: Pruning, names: Sequence[str]) -> Prune:
    """What prunes blocks of rows of all operands, that begin at a row."""
    if pruning.density >= 1:
        return lambda blocks, _: blocks
    if pruning.seed is not None:
        draws = [pruning.draws(entries.label, name, entries.shape[1]) for name in names]
        return lambda blocks, start: [
            pruning.pruned(block, pruning.drawn(numbers, start, len(block)))
            for block, numbers in zip(blocks, draws, strict=True)
        ]
    count = int(pruning.density * (entries.shape[0] * entries.shape[1]))
    operands = range(len(entries.readers))
    least = [
        nth_largest(entries, magnitudes(entries, i), [count])[0] if count else math.inf
        for i in operands
    ]
    return lambda blocks, _: [
        pruning.pruned(block, np.abs(block) >= limit)
        for block, limit in zip(blocks, least, strict=True)
    ]
