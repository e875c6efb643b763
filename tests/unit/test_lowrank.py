"""The low-rank kernels against dense arithmetic, on the operands that break them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pemath.formats.floats import FLOAT_TYPES, Array, FloatType, Stored, narrow
from pemath.lowrank import LOSSLESS, LowRank, Part, inner

EPS = 2.0**-52


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def product(*terms: tuple[Array, Array] | tuple[Array, Array, float]) -> LowRank:
    """The sum of scale * B A, given as (B, A) or (B, A, scale)."""
    parts = [Part(Stored.of(a), Stored.of(b), *scale) for b, a, *scale in terms]
    return LowRank((terms[0][0].shape[0], terms[0][1].shape[1]), tuple(parts))


def precise(value: LowRank) -> np.ndarray[tuple[int, ...], np.dtype[np.longdouble]]:
    """The dense matrix with more digits than float64 has."""
    total = np.zeros(value.shape, np.longdouble)
    for part in value.parts:
        b, a = part.b.widen().astype(np.longdouble), part.a.widen().astype(np.longdouble)
        total += np.longdouble(part.scale) * (b @ a)
    return total


def norm_of(matrix: np.ndarray) -> float:
    return float(np.sqrt((matrix.astype(np.longdouble) ** 2).sum()))


def kahan(n: int, s: float) -> Array:
    """Kahan's matrix, its rows of length one: each is far from the span of those before it, and yet
    the matrix is almost singular."""
    c = math.sqrt(1 - s * s)
    upper = np.diag(s ** np.arange(n)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    return upper.T / np.linalg.norm(upper.T, axis=1, keepdims=True)


def test_what_overflows_is_not_decomposed() -> None:
    """LAPACK may iterate without end on infinities."""
    large = product((random(6, 2) * 1e200, random(2, 5) * 1e200))
    with np.errstate(all="ignore"), pytest.raises(np.linalg.LinAlgError):
        large.decomposed()


# --------------------------------------------------------------------------------- arithmetic


def test_sum_and_scale_keep_parts() -> None:
    x, y = product((random(4, 2), random(2, 3))), product((random(4, 5), random(5, 3), -2.0))
    total = (x + y) * 0.5
    assert total.rank == 7
    assert [part.scale for part in total.parts] == [0.5, -1.0]
    assert total.parts[0].a is x.parts[0].a
    np.testing.assert_allclose(total.dense(), 0.5 * x.dense() + 0.5 * y.dense(), atol=1e-14)
    np.testing.assert_array_equal((-x).dense(), -x.dense())
    assert (x * 0.0).parts == ()


def test_the_empty_sum_is_zero() -> None:
    zero = LowRank((3, 4))
    other = product((random(3, 2), random(2, 4)))
    assert zero.rank == 0
    assert zero.norm() == 0.0
    assert not zero.dense().any()
    assert zero.dense().shape == (3, 4)
    assert zero.a().shape == (0, 4)
    assert zero.b().shape == (3, 0)
    assert zero.simplified().parts == ()
    assert (zero + other).norm() == other.norm()
    assert inner(zero, other) == inner(other, zero) == 0.0
    assert zero.distance(other) == pytest.approx(other.norm())
    assert other.distance(zero) == pytest.approx(other.norm())
    found = zero.decomposed()
    assert found.values.shape == (0,)
    assert found.factor_b(0).shape == (3, 0)
    assert found.factor_a(0).shape == (0, 4)
    assert found.rank_within(0.1) == 0
    assert found.tail(0) == 0.0


def test_redundancy_of_the_empty_sum_can_be_asked() -> None:
    LowRank((3, 4)).is_redundant()


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        LowRank((3, 4)) + LowRank((4, 3))


# --------------------------------------------------------------------------------- simplified


def test_parts_with_one_a_are_merged() -> None:
    a, b = random(2, 5), random(3, 4, 2)
    shared, copied = Stored.of(a), Stored.of(a.copy())
    parts = (
        Part(shared, Stored.of(b[0]), 2.0),
        Part(Stored.of(random(2, 5, seed=1)), Stored.of(b[1])),
        Part(copied, Stored.of(b[2]), -1.0),
    )
    value = LowRank((4, 5), parts)
    merged = value.simplified()
    assert [part.rank for part in merged.parts] == [2, 2]
    np.testing.assert_allclose(merged.dense(), value.dense(), atol=1e-14)
    assert len(merged.simplified().parts) == 2


def test_equal_bits_of_another_type_are_not_the_same_a() -> None:
    raw = np.arange(8, dtype=np.uint16).reshape(2, 4) + 0x3F80
    b = Stored.of(random(3, 2))
    half, bfloat = (
        Stored(raw.view(kind.carrier), kind) for kind in (FLOAT_TYPES["F16"], FLOAT_TYPES["BF16"])
    )
    value = LowRank((3, 4), (Part(half, b), Part(bfloat, b)))
    assert len(value.simplified().parts) == 2


def test_parts_that_differ_only_in_the_last_value_are_kept_apart() -> None:
    a = random(3, 5)
    other = a.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], 9)
    value = product((random(4, 3), a), (random(4, 3), other))
    assert len(value.simplified().parts) == 2


# ------------------------------------------------------------------- norm, inner product, distance


@pytest.mark.parametrize("kind", FLOAT_TYPES.values(), ids=lambda kind: kind.name)
def test_norm_in_every_type(kind: FloatType) -> None:
    a, b = (Stored(narrow(random(*s), kind), kind) for s in ((3, 7), (5, 3)))
    value = LowRank((5, 7), (Part(a, b, -0.3),))
    close = 1e-13 if kind is FLOAT_TYPES["F64"] else 1e-6
    assert value.norm() == pytest.approx(norm_of(value.dense()), rel=close)


@pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
def test_norm_of_nearly_cancelling_parts(step: float) -> None:
    b, a = random(30, 4), random(4, 20)
    value = product((b, a), (b, a + step * random(4, 20, seed=1), -1.0))
    terms = 2 * norm_of(b) * norm_of(a)
    assert value.norm() == pytest.approx(norm_of(precise(value)), rel=1e-10, abs=4 * EPS * terms)


@pytest.mark.parametrize(
    "other",
    [
        lambda b, a: (b, a, -1.0),
        lambda b, a: (-b, a),
        lambda b, a: (b, -a),
        lambda b, a: (b / 2, a * 2, -1.0),
        lambda b, a: (b[:, ::-1], a[::-1], -1.0),
    ],
    ids=["scale", "B", "A", "halved", "permuted"],
)
def test_parts_that_cancel_leave_at_most_rounding(other: object) -> None:
    b, a = random(30, 4), random(4, 20)
    value = product((b, a), other(b, a))  # type: ignore[operator]
    rounding = 50 * EPS * norm_of(b) * norm_of(a)
    assert value.norm() <= rounding
    assert value.decomposed().tail(0) <= rounding


def test_long_factors_are_read_in_chunks() -> None:
    b, a = random(70_001, 5), random(5, 90_001)
    other = random(70_001, 5, seed=1)
    value = product((b, a), (other, a, 0.5))
    gram_b, gram_a = (b + 0.5 * other).T @ (b + 0.5 * other), a @ a.T
    assert value.norm() == pytest.approx(math.sqrt(float((gram_b * gram_a).sum())), rel=1e-12)
    found = value.decomposed()
    assert found.tail(0) == pytest.approx(value.norm(), rel=1e-12)
    truncated = product((found.factor_b(3), found.factor_a(3)))
    assert truncated.distance(value) == pytest.approx(found.tail(3), rel=1e-9)
    assert truncated.norm() == pytest.approx(float(np.linalg.norm(found.values[:3])), rel=1e-9)


def test_scales_far_apart() -> None:
    value = product(
        (random(6, 2), random(2, 5), 1e25), (random(6, 2, seed=1), random(2, 5, seed=1), 1e-25)
    )
    assert value.norm() == pytest.approx(norm_of(precise(value)), rel=1e-12)
    tiny = product((random(6, 2), random(2, 5), 1e-60), (random(6, 3), random(3, 5), 1e-61))
    assert tiny.norm() == pytest.approx(norm_of(precise(tiny)), rel=1e-12)
    assert tiny.decomposed().tail(0) == pytest.approx(tiny.norm(), rel=1e-9)


def test_what_float64_cannot_square_is_not_finite() -> None:
    huge = product((np.full((3, 2), 1e200), np.full((2, 3), 1e200)))
    with np.errstate(all="ignore"):
        assert not math.isfinite(huge.norm())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norm_of_what_is_not_finite(bad: float) -> None:
    b, a = random(4, 2), random(2, 5)
    for factor in (b, a):
        broken = factor.copy()
        broken[1, 1] = bad
        value = product((broken, a) if factor is b else (b, broken))
        with np.errstate(all="ignore"):
            assert not math.isfinite(value.norm())


def test_inner_product() -> None:
    x = product((random(6, 2), random(2, 5)), (random(6, 3), random(3, 5), -2.0))
    y = product((random(6, 4, seed=1), random(4, 5, seed=1), 0.1))
    assert inner(x, y) == pytest.approx(float((x.dense() * y.dense()).sum()), rel=1e-12)
    assert inner(x, x) == pytest.approx(x.norm() ** 2, rel=1e-12)
    assert inner(x, -x) == pytest.approx(-(x.norm() ** 2), rel=1e-12)


@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12])
def test_distance_of_near_values_keeps_its_digits(step: float) -> None:
    b, a = random(12, 3), random(3, 10)
    x = product((b, a))
    for y in (
        product((b + step * random(12, 3, seed=1), a)),
        product((b, a + step * random(3, 10, seed=1))),
        product((b * (1 + step), a, 1 / (1 - step))),
    ):
        wanted = norm_of(precise(x) - precise(y))
        slack = 20 * EPS * norm_of(b) * norm_of(a)
        assert x.distance(y) == pytest.approx(wanted, rel=1e-7, abs=slack)
        assert y.distance(x) == pytest.approx(wanted, rel=1e-7, abs=slack)


@pytest.mark.parametrize("error", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-5, 1e-6, 1e-7])
def test_distance_to_a_difference_that_almost_cancels(step: float, error: float) -> None:
    """The certificate's own case: how far a stored product is from `a - b`, with a almost b."""
    b, a = random(8, 3), random(3, 7)
    exact = product((b, a), (b, a + step * random(3, 7, seed=1), -1.0))
    left, values, right = np.linalg.svd(precise(exact).astype(np.float64))
    stored = product((left[:, :3] * values[:3] * (1 + error * random(8, 3, seed=2)), right[:3]))
    wanted = norm_of(precise(stored) - precise(exact)) / norm_of(precise(exact))
    assert stored.distance(exact) / exact.norm() == pytest.approx(wanted, abs=1e-7, rel=0)


