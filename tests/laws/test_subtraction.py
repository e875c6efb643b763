"""What holds for methods that subtract less than a whole module, whatever their operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pemath.formats.floats import Array
from pemath.methods import Stack, named_method
from pemath.testing import Family, families, scalars

KINDS = ("full", "ia3", "lora")
every_kind = pytest.mark.parametrize("kind", KINDS)
TOLERANCE = 1e-8
# Directions closer than 1e-6 count as one: which of them stands for all depends on the order.
SAME = 1e-6


def run(name: str, values: list[Any], weights: list[float] | None = None, **options: Any) -> Any:
    found = named_method(name)
    usual = [float(weight) for weight in found.default_weights(len(values))]
    stack = Stack("q", values, weights or usual, list("abcdef")[: len(values)])
    return found.function(stack, **options)


def near(family: Family, found: Any, wanted: Any, tolerance: float = TOLERANCE) -> None:
    """Equal, to the size of all that took part."""
    size = sum(float(np.linalg.norm(family.deviation(value))) for value in family.values)
    error = np.linalg.norm(family.deviation(found) - family.deviation(wanted))
    assert error <= tolerance * (size + 1e-300 + len(family.deviation(wanted)) * 1e-6)


@every_kind
@given(st.data(), scalars())
def test_scaling_the_first_scales_the_result(kind: str, data: st.DataObject, c: float) -> None:
    """Of what steers, only the direction counts."""
    family = data.draw(families(kind, 2))
    first, second = family.values
    if abs(c) > 4:
        c = 4.0
    for name in ("deficient", "unshared"):
        plain = run(name, [first, second])
        near(family, run(name, [first, second], [c, 0.0]), plain * c)
        if c:
            steered = run(name, [first, second * abs(c)])
            near(family, steered, plain)
    near(family, run("unshared", [first * c, second]), run("unshared", [first, second]) * c)


@every_kind
@given(st.data())
def test_the_order_of_the_others_is_nothing(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 3))
    first, second, third = family.values
    one, other = (run("negmerge", list(v), rank=9) for v in (family.values, family.values[::-1]))
    near(family, one, other)
    if not _almost(family, second, third):
        one, other = (run("unshared", v) for v in ([first, second, third], [first, third, second]))
        near(family, one, other, SAME)


def _almost(family: Family, x: Any, y: Any) -> bool:
    """Whether two values are so close that rounding decides whether they are one direction, and
    not so close that they surely are.
    """
    units = [family.deviation(value) for value in (x, y)]
    sizes = [float(np.linalg.norm(unit)) or 1.0 for unit in units]
    cosine = abs(float(units[0] @ units[1])) / (sizes[0] * sizes[1])
    return SAME**2 / 10 < 1 - cosine < 1e-4


@every_kind
@given(st.data())
def test_unshared_twice_is_unshared(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 2))
    first, second = family.values
    once = run("unshared", [first, second])
    near(family, run("unshared", [once, second]), once)
    near(family, run("unshared", [second, second]), second * 0.0)


@given(families("lora", 2))
def test_unshared_has_nothing_in_both_subspaces(family: Family) -> None:
    """Pᵀ(ΔW − PΔWQ)Q = 0 with the singular vectors of the other's dense delta."""
    first, second = family.values
    found = run("unshared", [first, second])
    for block, other, own in zip(found.blocks, second.blocks, first.blocks, strict=True):
        left, values, right = np.linalg.svd(other.dense(), full_matrices=False)
        kept = values > 1e-6 * values.max(initial=0.0)
        core = left[:, kept].T @ block.dense() @ right[kept].T
        assert np.linalg.norm(core) <= 1e-8 * np.linalg.norm(own.dense()) + 1e-300


@given(families("full", 3))
def test_negmerge_keeps_signs(family: Family) -> None:
    terms = [family.delta(value) / 3 for value in family.values]
    found = family.delta(run("negmerge", list(family.values)))
    kept = found != 0
    for term in terms:
        assert (np.sign(term[kept]) == np.sign(found[kept])).all()
    disagree = np.any([np.sign(term) != np.sign(terms[0]) for term in terms], axis=0)
    assert not found[disagree].any()
    np.testing.assert_allclose(found[kept], sum(terms)[kept], rtol=1e-12)


@every_kind
@given(st.data())
def test_negmerge_of_one_value_is_it(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 1))
    (value,) = family.values
    near(family, run("negmerge", [value]), value)
    near(family, run("negmerge", [value, value]), value)


@given(families("ia3", 2))
def test_ext_sub_is_a_bisection(family: Family) -> None:
    """The common part and the deficient one add up to the whole, and are orthogonal."""
    first, second = family.values
    part: Array = family.deviation(run("deficient", [first, second]))
    whole, other = family.deviation(first), family.deviation(second)
    common = whole - part
    size = float(whole @ whole)
    assert abs(float(common @ part)) <= 1e-9 * size + 1e-300
    if other.any():
        assert float(part @ other) <= 1e-9 * np.sqrt(size * float(other @ other)) + 1e-300
