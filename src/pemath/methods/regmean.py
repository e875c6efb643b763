"""The weights that come closest to what every operand computes on its own data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from pemath.errors import LayoutError, PemathError, RequestError, StatisticsNeeded
from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Stack, method
from pemath.methods.exact import exact
from pemath.names import listing

# What a Gram matrix loses off the diagonal at least: its numbers come from float32, and where inputs
# do not fill all directions, more would let rounding errors decide.
_PLAIN = 1 - 1e-5
# The share of the mean square that is added to every diagonal. Features that are always zero get the
# weighted mean.
_RIDGE = 1e-10
_BLOCK = 128


def _all_or_none(stack: Stack) -> PemathError | None:
    """What is wrong where some operands have a Gram matrix and others have none."""
    without = [n for n, k in zip(stack.names, stack.statistics, strict=True) if not k.has_gram()]
    if len(without) in (0, len(stack.names)):
        return None
    return StatisticsNeeded(
        f"the statistics of {listing(without)} lack a Gram matrix that those of others have",
        where=f"site `{stack.site}`",
        hint="measure all operands in the same way",
    )


@method(
    space="factor",
    source="Jin et al. 2023 (arXiv 2212.09849), section 3; the code is our own",
    check=_all_or_none,
    needs="gram",
)
def regmean(stack: Stack, *, off_diagonal: float = 0.9) -> Any:
    """Regression mean: Δ = ΣwΔG (ΣwG)⁻¹ with the Gram matrices G of each operand's inputs.

    It is the Δ that differs least from every operand on that operand's own inputs; with equal G it
    is the weighted sum. LoRA's A becomes AG(ΣwG)⁻¹: nothing is lost. `off_diagonal` shrinks G
    towards its diagonal, as the authors do; 1 is the plain regression. An (IA)³ vector is
    weighted by the mean squares of what it scales. Embeddings, convolutions, experts, and the
    vectors of full deltas get the weighted sum.
    """
    if not 0 <= off_diagonal <= 1:
        raise RequestError("`off_diagonal` must be between 0 and 1", found=off_diagonal)
    total = sum(abs(weight) for weight in stack.weights)
    if len(stack.values) == 1 or total == 0 or not stack.statistics[0].has_gram():
        return exact(stack)
    first = stack.values[0]
    grams = [_shrunk(known.gram(), off_diagonal) for known in stack.statistics]
    shares = [abs(weight) / total for weight in stack.weights]

    def regressed(rows: list[Array]) -> list[Array]:
        try:
            return _regressed(rows, grams, shares, split=isinstance(first, Lora))
        except np.linalg.LinAlgError:
            raise LayoutError(
                "the statistics are no Gram matrices: these are positive definite",
                where=f"site `{stack.site}` of {listing(list(stack.names))}",
            ) from None

    if isinstance(first, Lora):
        parts = [value.blocks[0].joined() for value in stack.values]
        rows = regressed([part.a.widen() for part in parts])
        merged = tuple(
            Part(Stored.of(a), part.b, weight * part.scale)
            for a, part, weight in zip(rows, parts, stack.weights, strict=True)
        )
        block = LowRank(first.blocks[0].shape, merged)
        return Lora(first.geometry, (block,), exact(stack).bias)
    terms = [value * weight for value, weight in zip(stack.values, stack.weights, strict=True)]
    if isinstance(first, Ia3):
        (deviation,) = regressed([term.deviation() for term in terms])
        vector = (1.0 + deviation).reshape(first.shape)
        return Ia3(first.side, first.shape, ((1.0, Stored.of(vector)),))
    (delta,) = regressed([term.delta_weight() for term in terms])
    return FullDelta(first.shape, ((1.0, Stored.of(delta)),))


def _shrunk(gram: Array, off_diagonal: float) -> Array:
    if gram.ndim == 1:
        return gram
    diagonal = np.diagonal(gram).copy()
    gram *= min(off_diagonal, _PLAIN)
    np.fill_diagonal(gram, diagonal)
    return gram


def _regressed(
    rows: Sequence[Array], grams: Sequence[Array], shares: Sequence[float], *, split: bool
) -> list[Array]:
    """Each operand's rows times its G (ΣwG)⁻¹, where the shares w sum to one; else their sum.

    A Gram matrix of one dimension is a diagonal. Raises LinAlgError where ΣwG is not positive
    definite.
    """
    whole = reduce(add, (share * gram for share, gram in zip(shares, grams, strict=True)))
    diagonal = whole if whole.ndim == 1 else np.diagonal(whole)
    ridge = _RIDGE * float(diagonal.mean()) or 1.0
    if whole.ndim == 1:
        weighted = [row * (gram + ridge) for row, gram in zip(rows, grams, strict=True)]
        return [reduce(add, weighted) / (whole + ridge)]
    weighted = [row @ gram + ridge * row for row, gram in zip(rows, grams, strict=True)]
    whole.flat[:: len(whole) + 1] += ridge
    if not split:
        return [_solved(whole, reduce(add, weighted).T).T]
    solved = _solved(whole, np.concatenate(weighted).T).T
    return np.split(solved, np.cumsum([len(row) for row in rows])[:-1])


def _solved(matrix: Array, columns: Array) -> Array:
    """matrix⁻¹ columns for a positive definite matrix, by Cholesky: a third of what solving it as
    any matrix costs. numpy has no triangular solver, so the substitution goes by blocks.
    """
    lower = np.linalg.cholesky(matrix)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(lower), _BLOCK)]
    found = columns.copy()
    for block in blocks:
        found[block] -= lower[block, : block.start] @ found[: block.start]
        found[block] = np.linalg.solve(lower[block, block], found[block])
    for block in reversed(blocks):
        found[block] -= lower[block.stop :, block].T @ found[block.stop :]
        found[block] = np.linalg.solve(lower[block, block].T, found[block])
    return found
