"""What PEFT and AdapterHub compute: options, draws, and each formula written out entry by entry.

That the released packages give the same tensors is in tests/golden.
"""

from __future__ import annotations

import math
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.errors import (
    KindMismatch,
    NonFiniteValue,
    OperandError,
    RankMismatch,
    RequestError,
)
from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method
from pemath.methods._peft_pruning import Pruning

OUTPUTS, INPUTS = 7, 5
ON_FACTORS = ["peft_magnitude_prune", "peft_ties", "peft_dare_linear", "peft_dare_ties"]
ON_DELTAS = [f"{name}_svd" for name in ON_FACTORS]
PRUNING = ON_FACTORS + ON_DELTAS
RANDOM = [name for name in PRUNING if "dare" in name]
VOTING = [name for name in PRUNING if "ties" in name]
ADAPTERHUB = ["adapters_linear", "adapters_linear_only_negate_b", "adapters_delta_w_svd"]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f4").astype("f8")


def lora(a: Array, b: Array, scale: float = 1.0, geometry: Geometry | None = None) -> Lora:
    geometry = geometry or Geometry("linear", len(b), (a.shape[1],))
    return Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), scale))


def some(seed: int = 0, rank: int = 3, scale: float = 1.0) -> Lora:
    return lora(random(rank, INPUTS, seed=seed), random(OUTPUTS, rank, seed=seed), scale)


def ia3(*values: float) -> Ia3:
    vector = np.array(values).reshape(-1, 1)
    return Ia3("output", vector.shape, ((1.0, Stored.of(vector)),))


def adapter(*sites: str, **config: Any) -> Any:
    return SimpleNamespace(sites=dict.fromkeys(sites), folder=SimpleNamespace(config=config))


def stack(values: list[Any], weights: list[float], site: str = "q", operands: Any = None) -> Stack:
    names = list("abcdef")[: len(values)]
    return Stack(site, values, weights, names, operands or [None] * len(values))


def run(name: str, values: list[Any], weights: list[float], **options: Any) -> Any:
    return named_method(name).function(stack(values, weights), **options)


def factors(value: Lora) -> tuple[Array, Array]:
    (block,) = value.blocks
    return block.a(), block.b()


def refusal(name: str, values: list[Any], **more: Any) -> Any:
    return named_method(name).check(stack(values, [1.0] * len(values), **more))


# ------------------------------------------------------------------------- the formulas, in loops


def kept_largest(matrix: Array, density: float) -> Array:
    """The int(density · n) largest absolute values; of equal ones the first."""
    order = sorted(range(matrix.size), key=lambda i: -abs(matrix.flat[i]))
    found = np.zeros_like(matrix)
    for i in order[: int(density * matrix.size)]:
        found.flat[i] = matrix.flat[i]
    return found


def kept_at_random(matrix: Array, density: float, seed: int, label: str, name: str) -> Array:
    pruning = Pruning(density, seed)
    draws = pruning.draws(label, name, math.prod(matrix.shape[1:]))
    mask = pruning.drawn(draws, 0, len(matrix)).ravel()
    found = np.zeros_like(matrix)
    for i in range(matrix.size):
        if mask[i]:
            found.flat[i] = matrix.flat[i] / density
    return found


def combined(matrices: list[Array], weights: list[float], vote: str | None) -> Array:
    found = np.zeros_like(matrices[0])
    for i in range(found.size):
        entries = [float(matrix.flat[i]) for matrix in matrices]
        weighted = [weight * entry for weight, entry in zip(weights, entries, strict=True)]
        if vote is None:
            found.flat[i] = sum(weighted)
            continue
        ballots = entries if vote == "total" else [math.copysign(bool(e), e) for e in entries]
        elected = 1 if sum(ballots) >= 0 else -1
        agree = [w for w, entry in zip(weighted, entries, strict=True) if entry * elected > 0]
        found.flat[i] = sum(agree) / max(len(agree), 1)
    return found


def prune(name: str, matrix: Array, density: float, seed: int, label: str, operand: str) -> Array:
    if density >= 1:
        return matrix
    if "dare" in name:
        return kept_at_random(matrix, density, seed, label, operand)
    return kept_largest(matrix, density)


