"""Sums of low-rank products, computed from their factors.

A `LowRank` is sum_i scale_i B_i A_i, kept as its parts: adding concatenates, scaling multiplies a
number, and no factor is read before it is needed. Norms, inner products and truncation use Gram
matrices of size rank × rank in float64, or a QR factorisation where the Gram matrix would lose
digits. Nothing here ever has the size out × in, except `dense`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.formats.floats import Array, Stored, stack

Mask = NDArray[np.bool_]

# Working sets of about this many float64 values stay in a core's cache.
_CHUNK_VALUES = 1 << 18
# Below this distance of a factor row from the span of the others (relative to its length), the
# Gram matrix has too few digits left and QR takes over. eps / distance**2 is the error then.
_GRAM_DISTANCE = 1e-3
# A sum this much smaller than its terms is measured by QR: the Gram error is eps * ratio**2.
_GRAM_CANCELLATION = 30.0
# A squared difference below this share of the squared norms has lost half of its digits.
_SAFE_SHARE = 1e-8
# The same where float32 products are good enough.
_QUICK_SHARE = 0.05
# Directions that together weigh less than this, relative to the whole, count as redundant: half
# the roundoff of float32.
LOSSLESS = 3e-8


@dataclass(frozen=True, eq=False)
class Part:
    """One product scale * B A with A [rank, in] and B [out, rank]."""

    a: Stored
    b: Stored
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class LowRank:
    """The sum of `parts`, as a matrix of `shape` (out, in). The empty sum is zero."""

    shape: tuple[int, int]
    parts: tuple[Part, ...] = ()

    @property
    def rank(self) -> int:
        """Sum of the parts' ranks: an upper bound of the matrix's rank."""
        return sum(part.rank for part in self.parts)

    def __add__(self, other: LowRank) -> LowRank:
        if self.shape != other.shape:
            raise ValueError(f"shapes differ: {self.shape} and {other.shape}")
        return LowRank(self.shape, self.parts + other.parts)

    def __mul__(self, factor: float) -> LowRank:
        if factor == 0:
            return LowRank(self.shape)
        parts = tuple(Part(part.a, part.b, part.scale * factor) for part in self.parts)
        return LowRank(self.shape, parts)

    def __neg__(self) -> LowRank:
        return self * -1.0

    def a(self) -> Array:
        """All A stacked, [rank, in]."""
        return np.concatenate([np.empty((0, self.shape[1]))] + [p.a.widen() for p in self.parts])

    def b(self) -> Array:
        """All scale * B side by side, [out, rank]."""
        columns = [part.b.widen() * part.scale for part in self.parts]
        return np.concatenate([np.empty((self.shape[0], 0)), *columns], axis=1)

    def joined(self) -> Part:
        """The same matrix as one part; itself if it is one."""
        return (
            self.parts[0]
            if len(self.parts) == 1
            else Part(Stored.of(self.a()), Stored.of(self.b()))
        )

    def dense(self) -> Array:
        """The matrix itself, [out, in] in float64."""
        return self.b() @ self.a()

    def simplified(self) -> LowRank:
        """The same matrix with parts of one A merged into one part (their scaled B added).

        A new object always, so that Gram matrices are kept no longer than it.
        """
        groups: list[list[Part]] = []
        for part in self.parts:
            for group in groups:
                if _same(group[0].a, part.a):
                    group.append(part)
                    break
            else:
                groups.append([part])
        return LowRank(self.shape, tuple(_merged(group) for group in groups))

    @cached_property
    def grams(self) -> Grams:
        """Gram matrices of the stacked factors, without the scales, in float64."""
        return self._grams(np.float64)

    @cached_property
    def quick_grams(self) -> Grams | None:
        """The same from float32 products, to about 1e-6 of its diagonal, at half the cost.

        None where float32 could not hold the factors or their squares.
        """
        if any(stored.kind.code == "F64" for part in self.parts for stored in (part.a, part.b)):
            return None
        grams = self._grams(np.float32)
        return grams if grams.is_ample() else None

    def norm(self) -> float:
        """Frobenius norm, also where the parts nearly cancel: to about 1e-6 of its value, and to
        1e-12 for float64 factors. NaN if a factor is not finite.
        """
        quick = None if "grams" in self.__dict__ else self.quick_grams
        if quick is not None:
            weighted = quick.weighted()
            squared = float(weighted.sum())
            if squared > _QUICK_SHARE * float(np.trace(weighted)):
                return math.sqrt(squared)
        return self.norm_in_float64()

    def distance(self, other: LowRank) -> float:
        """Frobenius norm of the difference, as accurate as `norm` where it is small too."""
        return self.gap(other)[0]

    def gap(self, exact: LowRank) -> tuple[float, float]:
        """The distance to `exact`, and the norm of `exact`, measured together.

        Where both have the same A (the objects), the B are subtracted first; where they have the
        same B too, nothing is read and the norm is NaN.
        """
        pairs = list(zip(self.parts, exact.parts, strict=False))
        if len(self.parts) == len(exact.parts) and all(x.a is y.a for x, y in pairs):
            if all(x.b is y.b and x.scale == y.scale for x, y in pairs):
                return 0.0, math.nan
            residual = _gram(
                self.shape[0], self.rank, lambda start, stop: self._residual(exact, start, stop)
            )
            gram_a = (exact.quick_grams or exact.grams).a
            return math.sqrt(max(float((residual * gram_a).sum()), 0.0)), exact.norm()
        both = self + -exact
        if "grams" in exact.__dict__:
            squared = float(self.grams.weighted().sum() + exact.grams.weighted().sum())
            difference = squared - 2 * inner(self, exact)
            terms, norm = self.terms() + exact.terms(), exact.norm_in_float64()
        else:
            weighted = both.grams.weighted()
            own = weighted[self.rank :, self.rank :]
            difference, terms, squared = float(weighted.sum()), both.terms(), float(own.sum())
            safe = squared * _GRAM_CANCELLATION**2 > float(np.trace(own))
            norm = math.sqrt(squared) if safe else exact.norm_in_float64()
        if difference > _SAFE_SHARE * terms:
            return math.sqrt(difference), norm
        return both.simplified().norm_in_float64(), norm

    def norm_in_float64(self) -> float:
        """Frobenius norm to about 1e-12 of its value, whatever the factors' type."""
        weighted = self.grams.weighted()
        squared = float(weighted.sum())
        if not math.isfinite(squared):
            return math.nan
        largest = float(np.trace(weighted))
        if squared * _GRAM_CANCELLATION**2 > largest or largest == 0.0:
            return math.sqrt(max(squared, 0.0))
        norm = float(np.linalg.norm(self._core_by_qr()[0]))
        return norm if norm > self.rounding() else 0.0

    def terms(self) -> float:
        """Sum of the squared norms of the rank-one terms: what there was before anything cancels."""
        return float(np.trace(self.grams.weighted()))

    def rounding(self) -> float:
        """What float64 leaves of terms that cancel: nothing this small is known."""
        return 4 * self.rank * 2.0**-52 * math.sqrt(self.terms())

    def _grams(self, dtype: type[np.floating[Any]]) -> Grams:
        return Grams(
            _gram(self.shape[1], self.rank, lambda i, j: self.columns_of_a(i, j, dtype)),
            _gram(self.shape[0], self.rank, lambda i, j: self.rows_of_b(i, j, dtype)),
            self.term_scales(),
        )

    def decomposed(self) -> Decomposition:
        """The singular value decomposition, from the factors."""
        usable = self.grams.usable() if self.parts else np.zeros(0, dtype=bool)
        if not usable.any():
            return Decomposition(np.empty(0), lambda _: np.empty((self.shape[0], 0)),
                                 lambda _: np.empty((0, self.shape[1])))  # fmt: skip
        distance, factors = self.grams.cholesky(usable)
        if factors is not None and distance > _GRAM_DISTANCE:
            return self._decomposed_by_gram(usable, factors)
        return self._decomposed_by_qr()

    def is_redundant(self) -> bool:
        """Whether some factor row lies (almost) in the span of the others, or is zero."""
        if self.rank == 0 or self.rank > min(self.shape):
            return self.rank > 0
        usable = self.grams.usable()
        if not usable.all():
            return True
        return self.grams.independence() < _GRAM_DISTANCE**2

    def _decomposed_by_gram(self, usable: Mask, factors: tuple[Array, Array]) -> Decomposition:
        lower_a, lower_b = factors
        scale_a, scale_b = self.grams.lengths()
        scales = self.grams.scales[usable]
        scale_a, scale_b = scale_a[usable], scale_b[usable]
        core = lower_b.T @ ((scale_b * scales * scale_a)[:, None] * lower_a)
        left, values, right = svd(core)

        def factor_b(rank: int) -> Array:
            mix = np.zeros((self.rank, rank))
            root = left[:, :rank] * np.sqrt(values[:rank])
            mix[usable] = np.linalg.solve(lower_b.T, root) / scale_b[:, None]
            return _mixed(self.shape[0], mix, self.rows_of_b)

        def factor_a(rank: int) -> Array:
            mix = np.zeros((self.rank, rank))
            root = right[:rank].T * np.sqrt(values[:rank])
            mix[usable] = np.linalg.solve(lower_a.T, root) / scale_a[:, None]
            return np.ascontiguousarray(_mixed(self.shape[1], mix, self.columns_of_a).T)

        return Decomposition(values, factor_b, factor_a)

    def _decomposed_by_qr(self) -> Decomposition:
        core, basis_b, basis_a = self._core_by_qr()
        left, values, right = svd(core)
        values[values <= self.rounding()] = 0.0
        return Decomposition(
            values,
            lambda rank: basis_b @ (left[:, :rank] * np.sqrt(values[:rank])),
            lambda rank: (np.sqrt(values[:rank])[:, None] * right[:rank]) @ basis_a.T,
        )

    def _core_by_qr(self) -> tuple[Array, Array, Array]:
        """(R_b R_a^T, Q_b, Q_a) with B A = Q_b (R_b R_a^T) Q_a^T."""
        basis_b, upper_b = np.linalg.qr(self.b())
        basis_a, upper_a = np.linalg.qr(self.a().T)
        return upper_b @ upper_a.T, basis_b, basis_a

    def term_scales(self) -> Array:
        """The scale of each rank-one term, [rank]."""
        return np.repeat(
            np.array([p.scale for p in self.parts], dtype=np.float64),
            [p.rank for p in self.parts],
        )

    def rows_of_b(self, start: int, stop: int, dtype: type[Any] = np.float64) -> Array:
        """Rows start:stop of the stacked B, unscaled, [stop - start, rank]."""
        return stack([part.b[start:stop] for part in self.parts], 1, dtype)

    def columns_of_a(self, start: int, stop: int, dtype: type[Any] = np.float64) -> Array:
        """Columns start:stop of the stacked A, transposed to [stop - start, rank]."""
        return stack([part.a[:, start:stop] for part in self.parts], 0, dtype).T

    def _residual(self, other: LowRank, start: int, stop: int) -> Array:
        """Rows of scale * B, less those of `other`."""
        rows, others = self.rows_of_b(start, stop), other.rows_of_b(start, stop)
        for value, into in ((self, rows), (other, others)):
            scales = value.term_scales()
            if (scales != 1).any():
                np.multiply(into, scales, out=into)
        rows -= others
        return rows


