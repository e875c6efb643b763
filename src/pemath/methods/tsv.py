"""The leading singular vectors of every delta, made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from pemath.errors import PemathError, RequestError
from pemath.formats.floats import Array
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.methods._core import Factors, Small, core_of, dense, isometry
from pemath.methods._matrices import by_matrix, matrices_only
from pemath.methods._registry import Operands, Stack, method
from pemath.methods._subtraction import operand_count
from pemath.methods.exact import exact


def _matrices(stack: Stack) -> PemathError | None:
    return matrices_only(stack, "tsv")


def _kept_rank(
    ranks: Sequence[int], operands: Operands, rank: int | None = None, **options: Any
) -> int:
    return min(rank or sum(ranks), sum(ranks))


@method(
    space="core",
    source="Gargiulo et al. 2025 (arXiv 2412.00081), TSV-Merge, as in the authors' TSVM_utils.py",
    check=_matrices,
    rank=_kept_rank,
)
def tsv(stack: Stack, *, rank: int | None = None) -> Any:
    """TSV-Merge: Ũ diag(s) Ṽᵀ of the leading singular vectors of all wᵢΔᵢ, made orthonormal.

    Of T operands each gives its k/T largest singular values and their vectors; all these side by
    side, U and V, are replaced by the nearest orthonormal ones (Procrustes), so that no task's
    directions reach into another's. k is `rank`, by default min(out, in) as in the authors' code;
    then LoRAs of a rank up to k/T lose nothing. A singular value of zero has no direction: the
    authors' code takes such vectors in, for LoRAs most of the k, so that its result depends on how
    rounding errors lie; in core spaces, and for full matrices, it is the same as here. Directions
    that operands share count once: equal operands give the operand. Vectors are averaged, as by the
    authors. Computed from the factors, with the same result as from the matrices.
    """
    count, first = operand_count(stack), stack.values[0]
    groups = first.geometry.site_rank(1) if isinstance(first, Lora) else 1
    if rank is not None and rank < count * groups:
        raise RequestError(
            "`rank` leaves nothing to some operand: each keeps its share of it",
            found=rank,
            expected=f"{count * groups} or more",
        )
    if count == 1 and rank is None:
        return exact(stack)

    def each(shape: tuple[int, ...]) -> int:
        size = min(shape) if rank is None else min(rank // groups, *shape)
        return max(1, size // count)

    def of_products(blocks: list[LowRank]) -> LowRank:
        core = core_of(blocks)
        return core.lifted(orthogonalized(core.matrices, each(blocks[0].shape)))

    def of_matrices(deltas: list[Array]) -> Array:
        b, a = orthogonalized(dense(deltas), each(deltas[0].shape))
        return b @ a

    return by_matrix(stack, of_products, of_matrices, lambda vectors: averaged(vectors, count))


def orthogonalized(matrices: Sequence[Small], each: int) -> Factors:
    """Factors of Ũ diag(s) Ṽᵀ, with the `each` leading singular vectors of every matrix."""
    found = [matrix.singular() for matrix in matrices]
    left = isometry(np.concatenate([u[:, :each] for u, _, _ in found], axis=1))
    values = np.concatenate([s[:each] for _, s, _ in found])
    right = isometry(np.concatenate([v[:each] for _, _, v in found]).T)
    return left * values, right.T


def averaged(vectors: Sequence[FullDelta], count: int) -> FullDelta:
    """The sum of vectors over the number of operands."""
    total: FullDelta = reduce(add, vectors) * (1 / count)
    return total