def options_of(name: str, density: float, vote: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"density": density}
    if name in VOTING:
        found["majority_sign_method"] = vote
    if name in RANDOM:
        found["seed"] = seed
    return found


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 3))
    return {
        "count": count,
        "draw": draw(st.integers(0, 1000)),
        # Quarters: many equal absolute values, and sums that vanish.
        "coarse": draw(st.booleans()),
        "weights": draw(
            st.lists(
                st.sampled_from([1.0, -1.0, 0.5, 2.0, -0.3, 0.0]), min_size=count, max_size=count
            )
        ),
        "scales": draw(st.lists(st.sampled_from([1.0, 2.0, 0.25]), min_size=count, max_size=count)),
        "density": draw(st.sampled_from([0.05, 0.2, 0.5, 0.77, 1.0])),
        "vote": draw(st.sampled_from(["total", "frequency"])),
        "seed": draw(st.integers(0, 3)),
    }


def operands_of(case: dict[str, Any]) -> list[tuple[Array, Array]]:
    found = []
    for number in range(case["count"]):
        pair = [random(*shape, seed=case["draw"] + number) for shape in ((3, INPUTS), (OUTPUTS, 3))]
        if case["coarse"]:
            pair = [np.round(4 * matrix) / 4 for matrix in pair]
        found.append((pair[0], pair[1]))
    return found


@pytest.mark.parametrize("name", ON_FACTORS)
@given(case=cases())
@settings(max_examples=60)
def test_on_factors(name: str, case: dict[str, Any]) -> None:
    pairs, density, seed = operands_of(case), case["density"], case["seed"]
    vote = case["vote"] if name in VOTING else None
    products = [w * s for w, s in zip(case["weights"], case["scales"], strict=True)]
    roots = [math.sqrt(abs(product)) for product in products]
    signed = [math.copysign(r, product) for r, product in zip(roots, products, strict=True)]
    wanted = [
        combined(
            [
                prune(name, pair[index], density, seed, f"q {factor}", operand)
                for operand, pair in zip("abc", pairs, strict=False)
            ],
            weights,
            vote,
        )
        for index, (factor, weights) in enumerate((("A", signed), ("B", roots)))
    ]
    values = [lora(a, b, scale) for (a, b), scale in zip(pairs, case["scales"], strict=True)]
    found = run(name, values, case["weights"], **options_of(name, density, case["vote"], seed))
    for own, matrix in zip(factors(found), wanted, strict=True):
        np.testing.assert_allclose(own, matrix, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ON_DELTAS)
@given(case=cases())
@settings(max_examples=60)
def test_on_deltas(name: str, case: dict[str, Any]) -> None:
    """The matrices are small enough to be decomposed as they are."""
    case["coarse"] = False  # of equal entries a dense pruning keeps all
    density, seed = case["density"], case["seed"]
    pairs = zip(operands_of(case), case["scales"], strict=True)
    values = [lora(a, b, scale) for (a, b), scale in pairs]
    kept = [
        prune(name, value.delta_weight(), density, seed, "q", operand)
        for operand, value in zip("abc", values, strict=False)
    ]
    vote = case["vote"] if name in VOTING else None
    wanted = combined(kept, case["weights"], vote)
    options = options_of(name, density, case["vote"], seed)
    found = run(name, values, case["weights"], svd_rank=INPUTS, **options)
    size = max(np.abs(wanted).max(), 1.0)
    np.testing.assert_allclose(found.delta_weight(), wanted, atol=2e-6 * size)
    a, b = factors(found)
    np.testing.assert_allclose(a @ a.T, np.eye(len(a)), atol=1e-9)
    lengths = np.linalg.norm(b, axis=0)
    assert (np.diff(lengths) <= 1e-9 * size).all()


def test_blocks_are_pruned_as_one_tensor() -> None:
    """A convolution in groups has one A and one B, and one share of entries to keep."""
    geometry = Geometry("conv", 6, (2, 3), 2)
    a, b = (
        [random(4, 2, 3, seed=1), random(4, 2, 3, seed=2)],
        [random(6, 2, 1, seed=s) for s in (3, 4)],
    )
    values = [lora(x, y, geometry=geometry) for x, y in zip(a, b, strict=True)]
    found = run("peft_magnitude_prune", values, [1.0, -1.0], density=0.3)
    wanted_a = kept_largest(a[0], 0.3) - kept_largest(a[1], 0.3)
    wanted_b = kept_largest(b[0], 0.3) + kept_largest(b[1], 0.3)
    wanted = lora(wanted_a, wanted_b, geometry=geometry)
    np.testing.assert_allclose(found.delta_weight(), wanted.delta_weight(), atol=1e-5)
    dense = [value.delta_weight() for value in values]
    found = run("peft_ties_svd", values, [1.0, 0.5], density=0.3, svd_rank=12)
    wanted = combined([kept_largest(delta, 0.3) for delta in dense], [1.0, 0.5], "total")
    np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-5)
    found = run("peft_dare_linear_svd", values, [1.0, 0.5], density=0.5, seed=2, svd_rank=12)
    kept = [kept_at_random(x, 0.5, 2, "q", name) for name, x in zip("ab", dense, strict=True)]
    wanted = combined(kept, [1.0, 0.5], None)
    np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-5)


