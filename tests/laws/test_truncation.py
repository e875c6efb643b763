"""Truncation is optimal: no matrix of that rank is closer, as numpy's dense SVD says."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pemath.lowrank import LOSSLESS, LowRank
from pemath.methods import Stack, named_method
from pemath.testing import Factors, factors, scalars

TOLERANCE = 1e-10


def summed(members: tuple[Factors, ...]) -> tuple[LowRank, ...]:
    """The blocks of the sum of the members."""
    return reduce(add, (member.value() for member in members)).blocks


def terms(block: LowRank) -> float:
    """Norms of all that is added up, before anything cancels."""
    return sum(
        abs(p.scale) * float(np.linalg.norm(p.b.widen()) * np.linalg.norm(p.a.widen()))
        for p in block.parts
    )


@given(factors(2), st.integers(0, 10))
def test_truncation_is_optimal(members: tuple[Factors, ...], rank: int) -> None:
    for block in summed(members):
        dense, size = block.dense(), terms(block)
        best = np.linalg.svd(dense, compute_uv=False)
        found = block.decomposed()
        shared = min(len(best), len(found.values))
        assert np.all(np.diff(found.values) <= 0)
        np.testing.assert_allclose(
            found.values[:shared], best[:shared], rtol=0, atol=TOLERANCE * size
        )
        assert np.all(best[shared:] <= TOLERANCE * size)
        kept = min(rank, len(found.values))
        b, a = found.factor_b(kept), found.factor_a(kept)
        assert b.shape == (block.shape[0], kept)
        assert a.shape == (kept, block.shape[1])
        error = float(np.linalg.norm(dense - b @ a))
        assert error == pytest.approx(np.linalg.norm(best[kept:]), abs=TOLERANCE * size)
        assert found.tail(kept) == pytest.approx(error, abs=TOLERANCE * size)


@given(factors(3))
def test_lossless_rank_is_the_rank_of_the_dense_matrix(members: tuple[Factors, ...]) -> None:
    for block in summed(members):
        merged = block.simplified()
        np.testing.assert_allclose(merged.dense(), block.dense(), rtol=0, atol=1e-12 * terms(block))
        best = np.linalg.svd(block.dense(), compute_uv=False)
        total = float(np.linalg.norm(best))
        if total <= 1e-6 * terms(block):
            continue  # what is left of terms that cancel is their rounding
        rank = merged.rank
        if not merged.parts or merged.is_redundant():
            rank = merged.decomposed().rank_within(LOSSLESS)
            # Another judge of what is negligible, on either side of the bound.
            surely, perhaps = (
                sum(float(np.linalg.norm(best[k:])) > bound * total for k in range(len(best)))
                for bound in (2 * LOSSLESS, LOSSLESS / 2)
            )
            assert surely <= rank <= perhaps
        assert rank <= min(block.shape)


@given(factors(2), st.floats(0.001, 0.9))
def test_rank_within_is_the_smallest(members: tuple[Factors, ...], error: float) -> None:
    for block in summed(members):
        found = block.decomposed()
        rank = found.rank_within(error)
        best = np.linalg.svd(block.dense(), compute_uv=False)
        total = float(np.linalg.norm(best))
        slack = TOLERANCE * terms(block)
        assert np.linalg.norm(best[rank:]) <= error * total + slack
        if rank:
            assert np.linalg.norm(best[rank - 1 :]) >= error * total - slack


@given(factors(2, smallest_rank=1), st.tuples(scalars(), scalars()))
def test_peft_svd_is_the_optimal_truncation(
    members: tuple[Factors, ...], weights: tuple[float, float]
) -> None:
    values = [member.value() for member in members]
    stack = Stack("site", values, weights, ["a", "b"], [None, None])
    exact = named_method("exact").function(stack)
    rank = max(block.rank for value in values for block in value.blocks)
    site_rank = exact.geometry.site_rank(rank)
    found = named_method("peft_svd").function(stack, svd_rank=site_rank)
    for block, truncated in zip(exact.blocks, found.blocks, strict=True):
        left, best, right = np.linalg.svd(block.dense(), full_matrices=False)
        kept = min(rank, len(best))
        size = TOLERANCE * terms(block)
        error = float(np.linalg.norm(block.dense() - truncated.dense()))
        assert error == pytest.approx(np.linalg.norm(best[kept:]), abs=size)
        if kept == len(best) or best[kept - 1] > best[kept] + 1e-3 * best[0]:
            closest = (left[:, :kept] * best[:kept]) @ right[:kept]
            np.testing.assert_allclose(truncated.dense(), closest, rtol=0, atol=1e4 * size)