@pytest.mark.parametrize("kind", FLOAT_TYPES.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.06, 0.04, 0.01, 1e-4, 1e-6])
def test_relative_distance_between_long_positive_factors(kind: FloatType, share: float) -> None:
    """Float32 products round in one direction here; a quotient of norms must still be true."""
    rng = np.random.default_rng(3)

    def stored(values: Array) -> Stored:
        return Stored(narrow(values, kind), kind)

    a, b = rng.random((4, 9000)) + 0.01, rng.random((300, 4)) + 0.01
    first, other = stored(a), stored(b + math.sqrt(share) * rng.standard_normal(b.shape))
    second = stored(a * 1.01)
    exact = LowRank((300, 9000), (Part(first, stored(b)), Part(second, other, -1.0)))
    truncated = exact.decomposed()
    for value in (
        LowRank(exact.shape, (Part(first, other, 0.5),)),
        product((truncated.factor_b(2), truncated.factor_a(2))),
        LowRank(exact.shape),
    ):
        wanted = norm_of(value.dense() - exact.dense()) / norm_of(exact.dense())
        assert value.distance(exact) / exact.norm() == pytest.approx(wanted, rel=5e-7, abs=0)


def test_distance_where_both_have_the_same_a() -> None:
    a = Stored.of(random(3, 6))
    b = random(2, 7, 3)
    x, y = (LowRank((7, 6), (Part(a, Stored.of(of), 0.5),)) for of in b)
    assert x.distance(y) == pytest.approx(norm_of(x.dense() - y.dense()), rel=1e-12)
    near = LowRank((7, 6), (Part(a, Stored.of(b[0] * (1 + 1e-12)), 0.5),))
    assert x.distance(near) == pytest.approx(1e-12 * x.norm(), rel=1e-3)
    assert x.distance(x) == 0.0


