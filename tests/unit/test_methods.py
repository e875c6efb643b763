"""Merge methods: the registry, their options, and what each computes on one site."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath.errors import KindMismatch, PemathError, RankMismatch, RequestError
from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Stack, method, methods, named_method

PREFIX = "base_model.model."
every_method = pytest.mark.parametrize("name", methods())
# Those of AdapterHub divide weights by their sum, and put signs on both factors; slerp has two ends.
every_other_method = pytest.mark.parametrize(
    "name", [n for n in methods() if not n.startswith("adapters_") and n != "slerp"]
)
# Options with which a method that prunes keeps all of a single operand.
KEEPING_ALL: dict[str, dict[str, Any]] = {
    "breadcrumbs": {"density": 1.0, "gamma": 0.0},
    "consensus": {"k": 1},
    "dare_linear": {"density": 1.0},
    "dare_rank": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0, "epsilon": 0.0},
    "magnitude_prune": {"density": 1.0},
    "ties": {"density": 1.0},
}


def random(*shape: int, seed: int = 0) -> Array:
    # Numbers that float32 holds, so that nothing is lost where a method computes in it.
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f4").astype("f8")


def lora(rank: int, seed: int = 0, scale: float = 1.0, a: Array | None = None) -> Lora:
    geometry = Geometry("linear", 7, (5,))
    wide_a = random(rank, 5, seed=seed) if a is None else a
    blocks = geometry.products(Stored.of(wide_a), Stored.of(random(7, rank, seed=seed)), scale)
    return Lora(geometry, blocks)


def ia3(values: Array) -> Ia3:
    return Ia3("output", (len(values), 1), ((1.0, Stored.of(values.reshape(-1, 1))),))


class Known:
    """Statistics of one operand, as a data-driven method asks for them."""

    def __init__(self, value: Any, seed: int) -> None:
        self._value, self._seed = value, seed

    def has_gram(self) -> bool:
        return isinstance(self._value, Lora)

    def gram(self) -> Array:
        inputs = random(20, 5, seed=self._seed)
        return inputs.T @ inputs / 20

    def fisher(self, read: Any, *, normalize: bool) -> Array:
        shape = read(self._value).shape
        return random(*shape, seed=self._seed) ** 2


def stack(values: list[Any], weights: list[float]) -> Stack:
    names, operands = list("abcdefgh")[: len(values)], [None] * len(values)
    known: Any = [Known(value, seed) for seed, value in enumerate(values)]
    return Stack("q", values, weights, names, operands, known)


def run(name: str, values: list[Any], weights: list[float], **options: Any) -> Any:
    return named_method(name).function(stack(values, weights), **options)


def factors(value: Lora) -> tuple[Array, Array]:
    (block,) = value.blocks
    return block.a(), block.b()


# ------------------------------------------------------------------------------------ registry


def test_the_methods_are_there_in_order() -> None:
    known = {"exact", "fisher", "paper", "peft_linear", "peft_svd", "regmean"}
    assert known <= methods().keys()
    assert list(methods()) == sorted(methods())


@every_other_method
def test_one_operand(name: str) -> None:
    value = lora(3, scale=0.5)
    for weight in (1.0, -1.0, 0.3):
        found = run(name, [value], [weight], **KEEPING_ALL.get(name, {}))
        np.testing.assert_allclose(
            found.delta_weight(), weight * value.delta_weight(), rtol=1e-5, atol=1e-6
        )


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="no method `papr`") as refused:
        named_method("papr")
    assert "paper" in str(refused.value)
    with pytest.raises(RequestError, match="the methods are"):
        named_method("xyz")


def test_a_method_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):

        @method(space="factor", source="nowhere")
        def exact(stack: Stack) -> Any:
            """Another one."""


# ------------------------------------------------------------------------------------- options


def test_options_are_checked_and_converted() -> None:
    paper, svd = named_method("paper"), named_method("peft_svd")
    assert paper.bind({"normalize": True}) == {"normalize": True}
    assert svd.bind({"svd_rank": 4.0, "svd_clamp": 1}) == {"svd_rank": 4, "svd_clamp": 1.0}
    assert type(svd.bind({"svd_rank": 4.0})["svd_rank"]) is int
    assert paper.bind({}) == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("paper", {"normalise": True}, "did you mean `normalize`"),
        ("paper", {"zzz": 1.0}, "its options are `weights`, `normalize`"),
        ("exact", {"normalize": True}, "no option `normalize`"),
        ("paper", {"normalize": 1.0}, "wrong value"),
        ("paper", {"normalize": "true"}, "wrong value"),
        ("peft_svd", {"svd_rank": 2.5}, "wrong value"),
        ("peft_svd", {"svd_rank": True}, "wrong value"),
        ("peft_svd", {"svd_rank": "2"}, "wrong value"),
        ("peft_svd", {"svd_rank": [2.0]}, "wrong value"),
        ("peft_svd", {"svd_clamp": False}, "wrong value"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        named_method(name).bind(options)


@pytest.mark.parametrize("options", [{"svd_rank": 0}, {"svd_clamp": -0.1}, {"svd_clamp": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        run("peft_svd", [lora(2), lora(2, seed=1)], [1.0, 1.0], **options)


def test_signatures_are_what_a_user_writes() -> None:
    assert named_method("paper").signature() == "paper(a, b, …, weights=[1, …], normalize=false)"
    assert named_method("exact").signature() == "exact(a, b, …, weights=[1, …])"
    call = pemath.parse("paper(a, b, weights=[1, -1/3], normalize=false)", a="x", b="y")
    assert dict(call.options)["weights"] == (Fraction(1), Fraction(-1, 3))  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------- exact and paper


def test_exact_takes_any_ranks_and_scales() -> None:
    values = [lora(2, scale=3.0), lora(5, seed=1), lora(1, seed=2, scale=-0.1)]
    weights = [0.5, -2.0, 7.0]
    found = run("exact", values, weights)
    wanted = sum(w * value.delta_weight() for w, value in zip(weights, values, strict=True))
    np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-13)
    assert found.rank == 8


def test_exact_takes_dense_deltas() -> None:
    values = [FullDelta((4, 3), ((1.0, Stored.of(random(4, 3, seed=s))),)) for s in (0, 1)]
    found = run("exact", values, [2.0, -1.0])
    np.testing.assert_allclose(
        found.delta_weight(), 2 * random(4, 3, seed=0) - random(4, 3, seed=1), atol=1e-14
    )


def test_paper_adds_the_factors() -> None:
    x, y = lora(3, scale=2.0), lora(3, seed=1, scale=-0.5)
    a, b = factors(run("paper", [x, y], [0.75, -0.25]))
    np.testing.assert_allclose(a, 0.75 * random(3, 5) + 0.25 * random(3, 5, seed=1), atol=1e-15)
    wanted = 0.75 * 2.0 * random(7, 3) - 0.25 * -0.5 * random(7, 3, seed=1)
    np.testing.assert_allclose(b, wanted, atol=1e-15)


def test_paper_normalised_divides_a() -> None:
    values = [lora(3, seed=s) for s in (0, 1, 2)]
    weights = [1.0, 0.5, -0.5]
    a, b = factors(run("paper", values, weights))
    normal_a, normal_b = factors(run("paper", values, weights, normalize=True))
    np.testing.assert_allclose(normal_a, a / 2.0, atol=1e-15)
    np.testing.assert_array_equal(normal_b, b)


def test_paper_keeps_a_single_module_whole() -> None:
    value = lora(3)
    found = run("paper", [value], [-0.5])
    assert found.blocks[0].parts[0].a is value.blocks[0].parts[0].a
    for normalize in (False, True):
        delta = run("paper", [value], [-0.5], normalize=normalize).delta_weight()
        np.testing.assert_allclose(delta, -0.5 * value.delta_weight(), atol=1e-14)


def test_paper_normalised_without_any_weight_is_nothing() -> None:
    found = run("paper", [lora(3), lora(3, seed=1)], [0.0, 0.0], normalize=True)
    assert not found.delta_weight().any()


@pytest.mark.parametrize("name", ["paper", "peft_linear"])
def test_unequal_ranks_are_refused(name: str) -> None:
    error = named_method(name).check(stack([lora(2), lora(3)], [1.0, 1.0]))
    assert isinstance(error, RankMismatch)
    assert "a has rank 2, b has rank 3" in str(error)
    assert "exact" in (error.hint or "")
    assert named_method(name).check(stack([lora(2), lora(2)], [1.0, 1.0])) is None
    assert named_method("exact").check(stack([lora(2), lora(3)], [1.0, 1.0])) is None
    assert named_method("peft_svd").check(stack([lora(2), lora(3)], [1.0, 1.0])) is None


# ------------------------------------------------------------------------- what PEFT computes


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, -1.0], [-0.3, 2.0], [0.0, 1.0]])
def test_peft_linear_takes_roots(weights: list[float]) -> None:
    scales = [2.0, 0.25]
    values = [lora(3, seed=s, scale=scale) for s, scale in enumerate(scales)]
    a, b = factors(run("peft_linear", values, weights))
    wanted_a, wanted_b = np.zeros((3, 5), "f4"), np.zeros((7, 3), "f4")
    for number, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
        root = math.sqrt(abs(weight * scale))
        sign = math.copysign(1.0, weight * scale)
        wanted_a += np.float32(sign * root) * random(3, 5, seed=number).astype("f4")
        wanted_b += np.float32(root) * random(7, 3, seed=number).astype("f4")
    np.testing.assert_array_equal(a, wanted_a.astype("f8"))
    np.testing.assert_array_equal(b, wanted_b.astype("f8"))


def test_peft_linear_loses_a_difference_of_equal_initialisations() -> None:
    """The paper's own setting: a - b vanishes, and the mean comes out doubled."""
    a = random(3, 5)
    x, y = lora(3, seed=0, a=a), lora(3, seed=1, a=a)
    difference = run("peft_linear", [x, y], [1.0, -1.0])
    assert difference.norm() <= 1e-6 * (x.norm() + y.norm())
    mean = run("peft_linear", [x, y], [0.5, 0.5])
    exact = run("exact", [x, y], [0.5, 0.5])
    np.testing.assert_allclose(mean.delta_weight(), 2 * exact.delta_weight(), atol=1e-5)
    paper = run("paper", [x, y], [0.5, 0.5])
    np.testing.assert_allclose(paper.delta_weight(), exact.delta_weight(), atol=1e-13)


