"""Deltas merged in the space of their common left singular vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pemath.errors import PemathError
from pemath.formats.floats import Array
from pemath.lowrank import LowRank, svd
from pemath.methods._core import Small, dense, product, rounding
from pemath.methods._entrywise import check_choice, check_share
from pemath.methods._matrices import by_matrix, matrices_only, ties, ties_of_vectors
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import operand_count
from pemath.methods.exact import exact


def _matrices(stack: Stack) -> PemathError | None:
    return matrices_only(stack, "knots")


@method(
    space="core",
    source="Stoica et al. 2025 (arXiv 2410.19735), KnOTS, as in the authors' task_merger.py",
    check=_matrices,
)
def knots(stack: Stack, *, inner: str = "ties", density: float = 0.2) -> Any:
    """KnOTS: U merge(S V₁, …, S V_T) with [w₁Δ₁ … w_TΔ_T] = U S [V₁ … V_T], from the factors.

    All deltas side by side have one singular value decomposition; in the basis U they are merged
    entry by entry. `inner` "ties" keeps the largest entries of each S Vᵢ, the share `density` of
    them, and takes the mean of those that have the sign of their sum; "linear" is the sum, the exact
    one. S stands with the V where entries are compared, as in all of the authors' configurations;
    the paper's equation merges the V alone, which trims others. The authors trim over all sites at
    once and keep one entry more; here each site is trimmed by itself. Rounding errors are no entries:
    in the authors' code they vote, and halve a mean where one operand is zero. Vectors and biases
    are merged entry by entry.
    """
    check_choice("inner", inner, ("ties", "linear"))
    check_share("density", density)
    if operand_count(stack) == 1 or inner == "linear":
        return exact(stack)

    def of_products(blocks: list[LowRank]) -> LowRank:
        factors = [(block.b(), block.a()) for block in blocks]
        basis = _common([b @ _triangle(a) for b, a in factors])
        sides = [Small((basis.T @ b) @ a, rounding(b, a)) for b, a in factors]
        return product(basis, ties(sides, density))

    def of_matrices(deltas: list[Array]) -> Array:
        basis = _common([_triangle(delta) for delta in deltas])
        sides = [Small(basis.T @ small.matrix, small.rounding) for small in dense(deltas)]
        merged: Array = basis @ ties(sides, density)
        return merged

    return by_matrix(stack, of_products, of_matrices, lambda v: ties_of_vectors(v, density))


def _triangle(rows: Array) -> Array:
    """L with rows = L Qᵀ, the columns of Q orthonormal."""
    return np.asarray(np.linalg.qr(rows.T, mode="r")).T


def _common(sides: Sequence[Array]) -> Array:
    """The left singular vectors of all matrices side by side, but for those of rounding errors."""
    basis, upper = np.linalg.qr(np.concatenate(sides, axis=1))
    left, values, _ = svd(upper)
    floor = len(basis) * 2.0**-52 * values.max(initial=0.0)
    return np.asarray(basis @ left[:, values > floor])
