"""Weights by layer: which sites a key means, and what compositions come of them."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import pemath
from pemath.composition.lock import rebuild, verify
from pemath.composition.plan import make_plan
from pemath.composition.request import read_request, request_of
from pemath.errors import HeadChoiceNeeded, OperandError, RankMismatch, RequestError, UsageError
from pemath.expression.layers import layer_key
from pemath.expression.linear import normal_form
from pemath.expression.tree import LayerWeights
from pemath.formats.floats import Stored

LLAMA = "model.layers.{}.self_attn.q_proj"


# ------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("key", "site", "means"),
    [
        ("layers.3", "model.layers.3.self_attn.q_proj", True),
        ("layers.3", "model.layers.13.self_attn.q_proj", False),
        ("layers.3", "model.layers.30.self_attn.q_proj", False),
        ("layers.3", "model.layers.12.experts.3.up_proj", False),
        ("experts.3", "model.layers.12.experts.3.up_proj", True),
        ("layers.0-15", "model.layers.0.mlp", True),
        ("layers.0-15", "model.layers.15.mlp", True),
        ("layers.0-15", "model.layers.16.mlp", False),
        ("layers.03", "model.layers.3.mlp", True),
        ("layers.0-3.q_proj", "model.layers.2.self_attn.q_proj", True),
        ("layers.0-3.q_proj", "model.layers.2.self_attn.k_proj", False),
        ("q_proj", "model.layers.2.self_attn.q_proj", True),
        ("q_proj", "model.layers.2.self_attn.q_proj_2", False),
        ("q_proj", "q_proj", True),
        ("self_attn.q_proj", "model.layers.2.self_attn.q_proj", True),
        ("model.q_proj", "model.layers.2.self_attn.q_proj", True),
        ("q_proj.model", "model.layers.2.self_attn.q_proj", False),
        ("layers", "model.layers.2.self_attn.q_proj", True),
        ("layers.0-3", "encoder.layers.x.layers.2.q", True),
        ("h.0-5.c_attn", "transformer.h.4.attn.c_attn", True),
        ("block.1.layer.0", "encoder.block.1.layer.0.SelfAttention.q", True),
        ("block.1.layer.0", "encoder.block.1.layer.1.layer.0.q", True),
        ("block.1.layer.0", "encoder.block.0.layer.0.SelfAttention.q", False),
        ("a.1-2.3-4", "a.2.3", True),
        ("a.1-2.3-4", "a.2.x.3", False),
        ("a.a", "a", False),
        ("a.a", "a.a", True),
        ("layers.1", "layers.²", False),
        ("layers.1", "layers.\u0661", False),
        ("layers.1", "layers." + "1" * 5000, False),
    ],
)
def test_which_sites_a_key_means(key: str, site: str, means: bool) -> None:
    assert layer_key(key).matches(site) is means


def brute(key: str, site: str) -> bool:
    """By trying all places for all parts of the key."""
    wanted, there = key.split("."), site.split(".")
    for places in itertools.combinations(range(len(there)), len(wanted)):
        fits = True
        for index, place in enumerate(places):
            numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", wanted[index])
            if numbers:
                fits &= place == places[index - 1] + 1 and there[place].isdigit()
                fits = fits and int(numbers[1]) <= int(there[place]) <= int(
                    numbers[2] or numbers[1]
                )
            else:
                fits &= there[place] == wanted[index]
        if fits:
            return True
    return False


_names, _numbers = st.sampled_from(["a", "b"]), st.sampled_from(["0", "1", "0-1", "1-2"])


@given(
    st.builds(
        lambda n, rest: ".".join([n, *rest]), _names, st.lists(_names | _numbers, max_size=4)
    ),
    st.lists(_names | st.sampled_from("012"), min_size=1, max_size=7).map(".".join),
)
@settings(max_examples=1000)
@example("a.1.b", "a.0.a.1.b")
def test_keys_match_as_their_definition_says(key: str, site: str) -> None:
    assert layer_key(key).matches(site) is brute(key, site)


@pytest.mark.parametrize(
    "key", ["", ".", "a.", "a..b", "3", "0-1", "a.2-1", "*.a", "a*", " a", "a b. c", "a" * 201]
)
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(UsageError, match="key"):
        LayerWeights.of({key: 1, "*": 1})


@pytest.mark.parametrize("weights", [{}, {1: 2}, {"a": "1"}, {"a": True}, {"a": float("nan")}])
def test_what_are_no_weights(weights: dict[Any, Any]) -> None:
    with pytest.raises(UsageError):
        pemath.adapter("x") * weights


def test_the_first_key_that_matches_decides_and_the_star_comes_last() -> None:
    weights = LayerWeights.of({"*": 9, "layers.0-3.q_proj": 1, "layers.0-7": 2})
    assert weights.decides(LLAMA.format(2)) == ("layers.0-3.q_proj", 1)
    assert weights.decides(LLAMA.format(5)) == ("layers.0-7", 2)
    assert weights.decides(LLAMA.format(8)) == ("*", 9)
    assert LayerWeights.of({"layers.0": 1}).decides(LLAMA.format(8)) is None


def test_python_writes_what_the_language_reads() -> None:
    a, b = pemath.adapter("A"), pemath.adapter("B")
    tree = 2 * (a * {"layers.0-1": 0.3, "*": 0.8}) - {"q_proj": 1} * b
    assert str(tree) == '2*({"layers.0-1": 0.3, "*": 0.8}*"A") - {"q_proj": 1}*"B"'
    assert pemath.parse(str(tree)) == tree
    assert copy.deepcopy(tree) == tree
    with pytest.raises(UsageError, match="at a site"):
        normal_form(tree)
    with pytest.raises(TypeError):
        a + {"*": 1}  # type: ignore[operator]
    with pytest.raises(TypeError):
        a / {"*": 1}  # type: ignore[operator]


# ------------------------------------------------------------------------------------ composition


def write(
    folder: Path, seed: int, *, layers: int = 4, rank: int = 2, head: str | None = None
) -> dict[str, Any]:
    """A LoRA on q_proj and up_proj of some layers, and its dense deltas from the same numbers."""
    rng = np.random.default_rng(seed)
    tensors, dense = {}, {}
    for layer in range(layers):
        for module in ("self_attn.q_proj", "mlp.up_proj"):
            site = f"model.layers.{layer}.{module}"
            a = rng.standard_normal((rank, 6)).astype(np.float32)
            b = rng.standard_normal((5, rank)).astype(np.float32)
            tensors[f"base_model.model.{site}.lora_A.weight"] = a
            tensors[f"base_model.model.{site}.lora_B.weight"] = b
            dense[site] = b.astype(float) @ a.astype(float) * 2
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "up_proj"],
    }
    if head:
        config["modules_to_save"] = [head]
        tensors[f"base_model.model.{head}.weight"] = rng.standard_normal((2, 5)).astype(np.float32)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return dense


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    a, b = write(tmp_path / "a", 1), write(tmp_path / "b", 2)
    return {"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}, a, b


def layer_of(site: str) -> int:
    return int(site.split(".")[2])


def test_each_layer_gets_its_weight(pair: Any, tmp_path: Path) -> None:
    bound, a, b = pair
    text = 'a * {"layers.0-1": 0.3, "layers.2-3": 0.8} - 2*({"layers.1.q_proj": 1, "*": 0.25} * b)'
    done = pemath.compose(text, tmp_path / "out", operands=bound, dtype="float64")
    assert done.certificate.error < 1e-12
    stored = dict(pemath.evaluate(pemath.adapter(str(tmp_path / "out"))))
    for site in a:
        first = 0.3 if layer_of(site) < 2 else 0.8
        second = 1 if layer_of(site) == 1 and "q_proj" in site else 0.25
        np.testing.assert_allclose(
            stored[site].delta_weight(), first * a[site] - 2 * second * b[site], atol=1e-12
        )
    lock = json.loads((tmp_path / "out" / "pemath.lock.json").read_text())
    assert lock["request"]["expression"] == text
    assert text.replace('"', "") in (tmp_path / "out" / "README.md").read_text().replace('"', "")
    verify(tmp_path / "out")
    rebuild(tmp_path / "out", tmp_path / "again")
    tree = pemath.adapter(bound["a"]) * {"layers.0-1": 0.3, "layers.2-3": 0.8}
    tree = tree - 2 * ({"layers.1.q_proj": 1, "*": 0.25} * pemath.adapter(bound["b"]))
    pemath.compose(tree, tmp_path / "tree", dtype="float64")
    one, other = (tmp_path / n / "adapter_model.safetensors" for n in ("out", "tree"))
    assert one.read_bytes() == other.read_bytes()


def test_in_yaml(pair: Any, tmp_path: Path) -> None:
    bound, a, b = pair
    file = tmp_path / "request.yaml"
    file.write_text(
        'expression: \'a * {"layers.0-1": 0.5, "*": 1} + b\'\n'
        f"operands: {{a: {bound['a']}, b: {bound['b']}}}\n"
    )
    fields = read_request(file)
    for site, value in pemath.evaluate(fields["expression"], operands=fields["operands"]):
        factor = 0.5 if layer_of(site) < 2 else 1
        np.testing.assert_allclose(value.delta_weight(), factor * a[site] + b[site], atol=1e-12)


def test_cancellation_is_exact_at_each_site(pair: Any, tmp_path: Path) -> None:
    """0.1 + 0.2 - 0.3 is nothing in the first layers, so there the rank is that of b alone."""
    bound, _, b = pair
    text = '{"layers.0-1": 0.1, "*": 0.5}*a + 0.2*a - 0.3*a + b'
    options = {"dtype": "float64", "profile": "compact"}
    done = pemath.compose(text, tmp_path / "out", operands=bound, **options)
    for site, report in done.certificate.sites.items():
        assert report.rank == (2 if layer_of(site) < 2 else 4)
    for site, value in pemath.evaluate(text, operands=bound):
        if layer_of(site) < 2:
            np.testing.assert_array_equal(value.delta_weight(), b[site])


def test_the_rank_bound_is_that_of_each_site(pair: Any) -> None:
    bound, _, _ = pair
    plan = make_plan(request_of('a*{"layers.0": 0, "*": 1} + b*{"q_proj": 1, "*": 0}', bound))
    ranks = {site: plan.evaluator.rank(plan.expression, site) for site in plan.exact}
    assert ranks == {site: 2 * (layer_of(site) > 0) + 2 * ("q_proj" in site) for site in plan.exact}


def test_a_method_takes_them_as_weights(pair: Any) -> None:
    bound, _, _ = pair
    layered = dict(
        pemath.evaluate(
            'paper({"layers.0-1": 0.3, "*": 2}*a, b, weights=[1, -0.5])', operands=bound
        )
    )
    first = dict(pemath.evaluate("paper(a, b, weights=[0.3, -0.5])", operands=bound))
    rest = dict(pemath.evaluate("paper(a, b, weights=[2, -0.5])", operands=bound))
    for site, value in layered.items():
        wanted = (first if layer_of(site) < 2 else rest)[site]
        np.testing.assert_array_equal(value.delta_weight(), wanted.delta_weight())


def test_draws_do_not_depend_on_weights(pair: Any) -> None:
    bound, _, _ = pair
    for method in ("dare_linear", "dare_rank", "della"):
        texts = (
            f"{method}(a, b, weights=[2, 0.5], density=0.6)",
            f"{method}(2*a, b/2, density=0.6)",
            f'{method}(a*{{"layers.0": 2, "*": 2}}, {{"*": 0.5}}*b, density=0.6)',
        )
        first, *others = (
            [value.delta_weight() for _, value in pemath.evaluate(text, operands=bound)]
            for text in texts
        )
        for other in others:
            np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("arithmetic", ["paper", "paper(normalize=true)", "exact", "peft_linear"])
def test_as_an_arithmetic(pair: Any, arithmetic: str) -> None:
    """Each site is what it would be with its own numbers."""
    bound, _, _ = pair
    text = 'a*{"layers.0-1": 0.3, "layers.2": 0, "*": 2} - (b - a)*{"q_proj": 0.5, "*": 0.75}'

    def evaluated(expression: str) -> dict[str, Any]:
        return dict(pemath.evaluate(expression, operands=bound, arithmetic=arithmetic))

    for site, value in evaluated(text).items():
        c = {0: 0.3, 1: 0.3, 2: 0.0, 3: 2.0}[layer_of(site)]
        d = 0.5 if "q_proj" in site else 0.75
        wanted = evaluated(f"{c + d}*a - {d}*b")[site]
        np.testing.assert_allclose(value.delta_weight(), wanted.delta_weight(), atol=1e-13)


def test_a_method_knows_which_operand_weighs_nothing_in_a_layer(pair: Any) -> None:
    bound, a, b = pair
    squares = [sum(float(np.sum(d**2)) for d in deltas.values()) for deltas in (a, b)]
    site = "model.layers.0.self_attn.q_proj"
    for text, wanted in (
        ('slerp(a*{"layers.0": 0, "*": 1}, b, t=0.3)', 0.3 * b[site]),
        ('slerp(a, b*{"layers.0": 0, "*": 1}, t=0.3)', 0.7 * a[site]),
        ('slerp(a*{"layers.0": 0, "*": 1}, b + b, t=0.3)', 0.6 * b[site]),
        ('slerp(a*{"layers.0": 0, "*": 1}, exact(a, b), t=0.3)', 0.3 * (a[site] + b[site])),
        ('metagpt(a*{"layers.0": 0, "*": 1}, b)', squares[1] / sum(squares) * b[site]),
        ('metagpt(a, b*{"layers.0": 0, "*": 1})', squares[0] / sum(squares) * a[site]),
    ):
        found = dict(pemath.evaluate(text, operands=bound))[site]
        np.testing.assert_allclose(found.delta_weight(), wanted, atol=1e-12)
    with pytest.raises(OperandError, match="cannot tell"):
        list(pemath.evaluate('slerp(a*{"layers.0": 0, "*": 1}, a)', operands={"a": bound["a"]}))


def test_certificates_of_methods_are_against_the_sum_by_layer(pair: Any, tmp_path: Path) -> None:
    bound, a, b = pair
    text = 'paper(a, {"layers.0": 0.5, "*": 1}*b)'
    done = pemath.compose(text, tmp_path / "out", operands=bound, dtype="float64")
    stored = dict(pemath.evaluate(pemath.adapter(str(tmp_path / "out"))))
    for site, report in done.certificate.sites.items():
        wanted = a[site] + (0.5 if layer_of(site) == 0 else 1) * b[site]
        error = np.linalg.norm(stored[site].delta_weight() - wanted) / np.linalg.norm(wanted)
        assert report.error == pytest.approx(error, abs=1e-9)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a*{"layers.0-2": 1} + b', r"6 of its 8 sites(.|\n)*model.layers.3.self_attn.q_proj"),
        ('a*{"layers.0-2": 1} - a*{"layers.0-2": 1} + b', "without a weight"),
        ('a*{"layer.0-3": 1, "*": 1} + b', r"`layer.0-3` matches no site(.|\n)*model.layers.0"),
        ('a*{"layers.4": 1, "*": 1} + b', "`layers.4` matches no site"),
        ('a*{"layers.0-3": 1, "layers.2": 2} + b', "`layers.2` decides nothing"),
        ('paper(a, b*{"layers.0": 1})', "2 of its 8 sites"),
        ('paper(a, b*{"typo": 1, "*": 1})', "`typo` matches no site"),
        ('0*(b*{"typo": 1, "*": 1}) + a', "`typo` matches no site"),
        ('(a - a)*{"layers.0": 1} + b', "2 of its 8 sites"),
    ],
)
def test_what_is_refused_before_a_tensor_is_read(
    pair: Any, text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bound, _, _ = pair

    def read(*_: Any) -> Any:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(Stored, "widen", read)
    with pytest.raises(RequestError, match=message):
        pemath.compose(text, tmp_path / "out", operands=bound)
    with pytest.raises(RequestError, match=message):
        make_plan(request_of(text, bound, arithmetic="paper"))
    assert not (tmp_path / "out").exists()


def test_weights_are_for_the_sites_of_their_term_only(tmp_path: Path) -> None:
    """What only other operands have needs no key."""
    write(tmp_path / "a", 1, layers=2)
    b = write(tmp_path / "b", 2, layers=4)
    bound = {name: str(tmp_path / name) for name in "ab"}
    values = dict(pemath.evaluate('a*{"layers.0-1": 0.5} + b', operands=bound))
    np.testing.assert_array_equal(values[LLAMA.format(3)].delta_weight(), b[LLAMA.format(3)])
    with pytest.raises(RequestError, match="4 of its 8 sites"):
        pemath.compose('(a + b)*{"layers.0-1": 0.5}', tmp_path / "out", operands=bound)


def test_a_method_says_what_does_not_fit_at_a_site(tmp_path: Path) -> None:
    write(tmp_path / "a", 1)
    write(tmp_path / "b", 2, rank=3)
    bound = {name: str(tmp_path / name) for name in "ab"}
    with pytest.raises(RankMismatch, match="8 site"):
        make_plan(request_of('paper(a*{"layers.0-1": 1, "*": 2}, b)', bound))
    # Where a has no part, b is alone and fits.
    with pytest.raises(RankMismatch, match="4 site"):
        make_plan(request_of('paper(a*{"layers.0-1": 1, "*": 0}, b)', bound))


def test_heads_have_keys_or_no_weight(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, head="score")
    write(tmp_path / "b", 2, head="score")
    bound = {name: str(tmp_path / name) for name in "ab"}
    text = 'a*{"layers.0-1": 0.4, "layers.2-3": 0.5} + 0.5*b'
    with pytest.raises(HeadChoiceNeeded, match=r"no key(.|\n)*a .no weight., b .weight 0.5"):
        make_plan(request_of(text, bound))
    with pytest.raises(HeadChoiceNeeded, match="cannot be averaged: no key"):
        make_plan(request_of(text, bound, heads="average"))
    assert make_plan(request_of(text, bound, heads="a")).heads[0].sources[0][0] == "a"
    assert not make_plan(request_of(text, bound, heads="drop")).heads
    for keys in ('"*": 0.5', '"score": 0.5, "*": 0.7'):
        plan = make_plan(request_of(f'a*{{"layers.0-1": 0.4, {keys}}} + 0.5*b', bound))
        assert "averaged: 0.5 a, 0.5 b" in plan.notes[0]
    with pytest.raises(HeadChoiceNeeded, match=r"sum to 1\.2"):
        make_plan(request_of('a*{"layers.0-1": 0.4, "*": 0.7} + 0.5*b', bound))
    plan = make_plan(request_of('b + a*{"q_proj": 0.4, "up_proj": 0.4, "score": 0}', bound))
    assert "averaged: 1 b, 0 a" in plan.notes[0]
    with pytest.raises(RequestError, match="`scores` matches no site"):
        make_plan(request_of('b + a*{"scores": 0, "*": 1}', bound))


def test_a_sweep_fills_weights_in(pair: Any) -> None:
    from pemath.lab.search import every, fill, weight_grid

    bound, _, _ = pair
    text = 'a*{"layers.0-1": t, "*": 1 - t/2} + (1 - t)*b'
    filled = [str(fill(text, bound, one)) for one in every({"t": weight_grid("0:1:0.5")})]
    assert filled == [
        '{"layers.0-1": 0, "*": 1}*a + 1*b',
        '{"layers.0-1": 0.5, "*": 0.75}*a + 0.5*b',
        '{"layers.0-1": 1, "*": 0.5}*a + 0*b',
    ]
    for one in filled:
        make_plan(request_of(one, bound))


def test_recipes_look_into_weights_by_layer() -> None:
    from pemath.lab.recipes.expressions import check_composition

    check_composition('{"layers.0": 1, "*": 2}*paper(a, b)')
    with pytest.raises(RequestError, match="no option"):
        check_composition('{"layers.0": 1, "*": 2}*paper(a, b, oops=1)')