# --------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("name", RANDOM)
def test_seeds(name: str) -> None:
    values, options = [some(0), some(1)], {"density": 0.5}
    first, again, other = (
        run(name, values, [1.0, 1.0], seed=seed, **options).delta_weight() for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    elsewhere = named_method(name).function(stack(values, [1.0, 1.0], "k"), **options)
    assert (first != elsewhere.delta_weight()).any()


@pytest.mark.parametrize("name", RANDOM)
def test_a_site_that_another_operand_lacks_changes_no_draw(name: str) -> None:
    """Nor does the order of the operands."""
    value, zero = some(1), lora(np.zeros((3, INPUTS)), np.zeros((OUTPUTS, 3)))
    both = [adapter("q"), adapter("q")]
    found = [
        named_method(name)
        .function(Stack("q", values, weights, names, both), density=0.5, seed=4)
        .delta_weight()
        for values, weights, names in (
            ([zero, value], [1.0, 2.0], ["a", "b"]),
            ([value, zero], [2.0, 1.0], ["b", "a"]),
            ([value], [2.0], ["b"]),
        )
    ]
    assert found[0].any()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-9)


@pytest.mark.parametrize("name", ON_DELTAS)
def test_large_deltas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fits at once, the same entries are kept, and the truncation is nearly the best."""
    values = [lora(random(3, 600, seed=s), random(500, 3, seed=s)) for s in (1, 2)]
    options = options_of(name, 0.4, "total", 5)
    kept = []
    for operand, value in zip("ab", values, strict=True):
        dense = value.delta_weight()
        if name in RANDOM:
            kept.append(kept_at_random(dense, 0.4, 5, "q", operand))
        else:
            least = np.sort(np.abs(dense), axis=None)[-int(0.4 * dense.size)]
            kept.append(np.where(np.abs(dense) >= least, dense, 0.0))
    wanted = kept[0] - 0.5 * kept[1]
    if name in VOTING:
        agree = [np.sign(x) == np.where(kept[0] + kept[1] >= 0, 1, -1) for x in kept]
        total = np.where(agree[0], kept[0], 0) - 0.5 * np.where(agree[1], kept[1], 0)
        wanted = total / np.maximum(agree[0].astype(int) + agree[1], 1)
    least = float(np.linalg.norm(np.linalg.svd(wanted, compute_uv=False)[4:]))
    for block in (1 << 17, 7 * 600):
        monkeypatch.setattr("pemath.methods._dense._BLOCK", block)
        found = run(name, values, [1.0, -0.5], svd_rank=4, **options)
        lost = float(np.linalg.norm(found.delta_weight() - wanted))
        assert least * (1 - 1e-6) <= lost <= 1.01 * least
        assert abs(found.left_out - lost) <= 1e-4 * lost


def test_no_matrix_is_held() -> None:
    """Of 54 MB each in float32."""
    values = [lora(random(2, 3000, seed=s), random(4500, 2, seed=s)) for s in (1, 2)]
    tracemalloc.start()
    try:
        run("peft_ties_svd", values, [1.0, -0.5], density=0.2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20


# ------------------------------------------------------------------------- equalities and faults


@pytest.mark.parametrize("name", ["peft_magnitude_prune", "peft_dare_linear"])
def test_with_everything_kept_it_is_linear(name: str) -> None:
    values, weights = [some(0, scale=2.0), some(1, scale=0.5), some(2)], [1.0, -0.5, 0.3]
    wanted, found = (factors(run(n, values, weights)) for n in ("peft_linear", name))
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("name", ["peft_magnitude_prune_svd", "peft_dare_linear_svd"])
def test_with_everything_kept_it_is_svd(name: str) -> None:
    values, weights = [some(0, scale=2.0), some(1, rank=2)], [1.0, -0.5]
    wanted, found = (run(n, values, weights, svd_rank=3).delta_weight() for n in ("peft_svd", name))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", [*PRUNING, "peft_cat"])
def test_one_operand_is_linear(name: str) -> None:
    """Not pruned, not truncated."""
    options = {"density": 0.2} if name in PRUNING else {}
    wanted = factors(run("peft_linear", [some(scale=0.5)], [-0.7]))
    for own, other in zip(
        factors(run(name, [some(scale=0.5)], [-0.7], **options)), wanted, strict=True
    ):
        np.testing.assert_array_equal(own, other)


def test_cat_is_the_sum() -> None:
    values = [some(0, scale=2.0), some(1, rank=1, scale=-0.5), some(2, rank=4)]
    wanted, found = (run(name, values, [0.7, -1.5, 0.1]) for name in ("exact", "peft_cat"))
    np.testing.assert_allclose(found.delta_weight(), wanted.delta_weight(), atol=1e-5)
    assert found.rank == wanted.rank == 8


def test_cat_of_equal_factors_keeps_both() -> None:
    """PEFT does not look for what is redundant."""
    assert run("peft_cat", [some(), some()], [0.5, 0.5]).rank == 6


@pytest.mark.parametrize("name", VOTING)
def test_a_difference_is_voted_on_as_a_sum(name: str) -> None:
    """Of operands without a common sign, what is larger wins, and a minus sign changes nothing."""
    x, y = some(0), some(1)
    difference = run(name, [x, y], [1.0, -1.0], **_whole(name)).delta_weight()
    vanishing = run(name, [x, x], [1.0, -1.0], **_whole(name)).delta_weight()
    np.testing.assert_allclose(vanishing, 0, atol=1e-6)
    if name in ON_DELTAS:
        dense = [value.delta_weight() for value in (x, y)]
        opposite = dense[0] * dense[1] < 0
        larger = np.where(np.abs(dense[0]) > np.abs(dense[1]), dense[0], -dense[1])
        # TIES on a and -b would add what agrees after the sign: |a| + |b|, here halved.
        np.testing.assert_allclose(difference[opposite], larger[opposite], atol=1e-5)
        assert opposite.any()


def _whole(name: str) -> dict[str, Any]:
    return {"svd_rank": INPUTS} if name in ON_DELTAS else {}


@pytest.mark.parametrize("name", VOTING)
def test_equal_adapters_with_half_weights_give_half(name: str) -> None:
    found = run(name, [some(), some()], [0.5, 0.5], **_whole(name)).delta_weight()
    np.testing.assert_allclose(found, 0.5 * some().delta_weight(), atol=1e-5)


def test_dare_ties_gives_too_much() -> None:
    """Two equal deltas: where one is dropped, the other counts alone, and is divided by the density."""
    value = lora(random(1, 60), random(50, 1))
    density = 0.25
    found = sum(
        run("peft_dare_ties_svd", [value, value], [1.0, 1.0], density=density, seed=seed,
            svd_rank=50).delta_weight()
        for seed in range(20)
    ) / 20  # fmt: skip
    delta = value.delta_weight()
    share = float((found * delta).sum() / (delta * delta).sum())
    assert abs(share - (2 - density)) < 0.1


@pytest.mark.parametrize("name", ON_DELTAS)
def test_clamp(name: str) -> None:
    values, options = [some(0), some(1)], {"density": 0.6, "svd_rank": 3}
    a, b = factors(run(name, values, [1.0, 1.0], **options))
    highest = np.quantile(np.concatenate([b.ravel(), a.ravel()]), 0.9)
    clamped = factors(run(name, values, [1.0, 1.0], svd_clamp=0.9, **options))
    np.testing.assert_allclose(clamped[0], np.clip(a, -highest, highest), atol=1e-12)
    np.testing.assert_allclose(clamped[1], np.clip(b, -highest, highest), atol=1e-12)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("density", [-0.1, 1.1, 30.0, math.nan])
@pytest.mark.parametrize("name", PRUNING)
def test_densities_out_of_range(name: str, density: float) -> None:
    with pytest.raises(RequestError, match="density"):
        run(name, [some(0), some(1)], [1.0, 1.0], density=density)


@pytest.mark.parametrize("name", PRUNING)
def test_density_zero(name: str) -> None:
    """Keeps nothing; at random it would be 0 / 0, and little more is not drawn finely enough."""
    if name in RANDOM:
        for density in (0.0, 1e-6):
            with pytest.raises(RequestError, match="density"):
                run(name, [some(0), some(1)], [1.0, 1.0], density=density)
    else:
        assert not run(name, [some(0), some(1)], [1.0, 1.0], density=0.0).delta_weight().any()


@pytest.mark.parametrize("name", VOTING)
def test_votes_that_peft_does_not_know(name: str) -> None:
    with pytest.raises(RequestError, match="majority_sign_method") as refused:
        run(name, [some(0), some(1)], [1.0, 1.0], majority_sign_method="median\x1b[2J")
    assert "\x1b" not in str(refused.value)
    assert '"total" or "frequency"' in str(refused.value)


@pytest.mark.parametrize("options", [{"svd_rank": 0}, {"svd_clamp": -0.1}, {"svd_clamp": 1.5}])
@pytest.mark.parametrize("name", ON_DELTAS)
def test_options_of_the_svd(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        run(name, [some(0), some(1)], [1.0, 1.0], **options)


@pytest.mark.parametrize("name", PRUNING)
def test_nothing_that_is_no_number_is_pruned_away(name: str) -> None:
    bad = random(3, INPUTS)
    bad[1, 2] = math.nan
    for broken in (
        lora(bad, random(OUTPUTS, 3)),
        lora(random(3, INPUTS), np.full((OUTPUTS, 3), math.inf)),
    ):
        with pytest.raises(NonFiniteValue):
            run(name, [some(0), broken], [1.0, 1.0], density=0.2)


@pytest.mark.parametrize("name", [*PRUNING, "peft_cat"])
def test_kinds(name: str) -> None:
    full = FullDelta((2, 2), ((1.0, Stored.of(random(2, 2))),))
    assert isinstance(refusal(name, [ia3(1, 2), ia3(1, 2)]), KindMismatch)
    assert isinstance(refusal(name, [full, full]), KindMismatch)
    geometry = Geometry("experts", 4, (3,), 2)
    expert = lora(random(4, 3), random(4, 4), geometry=geometry)
    assert isinstance(refusal(name, [expert, expert]), KindMismatch)
    assert refusal(name, [some(0), some(1)]) is None


@pytest.mark.parametrize("name", [*PRUNING, "peft_cat"])
def test_ranks(name: str) -> None:
    error = refusal(name, [some(rank=2), some(rank=3)])
    assert isinstance(error, RankMismatch) if name in ON_FACTORS else error is None
    stated = [adapter("q", r=3), adapter("q", r=2, rank_pattern={"q": 4})]
    error = refusal(name, [some(0), some(1)], operands=stated)
    assert isinstance(error, RankMismatch) if name in ON_FACTORS else error is None


def test_ranks_that_are_written() -> None:
    """PEFT's one rank for all sites, from the configurations."""
    stated = [adapter("q", r=3), adapter("q", r=2, rank_pattern={"k": 8})]
    bounds = {name: named_method(name).rank([3, 2], stated) for name in (*PRUNING, "peft_cat")}
    assert bounds == dict.fromkeys(ON_FACTORS, 3) | dict.fromkeys(ON_DELTAS, 8) | {"peft_cat": 11}
    assert named_method("peft_ties_svd").rank([3, 2], stated, svd_rank=5) == 5
    assert named_method("peft_cat").rank([3], stated[:1]) == 3
    made = named_method("peft_cat").function(
        stack([some(0), some(1, rank=2)], [1.0, 1.0], operands=stated)
    )
    assert made.rank == 11


