"""Values merged matrix by matrix: which kinds have matrices, and TIES of those that are held whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from pemath.errors import KindMismatch, PemathError
from pemath.formats.floats import Array, Stored
from pemath.kinds import refuse_non_finite
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.methods._core import Small
from pemath.methods._dense import row_blocks
from pemath.methods._entrywise import elected, trimmed
from pemath.methods._registry import Stack
from pemath.methods._subtraction import as_bias, bias_of, check_finite, fitting
from pemath.methods._threshold import kept_count
from pemath.names import display


def by_block(
    stack: Stack,
    of_products: Callable[[list[LowRank]], LowRank],
    of_vectors: Callable[[list[FullDelta]], FullDelta],
) -> Lora:
    """LoRAs, times their weights, merged block by block, and their biases as vectors. One of weight
    zero is a zero.
    """
    check_finite(stack)
    weighted = [value * weight for value, weight in zip(stack.values, stack.weights, strict=True)]
    columns = zip(*(value.blocks for value in weighted), strict=True)
    try:
        blocks = tuple(of_products(list(column)) for column in columns)
    except np.linalg.LinAlgError:
        _refuse(stack)
    bias = None
    if any(value.bias is not None for value in weighted):
        bias = as_bias(of_vectors([bias_of(value) for value in weighted]))
    return Lora(stack.values[0].geometry, blocks, bias)


def by_matrix(
    stack: Stack,
    of_products: Callable[[list[LowRank]], LowRank],
    of_matrices: Callable[[list[Array]], Array],
    of_vectors: Callable[[list[FullDelta]], FullDelta],
) -> Any:
    """The same of any matrices: a full delta is one, [out, …], if it has two or more dimensions, else
    a vector.
    """
    first = stack.values[0]
    if isinstance(first, Lora):
        return by_block(stack, of_products, of_vectors)
    check_finite(stack)
    weighted = [value * weight for value, weight in zip(stack.values, stack.weights, strict=True)]
    if len(first.shape) < 2:
        return of_vectors(weighted)
    try:
        merged = of_matrices([v.delta_weight().reshape(first.shape[0], -1) for v in weighted])
    except np.linalg.LinAlgError:
        _refuse(stack)
    return FullDelta(first.shape, ((1.0, Stored.of(merged.reshape(first.shape))),))


def _refuse(stack: Stack) -> NoReturn:
    """The numbers are finite, but their products are not."""
    refuse_non_finite([a for a in stack.operands if a is not None], stack.site)


def ties(matrices: Sequence[Small], density: float) -> Array:
    """TIES of matrices that are held whole: trimmed, signs elected, the mean of those that agree.

    Rounding errors are zeros, which have no sign and no part in a mean.
    """
    least = [_least_kept(small, density) for small in matrices]
    merged = np.empty_like(matrices[0].matrix)
    for start, stop in row_blocks(merged.shape):
        kept = [
            trimmed(small.matrix[start:stop].copy(), size)
            for small, size in zip(matrices, least, strict=True)
        ]
        merged[start:stop] = elected(kept, "total", "mean")
    return merged


def _least_kept(small: Small, density: float) -> float:
    """The size of the smallest entry among the share `density` of the largest."""
    if not small.matrix.size:
        return 0.0
    place = small.matrix.size - kept_count(density, small.matrix.size)
    found = np.partition(np.abs(small.matrix), place, axis=None)[place]
    return max(float(found), small.rounding)


def ties_of_vectors(vectors: Sequence[FullDelta], density: float) -> FullDelta:
    """The same of vectors, each as one row."""
    merged = ties([Small(vector.delta_weight().reshape(1, -1), 0.0) for vector in vectors], density)
    return FullDelta(vectors[0].shape, ((1.0, Stored.of(merged.reshape(vectors[0].shape))),))


def lora_only(stack: Stack, method: str, reason: str) -> PemathError | None:
    """What is wrong where values are no LoRAs, or do not fit."""
    if all(isinstance(value, Lora) for value in stack.values):
        return fitting(stack)
    return KindMismatch(
        f"`{method}` is for LoRAs: {reason}",
        where=f"site `{display(stack.site)}`",
        hint="use `exact` or `mean`, or a method that works on entries or whole vectors",
    )


def matrices_only(stack: Stack, method: str) -> PemathError | None:
    """What is wrong where values are neither LoRAs nor full deltas, or do not fit."""
    if all(isinstance(value, Lora | FullDelta) for value in stack.values):
        return fitting(stack)
    return KindMismatch(
        f"`{method}` merges matrices by their singular vectors, and a vector has none",
        where=f"site `{display(stack.site)}`",
        hint="use `exact` or `mean`, or a method that works on entries or whole vectors",
    )
