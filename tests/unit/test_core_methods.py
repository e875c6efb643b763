"""Merging by singular vectors and in core spaces, against the formulas on dense float64 matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pemath.errors import (
    KindMismatch,
    NonFiniteValue,
    PemathError,
    RequestError,
    ShapeMismatch,
)
from pemath.formats.floats import Array
from pemath.kinds._geometry import Geometry
from pemath.kinds.lora import Lora
from pemath.methods import lego as lego_module
from pemath.methods import named_method
from pemath.methods._core import Small, core_of
from pemath.methods._matrices import ties

from . import matrix_merging as reference
from .values import (
    IN,
    OUT,
    PAIRS,
    SAME,
    close,
    dense,
    full,
    ia3,
    lora,
    product,
    random,
    run,
    size,
    stack,
    with_bias,
)

every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
both_weights = pytest.mark.parametrize("weights", [[1.0, 1.0], [0.4, -1.5]])
MATRIX = ("knots", "core", "tsv", "iso", "lego")


def weighted(pair: Sequence[Any], weights: list[float]) -> list[Array]:
    return [w * dense(value) for w, value in zip(weights, pair, strict=True)]


def scale_of(pair: Sequence[Any], weights: list[float]) -> float:
    return sum(map(float, map(np.linalg.norm, weighted(pair, weights))))


@every_pair
@both_weights
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_knots(pair: Any, weights: list[float], density: float) -> None:
    deltas = weighted(pair, weights)
    wanted = reference.knots(deltas, density)
    scale = scale_of(pair, weights)
    found = run("knots", list(pair), weights, density=density)
    close(found, wanted, scale)
    assert found.rank <= named_method("knots").rank([p.rank for p in pair], [None, None])
    matrices: list[Any] = [full(dense(value)) for value in pair]
    close(run("knots", matrices, weights, density=density), wanted, scale)
    cubes: list[Any] = [full(dense(value).reshape(OUT, 2, IN // 2)) for value in pair]
    got = run("knots", cubes, weights, density=density)
    close(full(dense(got).reshape(OUT, IN)), wanted, scale)


@every_pair
@both_weights
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_core(pair: Any, weights: list[float], density: float) -> None:
    factors = []
    for value in pair:
        (block,) = value.blocks
        a = np.concatenate([np.empty((0, IN)), *(part.a.widen() for part in block.parts)])
        b = np.concatenate([np.empty((OUT, 0)), *(part.b.widen() for part in block.parts)], axis=1)
        kept = np.linalg.norm(b, axis=0) * np.linalg.norm(a, axis=1) > 0
        factors.append((a[kept], b[:, kept]))
    wanted = reference.core(factors, weighted(pair, weights), density)
    found = run("core", list(pair), weights, density=density)
    close(found, wanted, scale_of(pair, weights))
    assert found.rank <= named_method("core").rank([p.rank for p in pair], [None, None])


@pytest.mark.parametrize("name", ["knots", "core"])
def test_opposites_leave_nothing(name: str) -> None:
    """Not rounding errors, whose signs would be elected."""
    for value in (lora(3, 1), lora(3, 1) + lora(2, 2)):
        found = run(name, [value, value * -1.0], density=1.0)
        assert not np.any(dense(found))


@every_pair
@both_weights
def test_linear_inside_is_the_sum(pair: Any, weights: list[float]) -> None:
    for name in ("knots", "core"):
        close(run(name, list(pair), weights, inner="linear"), sum(weighted(pair, weights)), 50.0)


@every_pair
@pytest.mark.parametrize("aligned", [False, True])
def test_the_core_holds_everything(pair: Any, aligned: bool) -> None:
    core = core_of([value.blocks[0] for value in pair], aligned=aligned)
    for basis in (core.columns, core.rows):
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-13)
    for small, value in zip(core.matrices, pair, strict=True):
        close(full(core.columns @ small.matrix @ core.rows.T), dense(value), size(value), 1e-9)


# Where singular vectors of both are dependent, (XᵀX)^(−1/2) does not exist.
_DEPENDENT = ("equal", "parallel", "opposite", "several parts", "parts that cancel")
INDEPENDENT = {name: pair for name, pair in PAIRS.items() if name not in _DEPENDENT}


@pytest.mark.parametrize("pair", INDEPENDENT.values(), ids=list(INDEPENDENT))
@both_weights
@pytest.mark.parametrize("rank", [None, 2, 5])
def test_tsv(pair: Any, weights: list[float], rank: int | None) -> None:
    each = min(rank or IN, OUT, IN) // 2
    deltas = weighted(pair, weights)
    if pair is PAIRS["shared A"] or pair is PAIRS["drifted A"]:
        each = min(each, 1)
        rank = 2 * each
    wanted = reference.tsv(deltas, each)
    scale = scale_of(pair, weights)
    found = run("tsv", list(pair), weights, rank=rank)
    close(found, wanted, scale, 1e-7)
    assert found.rank <= named_method("tsv").rank([p.rank for p in pair], [None] * 2, rank=rank)
    matrices: list[Any] = [full(dense(value)) for value in pair]
    close(run("tsv", matrices, weights, rank=rank), wanted, scale, 1e-7)


def test_tsv_of_directions_that_are_shared() -> None:
    """Equal operands give the operand, and one A gives no more rows than it has."""
    for value in (SAME, lora(4, 3)):
        for other in (value, value * 2.0):
            found = run("tsv", [value, other])
            close(found, (dense(value) + dense(other)) / 2, size(value, other))
            matrices: list[Any] = [full(dense(value)), full(dense(other))]
            close(run("tsv", matrices), (dense(value) + dense(other)) / 2, size(value, other))
        assert size(run("tsv", [value, value * -1.0])) <= 1e-12 * size(value)
    found = run("tsv", list(PAIRS["shared A"]))
    rows = np.linalg.qr(PAIRS["shared A"][0].blocks[0].a().T)[0]
    close(found, dense(found) @ rows @ rows.T, size(found))


def test_tsv_has_the_singular_values_of_its_operands() -> None:
    values = [lora(2, s, scale=s) for s in (1, 2, 3)]
    kept = sorted(s for value in values for s in np.linalg.svd(dense(value), compute_uv=False)[:2])
    found = np.linalg.svd(dense(run("tsv", list(values))), compute_uv=False)
    np.testing.assert_allclose(found[:6], kept[::-1], rtol=1e-9)
    assert found[6:].max() < 1e-12
    through_core = run("core", list(values), inner="tsv")
    close(through_core, dense(run("tsv", list(values))), size(*values))


@every_pair
@both_weights
def test_iso_c(pair: Any, weights: list[float]) -> None:
    deltas = weighted(pair, weights)
    found = run("iso", list(pair), weights)
    if pair is PAIRS["parts that cancel"] or np.linalg.norm(sum(deltas)) < 1e-12:
        return  # the smallest directions of the sum are not known well enough
    wanted = reference.iso_c(deltas)
    close(found, wanted, scale_of(pair, weights), 1e-7)
    values = np.linalg.svd(dense(found), compute_uv=False)
    kept = values[values > 1e-9 * values[0]]
    np.testing.assert_allclose(kept, kept[0], rtol=1e-9)
    matrices: list[Any] = [full(dense(value)) for value in pair]
    close(run("iso", matrices, weights), wanted, scale_of(pair, weights), 1e-7)


@pytest.mark.parametrize("common", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("name", ["own factors", "different ranks", "padded", "several parts"])
@both_weights
def test_iso_cts(name: str, weights: list[float], common: float) -> None:
    pair = PAIRS[name]
    deltas = weighted(pair, weights)
    wanted = reference.iso_cts(deltas, common)
    found = run("iso", list(pair), weights, variant="cts", common=common)
    close(found, wanted, scale_of(pair, weights), 1e-7)
    matrices: list[Any] = [full(dense(value)) for value in pair]
    got = run("iso", matrices, weights, variant="cts", common=common)
    close(got, wanted, scale_of(pair, weights), 1e-7)


def test_iso_cts_of_three_and_of_all_common() -> None:
    values = [lora(2, s) for s in (1, 2, 3)]
    deltas = [dense(value) for value in values]
    close(run("iso", list(values), variant="cts"), reference.iso_cts(deltas, 0.8), size(*values))
    all_common = run("iso", list(values), variant="cts", common=1.0)
    close(all_common, dense(run("iso", list(values))), size(*values))
    wide = [full(random(12, 9, seed=s)) for s in range(3)]
    wanted = reference.iso_cts([dense(value) for value in wide], 0.5)
    close(run("iso", list(wide), variant="cts", common=0.5), wanted, size(*wide))
    assert not dense(run("iso", [SAME, SAME * -1.0], variant="cts", common=1.0)).any()
    shared = np.linalg.svd(dense(run("iso", list(PAIRS["shared A"]), variant="cts", common=0.3)))
    np.testing.assert_allclose(shared.S[:3], shared.S[0])  # as many directions as A has
    assert shared.S[3:].max() < 1e-12


@pytest.mark.parametrize("name", ["tsv", "iso"])
def test_vectors_are_averaged(name: str) -> None:
    biases = [random(OUT, seed=s) for s in (1, 2)]
    wanted = (0.5 * biases[0] - 2 * biases[1]) / 2
    for values in (
        [full(bias) for bias in biases],
        [with_bias(lora(2, s), bias) for s, bias in zip((1, 2), biases, strict=True)],
    ):
        found = run(name, list(values), [0.5, -2.0])
        got = found.delta_bias() if isinstance(found, Lora) else dense(found)
        np.testing.assert_allclose(got, wanted, atol=1e-14)
    assert dense(run(name, [full(np.array(3.0)), full(np.array(1.0))])) == 2.0


@pytest.mark.parametrize("name", ["knots", "core"])
def test_vectors_are_merged_inside(name: str) -> None:
    biases = [random(OUT, seed=s) for s in (1, 2)]
    wanted = reference.ties([0.5 * biases[0], -2 * biases[1]], 0.5)
    values = [with_bias(lora(2, s), bias) for s, bias in zip((1, 2), biases, strict=True)]
    found = run(name, list(values), [0.5, -2.0], density=0.5)
    np.testing.assert_allclose(found.delta_bias(), wanted, atol=1e-14)
    if name == "knots":
        found = run(name, [full(bias) for bias in biases], [0.5, -2.0], density=0.5)
        np.testing.assert_allclose(dense(found), wanted, atol=1e-14)


def test_blocks_are_merged_one_by_one() -> None:
    experts = Geometry("experts", OUT, (IN,), 3)
    parts = [[lora(2, 10 * s + e) for e in range(3)] for s in (0, 1)]
    values = [Lora(experts, tuple(part.blocks[0] for part in member)) for member in parts]
    for name in MATRIX:
        found = dense(run(name, list(values)))
        for expert in range(3):
            one = run(name, [member[expert] for member in parts])
            if name != "lego":  # whose draws differ from block to block
                np.testing.assert_allclose(found[expert], dense(one), atol=1e-11)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.37, 0.5, 0.99, 1.0])
def test_ties_of_whole_matrices(density: float) -> None:
    arrays = [random(7, 5, seed=s) for s in range(3)]
    whole = [Small(array, 0.0) for array in arrays]
    np.testing.assert_allclose(ties(whole, density), reference.ties(arrays, density), atol=1e-15)
    assert not ties([whole[0], Small(-arrays[0], 0.0)], density).any()


def test_ties_by_blocks_of_rows() -> None:
    large = [random(3, 1 << 19, seed=s) for s in range(2)]
    found = ties([Small(array, 0.0) for array in large], 1.0)
    agree = large[0] * large[1] > 0
    np.testing.assert_allclose(found[agree], (0.5 * sum(large))[agree])


@pytest.mark.parametrize("name", MATRIX)
def test_a_site_that_an_operand_lacks_counts_as_zero(name: str) -> None:
    values = [lora(3, 1), lora(2, 2)]
    usual = [float(w) for w in named_method(name).default_weights(3)]
    for zero in (lora(2, 3) * 0.0, product(random(2, IN), np.zeros((OUT, 2)))):
        whole = run(name, [*values, zero], usual)
        close(run(name, list(values), usual[:2], 3), dense(whole), size(*values), 1e-10)
        whole = run(name, [values[0], zero, zero], usual)
        close(run(name, [values[0]], usual[:1], 3), dense(whole), size(*values), 1e-10)


# -------------------------------------------------------------------------------------- LEGO


def units(value: Lora) -> list[tuple[Array, Array]]:
    (block,) = value.blocks
    return list(zip(block.a(), block.b().T, strict=True))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.2, 0.6], [0.5, -0.25]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lego_of_clear_clusters(weights: list[float], seed: int) -> None:
    """Three centres far apart: each has units of both operands near it, with a sign turned."""
    centres = [(10 * random(IN, seed=s), 10 * random(OUT, seed=s)) for s in range(3)]
    clusters: list[list[tuple[Array, Array, float]]] = [[] for _ in centres]
    values = []
    for operand, weight in enumerate(weights):
        rows, columns = [], []
        for number in (0, 1, 2, 1)[operand:]:
            a = centres[number][0] + 0.1 * random(IN, seed=20 + 5 * operand + number)
            b = centres[number][1] + 0.1 * random(OUT, seed=40 + len(rows))
            clusters[number].append((a, b, abs(weight)))
            rows.append(a)
            columns.append(math.copysign(1.0, weight) * b)
        values.append(product(np.stack(rows), np.stack(columns, axis=1)))
    wanted = reference.lego(clusters, sum(map(abs, weights)), 4)
    found = run("lego", list(values), weights, rank=3, seed=seed)
    close(found, wanted, size(*values))
    assert found.rank == 3


def test_lego_is_a_local_optimum() -> None:
    """No unit is nearer to the mean of another cluster, and few random clusterings are better."""
    points = random(20, 6)
    shares = np.abs(random(20, seed=1)) + 0.1
    labels = lego_module._clustered(points @ points.T, shares, 5, "name")

    def spread(labels: Array) -> float:
        total = 0.0
        for label in set(labels.tolist()):
            chosen = labels == label
            mean = np.average(points[chosen], axis=0, weights=shares[chosen])
            total += float(shares[chosen] @ np.sum((points[chosen] - mean) ** 2, axis=1))
        return total

    means = [
        np.average(points[labels == label], axis=0, weights=shares[labels == label])
        for label in range(5)
    ]
    for point, label in zip(points, labels, strict=True):
        assert np.argmin([np.sum((point - mean) ** 2) for mean in means]) == label
    rng = np.random.default_rng(0)
    assert all(spread(labels) < spread(rng.integers(0, 5, 20)) for _ in range(200))


def test_lego_does_not_depend_on_any_order() -> None:
    values = [lora(3, 1), lora(4, 2), lora(2, 3)]
    shares = [0.5, 0.3, 0.2]
    wanted = dense(run("lego", list(values), shares, rank=4))
    for order in itertools.permutations(range(3)):
        found = run("lego", [values[i] for i in order], [shares[i] for i in order], rank=4)
        np.testing.assert_array_equal(dense(found), wanted)
    a, b = values[1].blocks[0].a(), values[1].blocks[0].b()
    turned = product(a[::-1], b[:, ::-1])
    np.testing.assert_array_equal(
        dense(run("lego", [values[0], turned, values[2]], shares, rank=4)), wanted
    )
    others = [dense(run("lego", list(values), shares, rank=4, seed=seed)) for seed in range(1, 9)]
    assert any(np.abs(other - wanted).max() > 1e-3 for other in others)


def test_lego_of_equals_and_of_all_units() -> None:
    value = lora(3, 1)
    close(run("lego", [value, value]), dense(value), value.norm())
    close(run("lego", [value, value, value], rank=9), dense(value), value.norm())
    close(run("lego", [value, value * -1.0], [0.5, -0.5]), dense(value), value.norm())
    other = lora(3, 2)
    found = run("lego", [value, other], rank=6)  # every unit by itself, scaled by √(3/6)
    close(found, math.sqrt(0.5) * (dense(value) + dense(other)), size(value, other))
    assert run("lego", [value, other], rank=100).rank == 6
    assert run("lego", [value, lora(5, 2)]).rank == 5
    padded = product(np.pad(random(3, IN), ((0, 3), (0, 0))), random(OUT, 6))
    assert run("lego", [padded, padded]).rank == 3
    opposite = product(-random(1, IN), -random(OUT, 1))
    cancelled = run("lego", [product(random(1, IN), random(OUT, 1)), opposite], rank=1)
    assert not dense(cancelled).any()


def test_a_single_operand_is_brought_to_a_rank() -> None:
    value = lora(5, 1)
    left, values, right = np.linalg.svd(dense(value), full_matrices=False)
    close(run("tsv", [value], rank=2), (left[:, :2] * values[:2]) @ right[:2], value.norm())
    found = run("lego", [value], [0.5], rank=2)
    assert found.rank == 2
    close(run("lego", [value], [0.5], rank=5), 0.5 * dense(value), value.norm())


def test_groups_of_a_convolution_share_the_rank() -> None:
    geometry = Geometry("conv", 8, (5, 2), 2)
    values = [
        Lora(geometry, tuple(product(random(3, 10, seed=s + g), random(4, 3, seed=s + g)).blocks[0]
                             for g in range(2)))
        for s in (0, 10)
    ]  # fmt: skip
    for name in ("tsv", "lego"):
        assert values[0].rank == 6
        for rank in (4, 5, 8):
            found = run(name, list(values), rank=rank)
            assert found.rank <= min(rank, 12)
            assert found.geometry == geometry
    with pytest.raises(RequestError, match="rank"):
        run("tsv", list(values), rank=3)
    with pytest.raises(RequestError, match="at least 2"):
        run("lego", list(values), rank=1)


def test_lego_averages_biases() -> None:
    biases = [random(OUT, seed=s) for s in (1, 2)]
    values = [with_bias(lora(2, s), bias) for s, bias in zip((1, 2), biases, strict=True)]
    found = run("lego", list(values))
    np.testing.assert_allclose(found.delta_bias(), 0.5 * sum(biases), atol=1e-15)


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("knots", {"inner": "tsv"}),
        ("core", {"inner": "dare"}),
        *((name, {"density": d}) for name in ("knots", "core") for d in (0.0, -1.0, 1.1, math.nan)),
        ("tsv", {"rank": 1}),
        ("iso", {"variant": "d"}),
        ("iso", {"common": 1.1}),
        ("iso", {"common": math.nan}),
        ("lego", {"rank": 0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        run(name, [lora(2), lora(2, 1)], **options)


WRONG: list[tuple[str, list[Any], type[PemathError], str]] = [
    *((name, [ia3(random(5)), ia3(random(5, seed=1))], KindMismatch, f"`{name}`")
      for name in MATRIX),
    *((name, [full(random(5, 4))] * 2, KindMismatch, "factors") for name in ("core", "lego")),
    *((name, [lora(2), product(random(2, 5), random(OUT, 2))], ShapeMismatch, "base")
      for name in MATRIX),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "error", "message"), WRONG)
def test_misuse_is_refused(
    name: str, values: list[Any], error: type[PemathError], message: str
) -> None:
    found = named_method(name).check(stack(values, [1.0] * len(values)))
    assert type(found) is error
    with pytest.raises(error, match=message):
        raise found


@pytest.mark.parametrize("name", MATRIX)
def test_numbers_that_are_not_finite_are_refused(name: str) -> None:
    broken = random(2, IN)
    broken[1, 3] = math.nan
    huge = product(np.full((2, IN), 1e200), np.full((OUT, 2), 1e200))
    for value in (product(broken, random(OUT, 2)), huge):
        with np.errstate(all="ignore"), pytest.raises(NonFiniteValue):
            run(name, [value, lora(2)])