# ---------------------------------------------------------------------------------- AdapterHub


@pytest.mark.parametrize("name", ADAPTERHUB)
def test_weights_that_add_up_to_zero(name: str) -> None:
    with pytest.raises(RequestError, match="add up to zero") as refused:
        run(name, [some(0), some(1)], [1.0, -1.0])
    assert "normalize_weights=false" in str(refused.value)
    assert run(name, [some(0), some(1)], [1.0, -1.0], normalize_weights=False).norm() > 0


@pytest.mark.parametrize("name", ADAPTERHUB)
def test_what_adapterhub_refuses(name: str) -> None:
    assert isinstance(refusal(name, [some(rank=2), some(rank=3)]), RankMismatch)
    error = refusal(name, [some(scale=2.0), some(1, scale=0.5)])
    assert isinstance(error, OperandError)
    assert "0.5, 2" in str(error)
    error = refusal(name, [some()], operands=[adapter("q"), adapter("k")])
    assert isinstance(error, OperandError)
    assert "all operands" in str(error)
    full = FullDelta((2, 2), ((1.0, Stored.of(random(2, 2))),))
    assert isinstance(refusal(name, [full, full]), KindMismatch)
    vectors = refusal(name, [ia3(1, 2), ia3(2, 1)])
    assert isinstance(vectors, KindMismatch) if name.endswith("svd") else vectors is None


