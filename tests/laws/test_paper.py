"""The paper's operators, tensor for tensor (arXiv 2306.14870, section 3, and the authors' code)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pemath.formats.floats import Array, Stored
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method
from pemath.testing import Factors, factors, families, scalars

from .dense import assert_equal, sizes

shares = st.integers(1, 99).map(lambda percentage: percentage / 100)
nonzero = scalars().filter(bool)


def paper(values: list[Any], weights: list[float], **options: Any) -> Any:
    """The method on one site."""
    names = [f"operand{index}" for index in range(len(values))]
    return named_method("paper").function(Stack("site", values, weights, names), **options)


def norms(value: Lora) -> list[float]:
    """Per block, an upper bound of the sizes of the terms in the product."""
    return [float(np.linalg.norm(x.b()) * np.linalg.norm(x.a())) for x in value.blocks]


def equal_rank(members: tuple[Factors, ...]) -> list[Factors]:
    """Members of one rank: those of another become the first with a new A and B."""
    first = members[0]
    kept = [first]
    for number, member in enumerate(members[1:]):
        if member.rank == first.rank:
            kept.append(member)
            continue
        assert first.a is not None
        assert first.b is not None
        rng = np.random.default_rng(member.rank + 10 * number)
        a = Stored.of(rng.standard_normal(first.a.shape))
        b = Stored.of(rng.standard_normal(first.b.shape))
        kept.append(replace(first, a=a, b=b, scale=member.scale))
    return kept


def sharing_a(members: tuple[Factors, ...]) -> list[Lora]:
    """Values with the first member's A and bias, and their own B of the same shape."""
    same = equal_rank(members)
    return [replace(member, a=same[0].a, bias=same[0].bias).value() for member in same]