def test_peft_linear_forgets_the_one_of_ia3() -> None:
    first, second = 1 + 0.1 * random(6), 1 + 0.1 * random(6, seed=1)
    found = run("peft_linear", [ia3(first), ia3(second)], [1.0, -1.0])
    np.testing.assert_allclose(found.vector(), first - second, atol=1e-6)
    right = run("paper", [ia3(first), ia3(second)], [1.0, -1.0])
    np.testing.assert_allclose(right.vector(), 1 + first - second, atol=1e-15)


def test_peft_svd_truncates_to_the_rank_asked_for() -> None:
    values = [lora(2), lora(3, seed=1)]
    dense = run("exact", values, [1.0, -0.5]).delta_weight()
    left, best, right = np.linalg.svd(dense, full_matrices=False)
    for rank in (1, 2, 4, 5, 9):
        found = run("peft_svd", values, [1.0, -0.5], svd_rank=rank)
        kept = min(rank, 5)
        wanted = (left[:, :kept] * best[:kept]) @ right[:kept]
        np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-12)
        a, b = factors(found)
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), best[:kept], atol=1e-12)


def test_peft_svd_clamps_both_factors() -> None:
    values = [lora(3), lora(3, seed=1)]
    a, b = factors(run("peft_svd", values, [1.0, 1.0], svd_rank=3))
    highest = np.quantile(np.concatenate([b.ravel(), a.ravel()]), 0.9)
    clamped_a, clamped_b = factors(run("peft_svd", values, [1.0, 1.0], svd_rank=3, svd_clamp=0.9))
    np.testing.assert_allclose(clamped_a, np.clip(a, -highest, highest), atol=1e-12)
    np.testing.assert_allclose(clamped_b, np.clip(b, -highest, highest), atol=1e-12)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0]])