# ------------------------------------------------------------------------------- decomposition

FACTORS = {
    "random": (random(9, 4), random(4, 8)),
    "rank above the size": (random(5, 12), random(12, 6)),
    "rank is the size": (random(5, 5), random(5, 5)),
    "one row": (random(1, 3), random(3, 8)),
    "one column": (random(8, 3), random(3, 1)),
    "rank one": (random(6, 1), random(1, 7)),
    "zero row": (random(6, 3), random(3, 7) * [[1], [0], [1]]),
    "zero column": (random(6, 3) * [1, 0, 1], random(3, 7)),
    "zero A": (random(6, 3), np.zeros((3, 7))),
    "zero B": (np.zeros((6, 3)), random(3, 7)),
    "duplicated row": (random(6, 3), random(3, 7)[[0, 0, 2]]),
    "duplicated column": (random(6, 3)[:, [0, 0, 2]], random(3, 7)),
    "orthogonal": (np.eye(6)[:, :3], np.eye(7)[:3]),
    "nearly equal rows 1e-2": (random(6, 3), random(1, 7) + 1e-2 * random(3, 7)),
    "nearly equal rows 1e-4": (random(6, 3), random(1, 7) + 1e-4 * random(3, 7)),
    "nearly equal rows 1e-7": (random(6, 3), random(1, 7) + 1e-7 * random(3, 7)),
    "rows of all sizes": (random(6, 4), random(4, 7) * [[1e-8], [1], [1e4], [1e-3]]),
    "Kahan A": (random(9, 6), kahan(6, 0.35)),
    "Kahan B": (kahan(6, 0.35).T, random(6, 9)),
    "Kahan both": (kahan(12, 0.6).T, kahan(12, 0.6)),
    "long Kahan": (random(20, 16), kahan(16, 0.64)),
    "tiny": (1e-20 * random(6, 3), 1e-22 * random(3, 7)),
    "huge": (1e20 * random(6, 3), 1e22 * random(3, 7)),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_truncation_is_optimal(name: str) -> None:
    b, a = FACTORS[name]
    value = product((b, a, -0.5))
    dense = value.dense()
    best = np.linalg.svd(dense, compute_uv=False)
    slack = 1e-9 * float(np.linalg.norm(best)) + 1e-15 * norm_of(b) * norm_of(a)
    found = value.decomposed()
    for rank in range(len(found.values) + 1):
        wanted = float(np.linalg.norm(best[rank:]))
        truncated = found.factor_b(rank) @ found.factor_a(rank)
        assert norm_of(dense - truncated) == pytest.approx(wanted, abs=slack), rank
        assert found.tail(rank) == pytest.approx(wanted, abs=slack), rank


@pytest.mark.parametrize("name", FACTORS)
def test_factors_are_balanced(name: str) -> None:
    b, a = FACTORS[name]
    found = product((b, a)).decomposed()
    kept = found.rank_within(1e-4)
    lengths_b = np.linalg.norm(found.factor_b(kept), axis=0)
    lengths_a = np.linalg.norm(found.factor_a(kept), axis=1)
    np.testing.assert_allclose(lengths_a, np.sqrt(found.values[:kept]), rtol=1e-4)
    np.testing.assert_allclose(lengths_b, np.sqrt(found.values[:kept]), rtol=1e-4)


RANKS = {
    "random": 4,
    "rank above the size": 5,
    "rank is the size": 5,
    "one row": 1,
    "one column": 1,
    "rank one": 1,
    "zero row": 2,
    "zero column": 2,
    "zero A": 0,
    "zero B": 0,
    "duplicated row": 2,
    "duplicated column": 2,
    "orthogonal": 3,
    "nearly equal rows 1e-2": 3,
    "nearly equal rows 1e-4": 3,
    "tiny": 3,
    "huge": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", RANKS)
def test_lossless_rank(name: str) -> None:
    b, a = FACTORS[name]
    value = product((b, a))
    assert value.is_redundant() == (RANKS[name] < value.rank)
    assert value.decomposed().rank_within(LOSSLESS) == RANKS[name]


@pytest.mark.parametrize("seed", range(300))
def test_more_rank_than_size_is_redundant(seed: int) -> None:
    """A pivot of the Cholesky factorisation may be large although the matrix is singular."""
    rng = np.random.default_rng(seed)
    rows, rank = rng.integers(1, 8), 8
    value = product((rng.standard_normal((rows, rank)), rng.standard_normal((rank, 9))))
    assert value.is_redundant()
    assert value.decomposed().rank_within(LOSSLESS) == rows


@pytest.mark.parametrize("n", [6, 10, 16, 24])
def test_a_graded_singular_matrix_is_redundant(n: int) -> None:
    """Rows that are each far from those before, and depend on each other to all digits."""
    a = kahan(n, 0.7 if n > 16 else 0.5)
    a = np.vstack([a, np.linalg.svd(a)[2][-1:] * 1.0])
    value = product((random(30, n + 1), np.hstack([a, np.zeros((n + 1, 5))])))
    best = np.linalg.svd(value.dense(), compute_uv=False)
    assert value.is_redundant()
    total = float(np.linalg.norm(best))
    rank = sum(float(np.linalg.norm(best[k:])) > LOSSLESS * total for k in range(len(best)))
    assert value.decomposed().rank_within(LOSSLESS) == rank


def test_rank_within() -> None:
    left, right = (np.linalg.qr(random(8, 4, seed=s))[0] for s in (0, 1))
    found = product((left * [8.0, 4.0, 0.5, 0.0], right.T)).decomposed()
    total = math.hypot(8, 4, 0.5)
    bounds = {0.0: 3, 0.9 * 0.5 / total: 3, 1.1 * 0.5 / total: 2, 0.4: 2, 0.5: 1, 0.999: 1, 1.1: 0}
    assert {bound: found.rank_within(bound) for bound in bounds if bound} == {
        bound: rank for bound, rank in bounds.items() if bound
    }
    assert found.rank_within(0.0) in (3, 4)
    assert found.tail(2) == pytest.approx(0.5)
    assert found.tail(99) == 0.0


@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 8),
    st.sampled_from([0.0, 1e-9, 1e-7, 1e-5, 1e-3, 1.0]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_nearly_dependent_factors(out: int, width: int, rank: int, step: float, seed: int) -> None:
    """Wherever the kernels switch between Gram and QR, truncation stays optimal."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((1, width)) + step * rng.standard_normal((rank, width))
    b = rng.standard_normal((out, rank)) * 10.0 ** rng.integers(-5, 5, rank)
    value = product((b, a))
    dense = value.dense()
    best = np.linalg.svd(dense, compute_uv=False)
    slack = 1e-9 * float(np.linalg.norm(best)) + 1e-14 * norm_of(b) * norm_of(a)
    found = value.decomposed()
    kept = int(rng.integers(0, len(found.values) + 1))
    truncated = found.factor_b(kept) @ found.factor_a(kept)
    assert norm_of(dense - truncated) <= norm_of(best[kept:]) + slack
    assert value.norm() == pytest.approx(norm_of(best), abs=slack)