def test_adapterhub_on_factors() -> None:
    values, weights = [some(0, scale=2.0), some(1, scale=2.0)], [0.9, -0.4]
    (a0, b0), (a1, b1) = ((random(3, INPUTS, seed=s), random(OUTPUTS, 3, seed=s)) for s in (0, 1))
    for normalize, total in ((False, 1.0), (True, 0.5)):
        c, d = (weight / total for weight in weights)
        linear = 2 * (c * b0 + d * b1) @ (c * a0 + d * a1)
        negated = 2 * (c * b0 + d * b1) @ (abs(c) * a0 + abs(d) * a1)
        for name, wanted in zip(ADAPTERHUB, (linear, negated), strict=False):
            found = run(name, values, weights, normalize_weights=normalize)
            np.testing.assert_allclose(found.delta_weight(), wanted, rtol=1e-5, atol=1e-5)


def test_adapterhub_takes_sums() -> None:
    """A sum has no alpha: its factors are taken as they are."""
    values = [some(0, scale=2.0) + some(1, scale=2.0), some(2, rank=6, scale=2.0)]
    a = np.concatenate([random(3, INPUTS, seed=0), random(3, INPUTS, seed=1)])
    b = 2 * np.concatenate([random(OUTPUTS, 3, seed=0), random(OUTPUTS, 3, seed=1)], axis=1)
    other_a, other_b = random(6, INPUTS, seed=2), 2 * random(OUTPUTS, 6, seed=2)
    assert refusal("adapters_linear", values) is None
    found = run("adapters_linear", values, [0.5, 0.5])
    wanted = 0.25 * (b + other_b) @ (a + other_a)
    np.testing.assert_allclose(found.delta_weight(), wanted, rtol=1e-5, atol=1e-5)