def assert_factors(found: Lora, a: list[Array], b: list[Array]) -> None:
    for block, wanted_a, wanted_b in zip(found.blocks, a, b, strict=True):
        assert len(block.parts) == 1
        np.testing.assert_allclose(block.a(), wanted_a, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(block.b(), wanted_b, rtol=1e-14, atol=1e-14)


@given(factors(3, smallest_rank=1), st.tuples(nonzero, nonzero, nonzero))
def test_factors_are_summed_one_by_one(
    members: tuple[Factors, ...], weights: tuple[float, float, float]
) -> None:
    """1.1 and 1.3: A' = Σ|c|A and B' = ΣcB, the scales alpha / r within B."""
    values = [member.value() for member in equal_rank(members)]
    found = paper(values, list(weights))
    blocks = range(len(values[0].blocks))
    pairs = list(zip(weights, values, strict=True))
    size = sum(abs(c) for c in weights) * max(max(norms(v), default=0.0) for v in values) + 1
    a = [np.sum([abs(c) * v.blocks[i].a() for c, v in pairs], axis=0) for i in blocks]
    b = [np.sum([c * v.blocks[i].b() for c, v in pairs], axis=0) for i in blocks]
    for i, block in enumerate(found.blocks):
        assert len(block.parts) == 1
        assert_equal(block.a(), a[i], size)
        assert_equal(block.b(), b[i], size)
    bias = np.sum([c * v.delta_bias() for c, v in pairs], axis=0)
    assert_equal(found.delta_bias(), bias, size)


@given(factors(2, smallest_rank=1), shares)
def test_weighted_mean_has_cross_terms(members: tuple[Factors, ...], share: float) -> None:
    """1.1: ΔW' = c₁²ΔW₁ + c₂²ΔW₂ + c₁c₂(B₁A₂ + B₂A₁)."""
    x, y = (member.value() for member in equal_rank(members))
    c, d = share, 1 - share
    found = paper([x, y], [c, d])
    for block, p, q in zip(found.blocks, x.blocks, y.blocks, strict=True):
        wanted = c * c * p.dense() + d * d * q.dense() + c * d * (p.b() @ q.a() + q.b() @ p.a())
        size = (np.linalg.norm(p.b()) + np.linalg.norm(q.b())) * (
            np.linalg.norm(p.a()) + np.linalg.norm(q.a())
        )
        assert_equal(block.dense(), wanted, float(size))


@given(factors(2, smallest_rank=1), shares)
def test_weighted_mean_is_exact_for_shared_a(members: tuple[Factors, ...], share: float) -> None:
    """1.1: with one A0 the weighted mean is that of the deltas."""
    x, y = sharing_a(members)
    found = paper([x, y], [share, 1 - share])
    wanted = share * x.delta_weight() + (1 - share) * y.delta_weight()
    assert_equal(found.delta_weight(), wanted, sum(norms(x)) + sum(norms(y)))


@given(factors(1, smallest_rank=1), nonzero)
def test_a_single_module_scales_b_alone(members: tuple[Factors, ...], c: float) -> None:
    """1.2: negation flips one factor; a scaled module keeps its A."""
    value = members[0].value()
    found = paper([value], [c])
    assert_factors(found, [x.a() for x in value.blocks], [c * x.b() for x in value.blocks])
    assert_equal(found.delta_weight(), c * value.delta_weight(), abs(c) * sum(norms(value)))
    twice = paper([paper([value], [-1.0])], [-1.0])
    assert_equal(twice.delta_weight(), value.delta_weight(), sum(norms(value)))


@given(factors(3, smallest_rank=1), shares)
def test_analogy(members: tuple[Factors, ...], c0: float) -> None:
    """1.4: A = c₀A_P + c₁A_Q + c₁A_R, B = c₀B_P + c₁B_Q - c₁B_R, whose A weigh 1 + c₁."""
    c1 = 1 - c0
    p, q, r = (member.value() for member in equal_rank(members))
    found = paper([p, q, r], [c0, c1, -c1])
    size = sum(sum(norms(value)) for value in (p, q, r)) + 1
    for block, x, y, z in zip(found.blocks, p.blocks, q.blocks, r.blocks, strict=True):
        assert_equal(block.a(), c0 * x.a() + c1 * y.a() + c1 * z.a(), size)
        assert_equal(block.b(), c0 * x.b() + c1 * y.b() - c1 * z.b(), size)


@given(factors(3, smallest_rank=1), shares)
def test_analogy_is_inflated_for_shared_a(members: tuple[Factors, ...], c0: float) -> None:
    """1.4: ΔW = (1 + c₁) [c₀ΔW_P + c₁(ΔW_Q - ΔW_R)]; normalised it is what was meant."""
    c1 = 1 - c0
    p, q, r = sharing_a(members)
    meant = c0 * p.delta_weight() + c1 * (q.delta_weight() - r.delta_weight())
    size = 2 * sum(sum(norms(value)) for value in (p, q, r))
    weights = [c0, c1, -c1]
    assert_equal(paper([p, q, r], weights).delta_weight(), (1 + c1) * meant, size)
    assert_equal(paper([p, q, r], weights, normalize=True).delta_weight(), meant, size)


@given(factors(3, smallest_rank=1), st.tuples(nonzero, nonzero, nonzero))
def test_normalised_is_exact_for_shared_a(
    members: tuple[Factors, ...], weights: tuple[float, float, float]
) -> None:
    values = sharing_a(members)
    found = paper(values, list(weights), normalize=True)
    pairs = list(zip(weights, values, strict=True))
    wanted = np.sum([c * v.delta_weight() for c, v in pairs], axis=0)
    size = sum(abs(c) * sum(norms(v)) for c, v in pairs)
    assert_equal(found.delta_weight(), wanted, size)
    bias = np.sum([c * v.delta_bias() for c, v in pairs], axis=0)
    assert_equal(found.delta_bias(), bias, sum(abs(c) for c in weights))


@given(families("ia3", 3), shares)
def test_ia3_needs_no_correction(family: Any, c0: float) -> None:
    """1.1 to 1.4 for (IA)³: l = (1 - c₀)·1 + c₀l_P + c₁l_Q - c₁l_R."""
    c1 = 1 - c0
    p, q, r = family.values
    wanted = 1 - c0 + c0 * p.vector() + c1 * q.vector() - c1 * r.vector()
    found = paper([p, q, r], [c0, c1, -c1])
    terms = float(sum(np.linalg.norm(value.vector()) for value in family.values)) + len(wanted)
    assert_equal(found.vector(), wanted, terms)
    assert_equal(paper([p], [-c0]).vector(), 1 + c0 * (1 - p.vector()), terms)


@given(families("lora", 2), shares)
def test_the_clean_detox_operator(family: Any, strength: float) -> None:
    """1.5: (1 + λ)ΔW₀ - λΔW₁, which is ΔW₀ where nothing toxic was learnt."""
    first, toxic = family.values
    found = first + (first + toxic * -1.0) * strength
    x, y = family.delta(first), family.delta(toxic)
    terms = 2 * sum(sizes(family))
    assert_equal(family.delta(found), (1 + strength) * x - strength * y, terms)
    unchanged = first + (first + first * -1.0) * strength
    assert_equal(family.delta(unchanged), x, terms)