def test_peft_svd_clamps_nothing_to_nothing(weights: list[float]) -> None:
    value = lora(3)
    found = run("peft_svd", [value, value], weights, svd_rank=3, svd_clamp=0.5)
    assert found.norm() <= 1e-12


def test_peft_svd_is_for_lora() -> None:
    error = named_method("peft_svd").check(stack([ia3(np.ones(3))] * 2, [1.0, 1.0]))
    assert isinstance(error, KindMismatch)


# ------------------------------------------------------------------- in an expression, on files


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """`a` and `b` have rank 2 at q and k, `c` has rank 4 at q alone."""
    written = {}
    for seed, (name, rank, sites) in enumerate([("a", 2, "qk"), ("b", 2, "qk"), ("c", 4, "q")]):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {}
        for number, site in enumerate(sites):
            key = f"{PREFIX}layer.{site}.lora_"
            tensors[f"{key}A.weight"] = random(rank, 5, seed=10 * seed + number).astype("f4")
            tensors[f"{key}B.weight"] = random(7, rank, seed=10 * seed + number).astype("f4")
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": 2 * rank,
            "target_modules": [*sites],
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        written[name] = str(folder)
    return written


def used(folders: dict[str, str], names: str) -> dict[str, str]:
    return {name: folders[name] for name in names}


def deltas(values: Any) -> dict[str, Array]:
    return {site.removeprefix("layer."): value.delta_weight() for site, value in values}


def test_a_call_and_the_arithmetic_agree(folders: dict[str, str]) -> None:
    operands = used(folders, "ab")
    for arithmetic, text in {
        "paper": "paper(a, b, weights=[0.9, -0.2])",
        "paper(normalize=true)": "paper(a, b, weights=[0.9, -0.2], normalize=true)",
        "peft_linear": "peft_linear(0.9*a, b, weights=[1, -0.2])",
        "peft_svd(svd_rank=1)": "peft_svd(a, -b, weights=[0.9, 0.2], svd_rank=1)",
        "exact": "exact(a, b, weights=[0.9, -0.2])",
    }.items():
        whole = deltas(pemath.evaluate("0.9*a - 0.2*b", operands=operands, arithmetic=arithmetic))
        called = deltas(pemath.evaluate(text, operands=operands))
        for site in "qk":
            np.testing.assert_allclose(whole[site], called[site], atol=1e-12)