def test_negating_b_is_the_paper_without_normalizing() -> None:
    values, weights = [some(0, scale=2.0), some(1, scale=2.0), some(2, scale=2.0)], [1.0, -0.5, 0.3]
    wanted = run("paper", values, weights).delta_weight()
    found = run("adapters_linear_only_negate_b", values, weights, normalize_weights=False)
    np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-5)


def test_adapterhub_shrinks_with_the_rank() -> None:
    values = [some(0, scale=2.0), some(1, scale=2.0)]
    dense = run("exact", values, [0.5, 0.5]).delta_weight()
    left, best, right = np.linalg.svd(dense, full_matrices=False)
    for rank in (1, 3, 5, 6):
        found = run("adapters_delta_w_svd", values, [1.0, 1.0], svd_rank=rank)
        kept = min(rank, 5)
        wanted = (3 / rank) * (left[:, :kept] * best[:kept]) @ right[:kept]
        np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-12)
    usual = run("adapters_delta_w_svd", values, [1.0, 1.0]).delta_weight()
    np.testing.assert_allclose(usual, (left[:, :3] * best[:3]) @ right[:3], atol=1e-12)
    with pytest.raises(RequestError, match="svd_rank"):
        run("adapters_delta_w_svd", values, [1.0, 1.0], svd_rank=0)


def test_adapterhub_on_vectors() -> None:
    """Exact where the weights have the sum one; otherwise around zero."""
    values = [ia3(1.5, 0.5), ia3(1.0, 2.0)]
    for name in ADAPTERHUB[:2]:
        mean = run(name, values, [3.0, 1.0])
        exact = run("exact", values, [0.75, 0.25])
        np.testing.assert_allclose(mean.vector(), exact.vector(), atol=1e-6)
        bare = run(name, values, [-1.0, 0.0], normalize_weights=False)
        np.testing.assert_allclose(bare.vector(), [-1.5, -0.5], atol=1e-6)