@dataclass(frozen=True, eq=False)
class Grams:
    """A A^T and B^T B of a LowRank, each [rank, rank], and the scale of each rank-one term."""

    a: Array
    b: Array
    scales: Array

    def weighted(self) -> Array:
        """Inner products of the rank-one terms: their sum is the squared Frobenius norm."""
        return self.a * self.b * np.outer(self.scales, self.scales)

    def lengths(self) -> tuple[Array, Array]:
        """Lengths of the rows of A and of the columns of B."""
        return np.sqrt(np.diagonal(self.a)), np.sqrt(np.diagonal(self.b))

    def is_ample(self) -> bool:
        """Whether all squared lengths are far from where float32 underflows or overflows."""
        squares = np.concatenate([np.diagonal(self.a), np.diagonal(self.b)])
        return bool(((squares > 1e-25) & (squares < 1e30)).all())

    def usable(self) -> Mask:
        """Which rank-one terms are not zero."""
        length_a, length_b = self.lengths()
        usable: Mask = (length_a > 0) & (length_b > 0) & (self.scales != 0)
        return usable

    def independence(self) -> float:
        """The smallest singular value of either factor, its rows scaled to length one. Unlike a
        pivot it is small for every singular matrix.
        """
        smallest = min(
            float(np.linalg.eigvalsh(gram / np.outer(unit, unit))[0])
            for gram, unit in zip((self.a, self.b), self.lengths(), strict=True)
        )
        return math.sqrt(max(smallest, 0.0))

    def cholesky(self, usable: Mask) -> tuple[float, tuple[Array, Array] | None]:
        """Cholesky factors of the Gram matrices with rows scaled to length one.

        The smallest diagonal element is the distance of a row from the span of those before it;
        factors are None where a matrix is numerically singular.
        """
        pick = np.ix_(usable, usable)
        lowers: list[Array] = []
        for gram, length in zip((self.a, self.b), self.lengths(), strict=True):
            unit = length[usable]
            try:
                lower: Array = np.linalg.cholesky(gram[pick] / np.outer(unit, unit))  # type: ignore[assignment]
            except np.linalg.LinAlgError:
                return 0.0, None
            lowers.append(lower)
        distance = min(float(np.diagonal(lower).min()) for lower in lowers)
        return distance, (lowers[0], lowers[1])


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Singular values in descending order, and the factors of the best rank-r approximation.

    `factor_b(r)` is [out, r], `factor_a(r)` is [r, in]; the root of each singular value is on both.
    """

    values: Array
    factor_b: Callable[[int], Array]
    factor_a: Callable[[int], Array]

    def tail(self, rank: int) -> float:
        """Frobenius norm of what a truncation to `rank` leaves out."""
        return float(np.linalg.norm(self.values[rank:]))

    def rank_within(self, error: float) -> int:
        """The smallest rank whose relative Frobenius error is at most `error`."""
        total = float(np.linalg.norm(self.values))
        if total == 0.0:
            return 0
        tails = np.sqrt(np.cumsum(self.values[::-1] ** 2))[::-1]
        return int(np.count_nonzero(tails > error * total))


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Singular vectors and values, U [m, k], σ [k], Vᵀ [k, n]. Raises LinAlgError for what is not
    finite, on which LAPACK may iterate without end.
    """
    if not np.isfinite(matrix).all():
        raise np.linalg.LinAlgError("the numbers are too large")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def inner(x: LowRank, y: LowRank) -> float:
    """The inner product <x, y> = sum of elementwise products, from the factors."""
    if not x.parts or not y.parts:
        return 0.0
    cross_a = np.zeros((x.rank, y.rank))
    for start, stop in _chunks(x.shape[1], x.rank + y.rank):
        cross_a += x.columns_of_a(start, stop).T @ y.columns_of_a(start, stop)
    cross_b = np.zeros((x.rank, y.rank))
    for start, stop in _chunks(x.shape[0], x.rank + y.rank):
        cross_b += x.rows_of_b(start, stop).T @ y.rows_of_b(start, stop)
    return float(x.grams.scales @ (cross_a * cross_b) @ y.grams.scales)


