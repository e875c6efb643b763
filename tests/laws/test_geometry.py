"""Norm, inner product and distance agree with dense arrays, for every registered kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from pemath.formats.floats import Array
from pemath.kinds import kinds
from pemath.testing import families, scalars

every_kind = pytest.mark.parametrize("kind", kinds())
any_data = given(st.data())
# Norms of float32 factors may come from float32 products; small differences keep their digits.
CLOSE = 1e-6


def size(array: Array) -> float:
    return float(np.linalg.norm(array))


@every_kind
@any_data
def test_norm(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 3))
    c = data.draw(scalars())
    a, b, third = family.values
    terms = sum(size(family.deviation(value)) for value in (a, b)) + abs(c) * size(
        family.deviation(third)
    )
    summed = a + b + third * c
    found = summed.norm()
    assert found == pytest.approx(size(family.deviation(summed)), rel=CLOSE, abs=1e-12 * terms)
    assert (a * c).norm() == pytest.approx(abs(c) * a.norm(), rel=CLOSE)


@every_kind
@any_data
def test_inner_product(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 3))
    c = data.draw(scalars())
    a, b, third = family.values
    x, y = a + b * c, third + b
    terms = size(family.deviation(a)) + (abs(c) + 1) * size(family.deviation(b))
    terms *= size(family.deviation(third)) + size(family.deviation(b))
    wanted = float(family.deviation(x) @ family.deviation(y))
    assert x.inner(y) == pytest.approx(wanted, abs=1e-10 * terms)
    assert y.inner(x) == pytest.approx(wanted, abs=1e-10 * terms)
    assert a.inner(a) == pytest.approx(a.norm() ** 2, rel=2 * CLOSE)


@every_kind
@any_data
def test_distance(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 3))
    a, b, third = family.values
    terms = sum(size(family.deviation(value)) for value in family.values)
    x, y = a + third, b + third
    wanted = size(family.deviation(a) - family.deviation(b))
    # Small distances between large values keep their digits.
    assert x.distance(y) == pytest.approx(wanted, rel=CLOSE, abs=1e-12 * terms)
    assert a.distance(b) == pytest.approx(b.distance(a), rel=CLOSE, abs=1e-12 * terms)
    assert a.distance(a) <= 1e-12 * terms


@every_kind
@any_data
def test_distance_of_sums_that_cancel(kind: str, data: DataObject) -> None:
    family = data.draw(families(kind, 3))
    a, b, third = family.values
    terms = sum(size(family.deviation(value)) for value in family.values)
    x, y = a + b * -1.0, third + a * -1.0
    wanted = size(family.deviation(x) - family.deviation(y))
    assert x.distance(y) == pytest.approx(wanted, rel=CLOSE, abs=1e-11 * terms)
