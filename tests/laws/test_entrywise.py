"""What holds for methods that prune and merge single entries, whatever their operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.formats.floats import Array
from pemath.methods import Stack, named_method
from pemath.testing import Family, families

KINDS = ("full", "ia3", "lora")
every_kind = pytest.mark.parametrize("kind", KINDS)
some = settings(max_examples=60)

PRUNING: dict[str, dict[str, Any]] = {
    "magnitude_prune": {"density": 0.4},
    "breadcrumbs": {"density": 0.4, "gamma": 0.1},
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.6},
    "dare_ties": {"density": 0.6},
    "della": {"density": 0.6, "epsilon": 0.4},
}
ALL = PRUNING | {"sce": {"select_topk": 0.5}, "consensus": {"tall_mask_lambda": 0.4}}
# Options with which nothing is dropped.
WHOLE: dict[str, dict[str, Any]] = {
    "magnitude_prune": {"density": 1.0},
    "breadcrumbs": {"density": 1.0, "gamma": 0.0},
    "dare_linear": {"density": 1.0},
    "consensus": {"k": 1, "tall_mask_lambda": 0.0},
}
ELECTING: dict[str, dict[str, Any]] = {
    "ties": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0, "epsilon": 0.0},
}
every_method = pytest.mark.parametrize("name", ALL)


def run(
    name: str,
    values: list[Any],
    weights: list[float] | None = None,
    names: str = "abcdef",
    **options: Any,
) -> Any:
    """With a rank that leaves nothing out."""
    usual = [1.0] * len(values) if weights is None else weights
    stack = Stack("q", values, usual, list(names)[: len(values)], [None] * len(values))
    return named_method(name).function(stack, rank=30, **options)


def near(family: Family, found: Any, wanted: Any, size: float | None = None) -> None:
    """Equal but for roundoff; an (IA)³ is stored around one."""
    x, y = family.deviation(found), family.deviation(wanted)
    scale = float(np.linalg.norm(y)) if size is None else size
    around_one = 1e-13 * len(y) if type(found).__name__ == "Ia3" else 1e-300
    assert np.linalg.norm(x - y) <= 1e-9 * scale + around_one


@every_method
@every_kind
@some
@given(st.data())
def test_the_order_of_operands_is_nothing(kind: str, name: str, data: st.DataObject) -> None:
    """Their names go with them."""
    family = data.draw(families(kind, 2))
    first, second = family.values
    one = run(name, [first, second], [1.0, -0.5], "ab", **ALL[name])
    other = run(name, [second, first], [-0.5, 1.0], "ba", **ALL[name])
    near(family, other, one)


@every_method
@every_kind
@some
@given(st.data(), st.sampled_from([-1.0, 0.25, -2.0, 1024.0]))
def test_scaling_all_scales_the_result(kind: str, name: str, data: st.DataObject, c: float) -> None:
    """By negative numbers too. Powers of two, so that no rounding decides about an entry."""
    family = data.draw(families(kind, 3))
    plain = run(name, list(family.values), **ALL[name])
    near(family, run(name, list(family.values), [c] * 3, **ALL[name]), plain * c)
    near(family, run(name, [value * c for value in family.values], **ALL[name]), plain * c)


@pytest.mark.parametrize("name", WHOLE)
@every_kind
@some
@given(st.data())
def test_keeping_all_is_the_exact_sum(kind: str, name: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 3))
    weights = [1.0, -0.5, 2.0]
    stack = Stack("q", list(family.values), weights, list("abc"), [None] * 3)
    wanted = named_method("exact").function(stack)
    size = sum(float(np.linalg.norm(family.deviation(value))) for value in family.values)
    near(family, run(name, list(family.values), weights, **WHOLE[name]), wanted, 4 * size)


@pytest.mark.parametrize("name", ELECTING)
@every_kind
@some
@given(st.data())
def test_equal_signs_give_the_mean_or_the_sum(kind: str, name: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 1))
    (value,) = family.values
    values, weights = [value] * 3, [1.0, 4.0, 0.5]
    for vote in ("total", "frequency"):
        options = {"majority_sign_method": vote, **ELECTING[name]}
        near(family, run(name, values, weights, merge="sum", **options), value * 5.5)
        near(family, run(name, values, weights, merge="mean", **options), value * (5.5 / 3))


@pytest.mark.parametrize("name", PRUNING)
@every_kind
@some
@given(st.data())
def test_zero_changes_nothing(kind: str, name: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 2))
    first, second = family.values
    alone = run(name, [first], **PRUNING[name])
    near(family, run(name, [first, second * 0.0], **PRUNING[name]), alone)
    near(family, run(name, [first, second], [1.0, 0.0], **PRUNING[name]), alone)


@every_method
@every_kind
@some
@given(st.data())
def test_of_nothing_comes_nothing(kind: str, name: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 2))
    found = run(name, [value * 0.0 for value in family.values], **ALL[name])
    assert not family.deviation(found).any()


@every_kind
@some
@given(st.data())
def test_pruning_twice_is_pruning(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 1))
    once = run("magnitude_prune", list(family.values), density=0.4)
    if kind == "lora":  # whose small entries are rounding, not zero
        once = run("magnitude_prune", [once], density=0.4)
    near(family, run("magnitude_prune", [once], density=0.4), once)


@some
@given(families("full", 3), st.sampled_from(["total", "frequency"]))
def test_elected_signs_are_those_of_operands(family: Family, vote: str) -> None:
    """Between the smallest and the largest of those that have the sign; 0 where none is elected."""
    terms: list[Array] = [family.delta(value) for value in family.values]
    options = {"density": 1.0, "majority_sign_method": vote}
    mean = family.delta(run("ties", list(family.values), **options))
    total = family.delta(run("ties", list(family.values), merge="sum", **options))
    votes = sum(terms) if vote == "total" else sum(np.sign(term) for term in terms)
    np.testing.assert_array_equal(np.sign(mean), np.sign(votes))
    np.testing.assert_array_equal(np.sign(total), np.sign(votes))
    sizes = np.array([np.where(np.sign(t) == np.sign(mean), np.abs(t), 0.0) for t in terms])
    assert (np.abs(mean) <= sizes.max(axis=0) * (1 + 1e-12)).all()
    np.testing.assert_allclose(np.abs(total), sizes.sum(axis=0), rtol=1e-12)