def _chunks(length: int, rank: int) -> Iterator[tuple[int, int]]:
    step = max(64, _CHUNK_VALUES // max(rank, 1))
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _gram(length: int, rank: int, slab: Callable[[int, int], Array]) -> Array:
    total = np.zeros((rank, rank))
    if rank:
        for start, stop in _chunks(length, rank):
            rows = slab(start, stop)
            total += rows.T @ rows
    return total


def _mixed(length: int, mix: Array, slab: Callable[[int, int], Array]) -> Array:
    """The stacked rows times `mix` [rank, r], [length, r]."""
    result = np.empty((length, mix.shape[1]))
    for start, stop in _chunks(length, mix.shape[0]):
        np.matmul(slab(start, stop), mix, out=result[start:stop])
    return result


def _same(x: Stored, y: Stored) -> bool:
    if x is y:
        return True
    if x.kind is not y.kind or x.shape != y.shape or x.raw.size == 0:
        return False
    return bool(np.array_equal(x.raw[0], y.raw[0])) and bool(np.array_equal(x.raw, y.raw))


def _merged(group: Sequence[Part]) -> Part:
    if len(group) == 1:
        return group[0]
    total = group[0].b.widen() * group[0].scale
    for part in group[1:]:
        total += part.b.widen() * part.scale
    return Part(group[0].a, Stored.of(total))