def test_a_rank_mismatch_names_the_sites_and_exact(folders: dict[str, str], tmp_path: Path) -> None:
    for arithmetic in ("paper", "peft_linear"):
        with pytest.raises(RankMismatch) as refused:
            pemath.compose(
                "a + c", tmp_path / "out", operands=used(folders, "ac"), arithmetic=arithmetic
            )
        assert "layer.q" in str(refused.value)
        assert "exact" in str(refused.value)
        assert refused.value.exit_code == 4
        assert not (tmp_path / "out").exists()


def test_a_site_of_one_operand_keeps_its_a(folders: dict[str, str], tmp_path: Path) -> None:
    """Under the paper's arithmetic a site that only one operand has is a single module there."""
    operands = used(folders, "ac")
    found = deltas(pemath.evaluate("paper(a, 0*c, weights=[0.5, 1])", operands=operands))
    alone = deltas(pemath.evaluate("0.5*a", operands=used(folders, "a")))
    np.testing.assert_allclose(found["k"], alone["k"], atol=1e-13)
    np.testing.assert_allclose(found["q"], alone["q"], atol=1e-13)


@pytest.mark.parametrize(
    "text",
    [
        "paper(a, b, weights=[1])",
        "paper(a, b, weights=[1, 2, 3])",
        "paper(a, b, weights=2)",
        'paper(a, b, weights="11")',
        "paper(a, b, weights=[true, false])",
        "paper(a, b, weights=[[1, 1], 1])",
        "paper(a, b, nomalize=true)",
        "papre(a, b)",
        "paper()",
        "paper(weights=[])",
        "exact()",
    ],
)
def test_bad_calls_are_refused_before_any_tensor_is_read(
    folders: dict[str, str], tmp_path: Path, text: str
) -> None:
    names = "ab" if "a, b" in text else ""
    with pytest.raises(PemathError) as refused:
        pemath.compose(text, tmp_path / "out", operands=used(folders, names))
    assert refused.value.exit_code in {2, 4}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arithmetic", ["", "papr", "paper(a)", "paper(weights=[1, 1])", "paper("])
def test_bad_arithmetics_are_refused(
    folders: dict[str, str], tmp_path: Path, arithmetic: str
) -> None:
    """`weights` come from the expression."""
    with pytest.raises(PemathError) as refused:
        pemath.compose(
            "a + b", tmp_path / "out", operands=used(folders, "ab"), arithmetic=arithmetic
        )
    assert refused.value.exit_code == 2


def test_peft_svd_of_expressions_keeps_their_rank(folders: dict[str, str]) -> None:
    """The largest operand's rank: operands that are expressions have ranks as well."""
    operands = used(folders, "ab")
    found = deltas(pemath.evaluate("peft_svd(a + b, a - b, weights=[1, 0.5])", operands=operands))
    wanted = deltas(pemath.evaluate("1.5*a + 0.5*b", operands=operands))
    for site in "qk":
        np.testing.assert_allclose(found[site], wanted[site], atol=1e-5)


def test_methods_of_methods(folders: dict[str, str], tmp_path: Path) -> None:
    operands = used(folders, "abc")
    text = "paper(paper(a, b), 0.5*exact(a, b, weights=[0, 1]) - b/2 + a, weights=[0.5, 0.5]) + c"
    with pytest.raises(RankMismatch):
        pemath.compose(text, tmp_path / "out", operands=operands)
    text = "paper(paper(a, b), peft_svd(a, b, svd_rank=2), weights=[0.5, -1]) - c"
    done = pemath.compose(text, tmp_path / "out", operands=operands)
    stored = load_file(done.folder / "adapter_model.safetensors")
    assert len(stored) == 4
    assert done.certificate.error > 0


@pytest.mark.parametrize(
    "text",
    [
        "paper(peft_svd(a, b, weights=[0, 0]), b)",
        "paper(0*a, b)",
        "paper(peft_svd(a, -a), b)",
        "peft_svd(0*a + b, b, weights=[1, -1])",
    ],
)
def test_a_method_of_a_result_that_is_zero(
    folders: dict[str, str], tmp_path: Path, text: str
) -> None:
    """Zero has no factors; adding some to it is either done or refused in words."""
    try:
        done = pemath.compose(text, tmp_path / "out", operands=used(folders, "ab"))
    except RankMismatch:
        return
    assert math.isfinite(done.certificate.error)
