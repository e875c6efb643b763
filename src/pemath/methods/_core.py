"""Matrices merged in the space that their factors span, where every matrix is small.

The deltas of LoRAs are written in orthonormal bases of all their columns and all their rows: there
each is a matrix of size Σr at most, and what does not depend on the choice of bases (sums, singular
values and vectors) is computed on those. Nothing of size out × in is made of a LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pemath.formats import floats
from pemath.formats.floats import Array, Stored
from pemath.lowrank import LowRank, Part, svd

# What float64 leaves of a singular value that is zero, relative to the terms that it comes from.
_ROUNDING = 2.0**-46
# Unit vectors this close to dependent count as dependent: float32 factors know no better.
_SAME = 1e-6

Factors = tuple[Array, Array]
"""Columns [k, n] and rows [n, l] of a product [k, l]."""


@dataclass(frozen=True, eq=False)
class Small:
    """A matrix [k, l] in which what is smaller than `rounding`, a singular value or an entry, is zero."""

    matrix: Array
    rounding: float

    def singular(self) -> tuple[Array, Array, Array]:
        """Singular vectors and values [k, n], [n], [n, l], without those that are zero."""
        left, values, right = svd(self.matrix)
        count = int(np.count_nonzero(values > self.rounding))
        return left[:, :count], values[:count], right[:count]


@dataclass(frozen=True, eq=False)
class Core:
    """Matrices Q_B Mᵢ Q_Aᵀ: orthonormal bases of all columns, [out, k], and of all rows, [in, l],
    and each Mᵢ [k, l].
    """

    columns: Array
    rows: Array
    matrices: list[Small]

    def lifted(self, factors: Factors) -> LowRank:
        """Q_B (product of the factors) Q_Aᵀ."""
        b, a = factors
        return product(self.columns @ b, a @ self.rows.T)


def core_of(blocks: Sequence[LowRank], *, aligned: bool = False) -> Core:
    """The blocks in common bases. Rank-one terms that are zero are left out.

    `aligned` takes the singular vectors of all B side by side and of all A stacked for bases, by
    descending singular value; else they are any. Scales are no part of the bases.
    """
    units = [_units(block) for block in blocks]
    columns = _basis(np.concatenate([b for b, _, _ in units], axis=1), aligned=aligned)
    rows = _basis(np.concatenate([a for _, a, _ in units]).T, aligned=aligned)
    matrices = []
    for b, a, scale in units:
        # Each by itself, so that opposite blocks have opposite matrices to the last bit.
        upper_b, upper_a = columns.T @ b * scale, a @ rows
        matrices.append(Small(upper_b @ upper_a, rounding(upper_b, upper_a)))
    return Core(columns, rows, matrices)


def rounding(b: Array, a: Array) -> float:
    """What float64 may leave in b a where there is nothing."""
    return _ROUNDING * float(np.linalg.norm(b, axis=0) @ np.linalg.norm(a, axis=1))


def _units(block: LowRank) -> tuple[Array, Array, Array]:
    """B [out, r], A [r, in] and scales [r] of the rank-one terms that are not zero."""
    if not block.parts:
        return np.empty((block.shape[0], 0)), np.empty((0, block.shape[1])), np.empty(0)
    b = floats.stack([part.b for part in block.parts], 1, np.float64)
    a = floats.stack([part.a for part in block.parts], 0, np.float64)
    scale = block.term_scales()
    kept = b.any(axis=0) & a.any(axis=1) & (scale != 0)
    return (b, a, scale) if kept.all() else (b[:, kept], a[kept], scale[kept])


def terms(block: LowRank) -> tuple[Array, Array]:
    """A [r, in] and B [out, r], scales included, of the rank-one terms that are not zero."""
    b, a, scale = _units(block)
    return a, b * scale


def _basis(vectors: Array, *, aligned: bool) -> Array:
    """Orthonormal columns [n, k] that span the vectors [n, r]."""
    basis, upper = np.linalg.qr(vectors)
    return basis @ svd(upper)[0] if aligned else basis


def product(b: Array, a: Array) -> LowRank:
    """b a, the length of each term on both factors alike: small numbers are safe in float16 too."""
    lengths = np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1)
    kept = (lengths[0] > 0) & (lengths[1] > 0)
    if not kept.any():
        return LowRank((b.shape[0], a.shape[1]))
    ratio = np.sqrt(lengths[1][kept] / lengths[0][kept])
    part = Part(Stored.of(a[kept] / ratio[:, None]), Stored.of(b[:, kept] * ratio))
    return LowRank((b.shape[0], a.shape[1]), (part,))


def isometry(columns: Array) -> Array:
    """The nearest matrix with orthonormal columns: U Vᵀ of the singular value decomposition
    (the orthogonal Procrustes problem). Of dependent columns, the nearest partial isometry.
    """
    left, values, right = svd(columns)
    count = int(np.count_nonzero(values > _SAME))
    return np.asarray(left[:, :count] @ right[:count])


def dense(matrices: Sequence[Array]) -> list[Small]:
    """Whole matrices, each with what rounding makes of a singular value of zero."""
    return [Small(m, max(m.shape) * 2.0**-52 * float(np.linalg.norm(m))) for m in matrices]
