"""Rank-one units of several LoRAs, clustered."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.errors import PemathError, RequestError
from pemath.formats.floats import Array
from pemath.kinds import refuse_non_finite
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.methods._core import product, terms
from pemath.methods._matrices import lora_only
from pemath.methods._registry import Operands, Stack, method
from pemath.methods._subtraction import check_finite, operand_count
from pemath.methods.exact import exact

Labels = NDArray[np.intp]

# Lloyd's algorithm ends by itself; on numbers of any size, within this many rounds.
_ROUNDS = 300
# Squared distances below this share of the squared norms are rounding errors.
_SAME = 1e-12
# A mean this much shorter than its members has no direction.
_CANCELLED = 1e-3


def _loras(stack: Stack) -> PemathError | None:
    return lora_only(stack, "lego", "it clusters the rank-one terms of their factors")


def _kept_rank(
    ranks: Sequence[int], operands: Operands, rank: int | None = None, **options: Any
) -> int:
    return min(rank or max(ranks, default=0), sum(ranks))


@method(
    space="factor",
    source="Zhao et al. 2025 (arXiv 2409.16167), LoRA-LEGO; the clustering is our own",
    check=_loras,
    rank=_kept_rank,
    weights="shares",
)
def lego(stack: Stack, *, rank: int | None = None, seed: int = 0) -> Any:
    """LoRA-LEGO: k-means of all rank-one units (aⱼ, bⱼ) into `rank` clusters, one new unit for each.

    A new unit is the mean of its cluster, stretched to the mean norm of its members; all are scaled
    by √(r/k) for k clusters of operands of rank r (the paper's two reweightings). `rank` is by
    default the largest rank r of an operand. A scale alpha/r is part of b. Weights are shares: |wᵢ|
    weighs the units of an operand in the means, its sign turns their b, and Σ|wᵢ| scales the result.
    Lloyd's algorithm starts from k-means++, whose draws depend on `seed` and the site only: neither
    the order of operands nor that of ranks matters. It is a merge of factors: (a, b) and (−a, −b)
    are one unit of ΔW and two here, as in the paper. Biases are averaged. A single operand is left
    as it is, or brought to `rank`.
    """
    first = stack.values[0]
    least = first.geometry.site_rank(1)
    if rank is not None and rank < least:
        raise RequestError(f"`rank` must be at least {least}", found=rank)
    if (operand_count(stack) == 1 and rank is None) or not any(stack.weights):
        return exact(stack)
    check_finite(stack)
    wanted = first.geometry.block_rank(rank or max(value.rank for value in stack.values))
    columns = zip(*(value.blocks for value in stack.values), strict=True)
    try:
        blocks = tuple(
            _merged(column, stack.weights, max(1, wanted), f"{seed} {stack.site} {index}")
            for index, column in enumerate(columns)
        )
    except OverflowError:
        refuse_non_finite([a for a in stack.operands if a is not None], stack.site)
    return Lora(first.geometry, blocks, exact(stack).bias)


def _merged(blocks: Sequence[LowRank], weights: Sequence[float], wanted: int, name: str) -> LowRank:
    pooled = [(*terms(block), weight) for block, weight in zip(blocks, weights, strict=True)]
    pooled = [(a, b, weight) for a, b, weight in pooled if len(a) and weight]
    if not pooled:
        return LowRank(blocks[0].shape)
    a, b, shares = _ordered(pooled)
    products = a @ a.T + b.T @ b
    if not np.isfinite(products).all():
        raise OverflowError
    labels = _clustered(products, shares, wanted, name)
    means = _means(labels, shares)
    norms = np.sqrt(np.diagonal(products))
    lengths = np.sqrt(np.maximum(_squares(means, products), 0.0))
    typical = means @ norms
    stretch = np.divide(
        typical, lengths, out=np.zeros_like(lengths), where=lengths > _CANCELLED * typical
    )
    mix = means * stretch[:, None]
    usual = max(len(rows) for rows, _, _ in pooled)
    scale = math.sqrt(usual / len(means)) * sum(abs(weight) for _, _, weight in pooled)
    return product(b @ mix.T, mix @ a) * scale


def _ordered(pooled: Sequence[tuple[Array, Array, float]]) -> tuple[Array, Array, Array]:
    """All units, A [n, in] and B [out, n], with their weights [n], in an order that depends on them
    alone.
    """
    a = np.concatenate([rows for rows, _, _ in pooled])
    b = np.concatenate([np.sign(weight) * columns for _, columns, weight in pooled], axis=1)
    shares = np.concatenate([np.full(len(rows), abs(weight)) for rows, _, weight in pooled])
    names = [row.tobytes() + column.tobytes() for row, column in zip(a, b.T, strict=True)]
    order = sorted(range(len(names)), key=names.__getitem__)
    return a[order], b[:, order], shares[order]


def _clustered(products: Array, shares: Array, wanted: int, name: str) -> Labels:
    """The cluster of each unit, by k-means on their inner products."""
    draws = _draws(name)
    floor = _SAME * float(np.diagonal(products).max())
    centres: list[int] = []
    nearest = np.ones(len(shares))
    while len(centres) < wanted and (shares * nearest).any():
        reach = np.cumsum(shares * nearest)
        centres.append(int(np.searchsorted(reach, next(draws) * reach[-1], side="right")))
        distances = _distances(np.eye(len(shares))[centres], products)
        nearest = np.where(distances.min(axis=0) > floor, distances.min(axis=0), 0.0)
    means = np.eye(len(shares))[centres]
    labels: Labels = np.full(len(shares), -1)
    for _ in range(_ROUNDS):
        before, labels = labels, np.argmin(_distances(means, products), axis=0)
        if np.array_equal(before, labels):
            break
        means = _means(labels, shares)
    return labels


def _means(labels: Labels, shares: Array) -> Array:
    """The weighted mean of each cluster, [clusters, n]; a cluster that lost all units is gone."""
    members = (np.unique(labels)[:, None] == labels) * shares
    means: Array = members / members.sum(axis=1, keepdims=True)
    return means


def _squares(means: Array, products: Array) -> Array:
    found: Array = np.einsum("ij,ij->i", means @ products, means)
    return found


def _distances(means: Array, products: Array) -> Array:
    """Squared distances of all units from the means, [clusters, n]."""
    own = np.diagonal(products)
    found: Array = own - 2 * means @ products + _squares(means, products)[:, None]
    return found


def _draws(name: str) -> Iterator[float]:
    """Numbers from 0 up to 1 that depend on `name` alone, whatever the version of numpy."""
    for index in count():
        digest = hashlib.blake2b(f"{name} {index}".encode(), digest_size=6).digest()
        yield int.from_bytes(digest) / 2**48
