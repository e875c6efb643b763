"""The sum of deltas with all singular values alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pemath.errors import PemathError
from pemath.formats.floats import Array
from pemath.lowrank import LowRank
from pemath.methods._core import Factors, Small, core_of, dense, isometry
from pemath.methods._entrywise import check_choice, check_share
from pemath.methods._matrices import by_matrix, matrices_only
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import operand_count
from pemath.methods.exact import exact
from pemath.methods.tsv import averaged


def _matrices(stack: Stack) -> PemathError | None:
    return matrices_only(stack, "iso")


@method(
    space="core",
    source="Marczak et al. 2025 (arXiv 2502.04959), Iso-C and Iso-CTS, as in the authors' code",
    check=_matrices,
)
def iso(stack: Stack, *, variant: str = "c", common: float = 0.8) -> Any:
    """Isotropic merging: σ̄ U Vᵀ, all singular values of the sum ΣwᵢΔᵢ replaced by their mean.

    `variant` "c" does that with the singular vectors U, V of the sum. "cts" keeps only the leading
    ones, the share `common` of all k, and takes the others from each operand in equal numbers: the
    leading singular vectors of Δ − U Uᵀ Δ, with the kept U; U and V are made orthonormal then (as in
    `tsv`), and σ̄ is the mean over all. k is the rank that the operands span together, and singular
    values of zero do not count: the authors take min(out, in) for full matrices, where it is the
    same, but for LoRAs it would fill up with arbitrary directions. Vectors are averaged.
    """
    check_choice("variant", variant, ("c", "cts"))
    check_share("common", common, zero=True)
    count = operand_count(stack)
    if count == 1:
        return exact(stack)

    def merged(matrices: list[Small]) -> Factors:
        return _flat(matrices) if variant == "c" else _with_own(matrices, common, count)

    def of_products(blocks: list[LowRank]) -> LowRank:
        core = core_of(blocks)
        return core.lifted(merged(core.matrices))

    def of_matrices(deltas: list[Array]) -> Array:
        b, a = merged(dense(deltas))
        return b @ a

    return by_matrix(stack, of_products, of_matrices, lambda vectors: averaged(vectors, count))


def _sum(matrices: Sequence[Small]) -> Small:
    return Small(
        np.sum([small.matrix for small in matrices], axis=0),
        sum(small.rounding for small in matrices),
    )


def _flat(matrices: Sequence[Small]) -> Factors:
    left, values, right = _sum(matrices).singular()
    mean = float(values.mean()) if len(values) else 0.0
    return mean * left, right


def _with_own(matrices: Sequence[Small], share: float, count: int) -> Factors:
    """Iso-CTS: common directions, and those of each matrix outside of them.

    The size to fill is the rank of all columns together, or of all rows, whichever is less.
    """
    side_by_side = [np.concatenate([m.matrix for m in matrices], axis=axis) for axis in (0, 1)]
    rounding = sum(small.rounding for small in matrices)
    size = min(len(Small(joined, rounding).singular()[1]) for joined in side_by_side)
    each = min(round((size - int(size * share)) / count), size // count)
    kept = size - each * count
    left, values, right = _sum(matrices).singular()
    left, values, right = left[:, :kept], values[:kept], right[:kept]
    found = [(left, values, right)]
    for small in matrices:
        outside = Small(small.matrix - left @ (left.T @ small.matrix), small.rounding)
        u, s, v = outside.singular()
        found.append((u[:, :each], s[:each], v[:each]))
    spectrum = np.concatenate([s for _, s, _ in found])
    mean = float(spectrum.mean()) if len(spectrum) else 0.0
    columns = isometry(np.concatenate([u for u, _, _ in found], axis=1))
    rows = isometry(np.concatenate([v for _, _, v in found]).T)
    return mean * columns, rows.T
