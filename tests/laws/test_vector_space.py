"""The values of every registered kind form a vector space, judged on dense deltas in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from pemath.kinds import kinds
from pemath.testing import families, register_families, scalars

from .dense import assert_equal, sizes

every_kind = pytest.mark.parametrize("kind", kinds())
any_data = given(st.data())


@every_kind
def test_every_kind_has_a_strategy(kind: str) -> None:
    families(kind, 1)  # else: pemath.testing.register_families


def test_a_kind_without_a_strategy_is_named() -> None:
    with pytest.raises(LookupError, match="no strategy draws values of kind vera9"):
        families("vera9", 2)
    with pytest.raises(ValueError, match="lora has a strategy already"):
        register_families("lora", lambda size: families("full", size))


@every_kind
@any_data
def test_sum_is_the_sum_of_the_deltas(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 2))
    a, b = family.values
    wanted = family.delta(a) + family.delta(b)
    assert_equal(family.delta(a + b), wanted, sum(sizes(family)))


@every_kind
@any_data
def test_addition_is_commutative(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 2))
    a, b = family.values
    assert_equal(family.delta(a + b), family.delta(b + a), sum(sizes(family)))


@every_kind
@any_data
def test_addition_is_associative(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 3))
    a, b, c = family.values
    assert_equal(family.delta((a + b) + c), family.delta(a + (b + c)), sum(sizes(family)))


@every_kind
@any_data
def test_zero_changes_nothing(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 1))
    (a,) = family.values
    zero = kinds()[kind].zero_like(a)
    assert not family.delta(zero).any()
    assert zero.norm() == 0.0
    assert_equal(family.delta(a + zero), family.delta(a), *sizes(family))
    assert_equal(family.delta(zero + a), family.delta(a), *sizes(family))


@every_kind
@any_data
def test_inverse_cancels(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 1))
    (a,) = family.values
    nothing = np.zeros_like(family.delta(a))
    assert_equal(family.delta(a + a * -1.0), nothing, *sizes(family))
    assert_equal(family.delta(a * -1.0 + a), nothing, *sizes(family))


@every_kind
@any_data
def test_scaling_is_linear_in_the_scalar(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 1))
    c, d = data.draw(scalars()), data.draw(scalars())
    (a,) = family.values
    terms = (abs(c) + abs(d)) * sizes(family)[0]
    assert_equal(family.delta(a * c), c * family.delta(a), terms)
    assert_equal(family.delta(a * (c + d)), family.delta(a * c + a * d), terms)


@every_kind
@any_data
def test_scaling_is_compatible_with_products(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 1))
    c, d = data.draw(scalars()), data.draw(scalars())
    (a,) = family.values
    terms = abs(c * d) * sizes(family)[0]
    assert_equal(family.delta(a * c * d), family.delta(a * (c * d)), terms)


@every_kind
@any_data
def test_scaling_distributes_over_sums(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 2))
    c = data.draw(scalars())
    a, b = family.values
    terms = abs(c) * sum(sizes(family))
    assert_equal(family.delta((a + b) * c), family.delta(a * c + b * c), terms)


@every_kind
@any_data
def test_special_scalars(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 1))
    (a,) = family.values
    assert_equal(family.delta(a * 1.0), family.delta(a), *sizes(family))
    assert_equal(family.delta(a * -1.0 * -1.0), family.delta(a), *sizes(family))
    assert_equal(family.delta(a * -1.0), -family.delta(a), *sizes(family))
    assert not family.delta(a * 0.0).any()


@every_kind
@any_data
def test_operands_stay_as_they_are(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 2))
    a, b = family.values
    before = family.delta(a), family.delta(b)
    result = (a * 2.0 + b) * -0.5 + b
    result.norm(), a.inner(b), a.distance(b), result.distance(a)
    family.delta(result).fill(7.0)
    np.testing.assert_array_equal(family.delta(a), before[0])
    np.testing.assert_array_equal(family.delta(b), before[1])
