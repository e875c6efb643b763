"""What holds for merging by directions and singular vectors, whatever the operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.kinds import kinds
from pemath.methods import Stack, named_method
from pemath.testing import Family, families

few, more = settings(max_examples=150), settings(max_examples=300)

KINDS = ("full", "ia3", "lora")
every_kind = pytest.mark.parametrize("kind", KINDS)
VECTORS: list[tuple[str, dict[str, Any]]] = [
    ("mean", {}),
    ("multislerp", {}),
    ("karcher", {}),
    ("model_stock", {}),
    ("metagpt", {}),
]
ARCS: list[tuple[str, dict[str, Any]]] = [
    ("slerp", {"t": 0.3}),
    ("nuslerp", {}),
    ("nuslerp", {"row_wise": True}),
]
MATRICES: list[tuple[str, dict[str, Any]]] = [
    ("knots", {"density": 0.6}),
    ("knots", {"inner": "linear"}),
    ("core", {"density": 0.6}),
    ("core", {"inner": "tsv"}),
    ("tsv", {}),
    ("iso", {}),
    ("iso", {"variant": "cts"}),
    ("lego", {}),
]


def run(
    name: str,
    values: Any,
    weights: list[float] | None = None,
    count: int | None = None,
    **options: Any,
) -> Any:
    """The method on values of one site; `count` operands, of which others lack it."""
    found = named_method(name)
    count = count or len(values)
    usual = [float(weight) for weight in found.default_weights(count)]
    weights = weights or usual[: len(values)]
    return found.function(
        Stack("q", list(values), weights, list("abcdef")[:count], [None] * count), **options
    )


def near(family: Family, found: Any, wanted: Any, tolerance: float = 1e-8) -> None:
    """Equal, to the size of all that took part; the one of (IA)³ takes up digits."""
    error = float(np.linalg.norm(family.deviation(found) - family.deviation(wanted)))
    assert error <= tolerance * (size(family) + len(family.deviation(wanted)) * 1e-6), error


def size(family: Family) -> float:
    return sum(float(np.linalg.norm(family.deviation(value))) for value in family.values) + 1e-300


def apart(family: Family) -> bool:
    """Whether no two directions are so close, or so nearly opposite, or operands so unequal, that
    rounding decides about singular vectors.
    """
    found = [family.deviation(value) for value in family.values]
    sizes = [float(np.linalg.norm(delta)) for delta in found]
    if not all(sizes) or max(sizes) > 1e3 * min(sizes):
        return False
    units = np.stack([delta / size for delta, size in zip(found, sizes, strict=True)])
    cosines = np.abs(units @ units.T)[np.triu_indices(len(units), 1)]
    return bool((cosines < 1 - 1e-4).all())


def conditioned(family: Family) -> bool:
    """Whether the singular values of all blocks are apart from each other and from zero."""
    for blocks in zip(*(value.blocks for value in family.values), strict=True):
        terms = [block.dense() for block in blocks]
        for matrix in (*terms, sum(terms), np.concatenate(terms), np.concatenate(terms, axis=1)):
            values = np.linalg.svd(matrix, compute_uv=False)
            values = values[values > 1e-13 * max(float(values.max(initial=0.0)), 1e-300)]
            gaps = -np.diff(values, append=0.0)
            if len(values) and gaps.min() < 1e-5 * values[0]:
                return False
    return apart(family)


@every_kind
@few
@given(st.data())
def test_order_does_not_matter(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 3))
    for name, options in VECTORS:
        weights = [0.5, 0.3, -0.4]
        found = run(name, family.values, weights, **options)
        near(family, run(name, family.values[::-1], weights[::-1], **options), found, 1e-7)


@every_kind
@few
@given(st.data())
def test_an_arc_has_two_ends(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 2))
    first, second = family.values
    found = run("slerp", [first, second], t=0.3)
    near(family, run("slerp", [second, first], t=0.7), found)
    near(family, run("slerp", [first, second], t=0.0), first)
    near(family, run("slerp", [first, second], t=1.0), second)
    for row_wise in (False, True):
        found = run("nuslerp", [first, second], [0.7, -0.3], row_wise=row_wise)
        near(family, run("nuslerp", [second, first], [-0.3, 0.7], row_wise=row_wise), found)
    near(family, run("nuslerp", [first, second], [0.7, 0.3]), run("slerp", [first, second], t=0.3))


@more
@given(families("lora", 3))
def test_order_of_matrices_does_not_matter(family: Family) -> None:
    methods = MATRICES if conditioned(family) else [("lego", {})]
    for name, options in methods:
        weights = [0.5, 0.3, -0.4]
        found = run(name, family.values, weights, **options)
        near(family, run(name, family.values[::-1], weights[::-1], **options), found, 1e-6)


@every_kind
@few
@given(st.data(), st.sampled_from([3.0, 0.25, -1.0, -0.7, 1e-6]))
def test_scaling_the_weights_scales_the_result(kind: str, data: st.DataObject, c: float) -> None:
    family = data.draw(families(kind, 2))
    for name, options in (*VECTORS, *ARCS):
        weights = [0.6, -0.3]
        found = run(name, family.values, weights, **options)
        scaled = run(name, family.values, [c * w for w in weights], **options)
        near(family, scaled, found * c)


@more
@given(families("lora", 2), st.sampled_from([3.0, 0.25, -1.0, -0.7, 1e-6]))
def test_scaling_the_weights_of_matrices(family: Family, c: float) -> None:
    methods = MATRICES if conditioned(family) else [("lego", {})]
    for name, options in methods:
        factor = abs(c) if name == "lego" else c  # a unit (a, −b) lies elsewhere than (a, b)
        weights = [0.6, -0.3]
        found = run(name, family.values, weights, **options) * factor
        near(
            family, run(name, family.values, [factor * w for w in weights], **options), found, 1e-6
        )


@every_kind
@few
@given(st.data())
def test_equal_operands_give_the_operand(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 1))
    for name, options in (*VECTORS, *ARCS):
        (value,) = family.values
        near(family, run(name, [value, value], **options), value)
        if (name, options) in VECTORS:
            near(family, run(name, [value] * 3, **options), value)


@few
@given(families("lora", 1))
def test_equal_matrices_give_the_matrix(family: Family) -> None:
    (value,) = family.values
    for name in ("knots", "core", "lego"):
        options = {} if name == "lego" else {"density": 1.0}
        near(family, run(name, [value, value, value], **options), value)


@every_kind
@few
@given(st.data())
def test_a_lacking_site_is_zero(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 3))
    for name, options in VECTORS:
        zero = kinds()[kind].zero_like(family.values[1])
        first, _, third = family.values
        weights = [0.6, 0.2, -0.3]
        whole = run(name, [first, zero, third], weights, **options)
        near(family, run(name, [first, third], [0.6, -0.3], 3, **options), whole)


@few
@given(families("ia3", 2))
def test_ia3_that_changes_nothing_is_one(family: Family) -> None:
    ones = family.values[0] * 0.0
    for name, options in (*VECTORS, *ARCS):
        assert (run(name, [ones, ones], **options).vector() == 1.0).all()


@every_kind
@few
@given(st.data())
def test_means_on_the_sphere_have_the_mean_norm(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 3))
    if not apart(family):
        return
    norms = [float(np.linalg.norm(family.deviation(value))) for value in family.values]
    wanted = 0.5 * norms[0] + 0.3 * norms[1] + 0.2 * norms[2]
    for name in ("karcher", "multislerp"):
        found = float(np.linalg.norm(family.deviation(run(name, family.values, [0.5, 0.3, 0.2]))))
        plain = float(np.linalg.norm(family.deviation(run("mean", family.values, [0.5, 0.3, 0.2]))))
        assert abs(found - wanted) <= 1e-8 * wanted or abs(found - plain) <= 1e-8 * wanted
        assert found <= wanted * (1 + 1e-8)


@every_kind
@few
@given(st.data())
def test_multislerp_of_two_of_one_norm_is_slerp(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 2))
    if not apart(family):
        return
    values = [v * (1 / float(np.linalg.norm(family.deviation(v)))) for v in family.values]
    if family.deviation(values[0]) @ family.deviation(values[1]) < -0.999:
        return  # opposite, or nearly: a straight line
    arc = run("slerp", values, t=0.3)
    for name in ("multislerp", "karcher"):
        near(family, run(name, values, [0.7, 0.3]), arc, 1e-7)


@every_kind
@few
@given(st.data())
def test_model_stock_is_a_share_of_the_mean(kind: str, data: st.DataObject) -> None:
    family = data.draw(families(kind, 3))
    mean = family.deviation(run("mean", family.values))
    found = family.deviation(run("model_stock", family.values))
    square = float(mean @ mean)
    share = float(found @ mean) / square if square else 0.0
    assert -1e-12 <= share <= 1 + 1e-9
    assert np.linalg.norm(found - share * mean) <= 1e-8 * size(family)


# ------------------------------------------------------------------------- singular values


@few
@given(families("lora", 3))
def test_linear_in_a_core_is_the_exact_sum(family: Family) -> None:
    weights = [0.5, -2.0, 0.7]
    exact = run("exact", family.values, weights)
    for name in ("core", "knots"):
        near(family, run(name, family.values, weights, inner="linear"), exact)


@few
@given(families("lora", 3))
def test_the_spectrum_of_iso_is_flat(family: Family) -> None:
    found = run("iso", family.values)
    exact = run("exact", family.values)
    for block, whole in zip(found.blocks, exact.blocks, strict=True):
        values = np.linalg.svd(block.dense(), compute_uv=False)
        values = values[values > 1e-6 * values.max(initial=0.0)]
        np.testing.assert_allclose(values, values[:1].repeat(len(values)), rtol=1e-7)
        total = float(np.linalg.svd(whole.dense(), compute_uv=False).sum())
        assert abs(float(values.sum()) - total) <= 1e-7 * size(family)


@more
@given(families("lora", 2))
def test_tsv_keeps_the_singular_values_it_takes(family: Family) -> None:
    """Its factors are orthonormal: the spectrum is that of all operands together."""
    if not conditioned(family):
        return
    found = run("tsv", family.values)
    for index, block in enumerate(found.blocks):
        each = max(1, min(block.shape) // 2)
        terms = [value.blocks[index].dense() for value in family.values]
        taken = [np.linalg.svd(term, full_matrices=False) for term in terms]
        for side in (
            np.concatenate([found.U[:, found.S > 1e-12][:, :each] for found in taken], axis=1),
            np.concatenate([found.Vh[found.S > 1e-12][:each] for found in taken]).T,
        ):
            if np.linalg.svd(side, compute_uv=False)[: side.shape[1]].min(initial=1.0) < 1e-3:
                return  # dependent directions count once
            if side.shape[1] > side.shape[0]:
                return
        kept = np.concatenate([found.S[found.S > 1e-12][:each] for found in taken])
        values = np.linalg.svd(block.dense(), compute_uv=False)[: len(kept)]
        np.testing.assert_allclose(values, np.sort(kept)[::-1], rtol=1e-7)


@few
@given(families("lora", 3))
def test_the_rank_is_within_its_bound(family: Family) -> None:
    for name, options in MATRICES:
        found = run(name, family.values, **options)
        ranks = [value.rank for value in family.values]
        assert found.rank <= named_method(name).rank(ranks, [None] * 3, **options)
