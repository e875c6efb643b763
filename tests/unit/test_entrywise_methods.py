"""Methods on single entries, against their formulas on dense float64 arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pemath.errors import NonFiniteValue, RequestError, ShapeMismatch
from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Stack, _dense, named_method
from pemath.methods._entrywise import Draws

from . import entrywise as formula
from .subtraction import best

OUT, IN = 14, 11
NAMES = [
    "breadcrumbs", "consensus", "dare_linear", "dare_ties", "della", "magnitude_prune", "sce", "ties",
]  # fmt: skip
every_method = pytest.mark.parametrize("name", NAMES)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def product(a: Array, b: Array, scale: float = 1.0) -> Lora:
    geometry = Geometry("linear", len(b), (a.shape[1],))
    return Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), scale))


def lora(rank: int, seed: int = 0, out: int = OUT, width: int = IN) -> Lora:
    return product(random(rank, width, seed=seed), random(out, rank, seed=seed + 50))


def full(delta: Array) -> FullDelta:
    return FullDelta(delta.shape, ((1.0, Stored.of(delta)),))


def ia3(vector: Array) -> Ia3:
    return Ia3("output", (len(vector), 1), ((1.0, Stored.of(vector.reshape(-1, 1))),))


def run(name: str, values: list[Any], weights: list[float] | None = None, **options: Any) -> Any:
    site, names = options.pop("site", "q"), options.pop("names", list("abcdef")[: len(values)])
    usual = [1.0] * len(values) if weights is None else weights
    return named_method(name).function(
        Stack(site, values, usual, names, [None] * len(values)), **options
    )


def dense(value: Any) -> Array:
    return value.deviation() if isinstance(value, Ia3) else value.delta_weight()


def assert_close(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-8 * max(float(np.linalg.norm(wanted)), 1e-300)


# -------------------------------------------------------------------------- against the formulas


def draws(xs: list[Array], seed: int) -> list[Array]:
    """The numbers that decide about each entry, in 65536ths."""
    names = "abcdef"
    return [
        Draws(seed, "q", name, x.shape[1]).rows(0, len(x)) / 65536
        for name, x in zip(names, xs, strict=False)
    ]


def dropped(xs: list[Array], density: float, seed: int) -> list[Array]:
    kept = round(density * 65536) / 65536
    return [np.where(u < kept, x / kept, 0.0) for u, x in zip(draws(xs, seed), xs, strict=True)]


def dare_linear(xs: list[Array], density: float = 0.5, seed: int = 0) -> Array:
    return np.sum(dropped(xs, density, seed), axis=0)


def dare_ties(xs: list[Array], density: float = 0.5, seed: int = 0, **options: str) -> Array:
    return formula.elect(dropped(xs, density, seed), **options)


def della(
    xs: list[Array], density: float = 0.7, epsilon: float = 0.07, seed: int = 0, **options: str
) -> Array:
    kept = [formula.chances(x, density, epsilon) for x in xs]
    pruned = [
        np.where(u < p, x / p, 0.0) for u, p, x in zip(draws(xs, seed), kept, xs, strict=True)
    ]
    return formula.elect(pruned, **options)


FORMULAS: dict[str, Callable[..., Array]] = {
    "breadcrumbs": formula.breadcrumbs,
    "consensus": formula.consensus,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "magnitude_prune": formula.magnitude_prune,
    "sce": formula.sce,
    "ties": formula.ties,
}
SIGNS = [
    {"majority_sign_method": vote, "merge": merge}
    for vote in ("total", "frequency")
    for merge in ("mean", "sum")
]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("magnitude_prune", {"density": 0.01}),
    ("magnitude_prune", {"density": 1.0}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.1}),
    ("breadcrumbs", {"density": 0.25, "gamma": 0.75}),
    ("breadcrumbs", {"density": 0.3, "gamma": 0.0}),
    ("consensus", {"k": 1, "tall_mask_lambda": 1.5}),
    ("consensus", {"k": 3, "tall_mask_lambda": 0.1}),
    ("consensus", {"k": 3, "tall_mask_lambda": 0.0}),
    ("sce", {"select_topk": 0.3}),
    ("sce", {"select_topk": 0.001}),
    ("dare_linear", {"density": 0.3, "seed": 4}),
    ("dare_linear", {"density": 1.0}),
    *(("ties", {"density": 0.4, **signs}) for signs in SIGNS),
    *(("dare_ties", {"density": 0.6, "seed": 7, **signs}) for signs in SIGNS),
    *(("della", {"density": 0.5, "epsilon": 0.9, "seed": 3, **signs}) for signs in SIGNS),
    ("della", {"density": 1.0, "epsilon": 0.0}),
    ("dare_ties", {"density": 1.0}),
]
ADVERSARIAL: dict[str, list[Array]] = {
    "plain": [random(OUT, IN, seed=s) for s in (1, 2, 3)],
    "low rank": [random(OUT, 2, seed=s) @ random(2, IN, seed=s) for s in (1, 2, 3)],
    "equal": [random(OUT, IN)] * 3,
    "opposite": [random(OUT, IN), -random(OUT, IN), random(OUT, IN, seed=1)],
    "many equal entries": [np.round(random(OUT, IN, seed=s)) for s in (1, 2, 3)],
    "one magnitude": [np.sign(random(OUT, IN, seed=s)) for s in (1, 2, 3)],
    "one is zero": [random(OUT, IN), np.zeros((OUT, IN)), random(OUT, IN, seed=1)],
    "all zero": [np.zeros((OUT, IN))] * 3,
    "far apart": [1e-12 * random(OUT, IN), random(OUT, IN, seed=1), 1e9 * random(OUT, IN, seed=2)],
    "heavy": [np.random.default_rng(s).standard_t(1.0, (OUT, IN)) for s in (1, 2, 3)],
}


def written(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options as the formula calls them."""
    return {"method" if k == "majority_sign_method" else k: v for k, v in options.items()}


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, -2.0, 0.75]])
@pytest.mark.parametrize("operands", ADVERSARIAL.values(), ids=list(ADVERSARIAL))
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[f"{n} {o}" for n, o in OPTIONS])
def test_it_is_the_formula(
    name: str, options: dict[str, Any], operands: list[Array], weights: list[float]
) -> None:
    """Of all kinds. The formula is applied to what the kind stores."""
    xs = [w * x for w, x in zip(weights, operands, strict=True)]
    wanted = FORMULAS[name](xs, **written(name, options))
    values: list[Any] = [full(x) for x in operands]
    assert_close(dense(run(name, values, weights, **options)), wanted)
    tall = [full(x.reshape(OUT, IN, 1)) for x in operands]
    assert_close(dense(run(name, tall, weights, **options))[..., 0], wanted)
    eye = np.eye(IN)
    values = [product(eye, x) for x in operands]
    found = run(name, values, weights, **options)
    assert_close(dense(found), wanted)
    assert found.left_out <= 1e-8 * np.linalg.norm(wanted)


@every_method
def test_vectors_are_one_row(name: str) -> None:
    """(IA)³, deltas of a bias, and full deltas of one dimension."""
    deltas = [0.1 * random(OUT, seed=s) for s in (1, 2)]
    stored = [1 + x for x in deltas]
    wanted = FORMULAS[name]([(y - 1)[None] for y in stored])[0]
    assert_close(dense(run(name, [ia3(y) for y in stored])), wanted)
    wanted = FORMULAS[name]([x[None] for x in deltas])[0]
    assert_close(dense(run(name, [full(x) for x in deltas])), wanted)
    values = [
        Lora(v.geometry, v.blocks, product(np.ones((1, 1)), x.reshape(-1, 1)).blocks[0])
        for v, x in zip((lora(2, 1), lora(2, 2)), deltas, strict=True)
    ]
    both = run(name, list(values))
    alone = run(name, [values[0], lora(2, 2)]).delta_bias()
    if name not in ("dare_linear", "dare_ties", "della"):  # whose draws are the bias's own
        assert_close(both.delta_bias(), wanted)
        assert_close(alone, FORMULAS[name]([deltas[0][None], np.zeros((1, OUT))])[0])
    assert both.delta_bias().any()
    assert run(name, [full(np.array(2.0)), full(np.array(3.0))]).delta_weight().shape == ()
    assert run(name, [full(np.empty((0, 4)))] * 2).delta_weight().shape == (0, 4)


@every_method
def test_a_lora_keeps_the_best_of_its_rank(name: str) -> None:
    values = [lora(2, 1), lora(3, 2)]
    wanted = FORMULAS[name]([dense(v) for v in values])
    for rank in (None, 1, 4, 30):
        found = run(name, list(values), rank=rank)
        kept = best(wanted, rank or 5)
        assert np.linalg.norm(dense(found) - kept) <= 1e-8 * np.linalg.norm(wanted)
        assert found.left_out == pytest.approx(np.linalg.norm(wanted - kept), abs=1e-8)
        assert found.rank <= named_method(name).rank([2, 3], [None, None], rank=rank)


def test_an_operand_without_the_site_is_zero_there() -> None:
    x, y = random(OUT, IN, seed=1), random(OUT, IN, seed=2)
    nothing = np.zeros((OUT, IN))
    for name in NAMES:
        stack = Stack("q", [full(x), full(y)], [1.0, -1.0], ["a", "b"], [None] * 3)
        wanted = FORMULAS[name]([x, -y, nothing])
        assert_close(dense(named_method(name).function(stack)), wanted)


def test_one_operand_is_pruned_too() -> None:
    x = random(OUT, IN)
    for name in set(NAMES) - {"consensus", "sce"}:
        found = dense(run(name, [full(x)]))
        assert_close(found, FORMULAS[name]([x]))
        assert 0 < np.count_nonzero(found) < x.size
    assert_close(dense(run("sce", [full(x)])), x)
    assert_close(dense(run("consensus", [full(x)], k=1)), x)


def test_signs_are_elected_after_the_weights() -> None:
    """PEFT elects before."""
    x = np.array([[2.0, 3.0]])
    found = dense(run("ties", [full(x), full(x)], [1.0, -2.0], density=1.0))
    np.testing.assert_array_equal(found, -2 * x)


# ------------------------------------------------------------------------------- large matrices


def large(kind: str, seed: int) -> Lora:
    rng = np.random.default_rng(seed)
    out, width, rank = 512, 384, 8
    a, b = rng.standard_normal((rank, width)), rng.standard_normal((out, rank))
    if kind == "decaying":
        b *= 0.6 ** np.arange(rank)
    elif kind == "shared":
        a = np.random.default_rng(99).standard_normal((rank, width))
    elif kind == "heavy":
        a, b = rng.standard_t(1.5, a.shape), rng.standard_t(1.5, b.shape)
    return product(a, b)


@pytest.mark.parametrize("kind", ["plain", "decaying", "shared", "heavy"])
@every_method
def test_large_ones_are_close_to_the_best(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed in float32, within 1 % of what the best matrix of the rank leaves out."""
    values = [large(kind, seed) for seed in (1, 2)]
    wanted = dense(run(name, [full(dense(v)) for v in values]))
    monkeypatch.setattr(_dense, "_SMALL", 0)
    size = float(np.linalg.norm(wanted))
    spectrum = np.linalg.svd(wanted, compute_uv=False)
    for rank in (4, 16):
        found = run(name, list(values), rank=rank)
        lost = float(np.linalg.norm(dense(found) - wanted))
        optimum = float(np.linalg.norm(spectrum[rank:]))
        assert lost <= 1.01 * optimum + 1e-3 * size
        assert found.left_out == pytest.approx(lost, abs=2e-3 * size)


@every_method
def test_blocks_and_threads_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xs = [random(60, 50, seed=s) for s in (1, 2, 3)]
    values = [full(x) for x in xs]
    whole = dense(run(name, list(values)))
    loras = [lora(3, s, 60, 50) for s in (1, 2, 3)]
    product_whole = dense(run(name, list(loras)))
    monkeypatch.setattr(_dense, "_BLOCK", 170)
    energies = name == "sce"  # are sums over all entries
    np.testing.assert_allclose(dense(run(name, list(values))), whole, rtol=energies * 1e-13)
    assert_close(dense(run(name, list(loras))), product_whole)
    monkeypatch.undo()
    found: list[Array] = []
    threads = [
        threading.Thread(target=lambda: found.append(dense(run(name, list(loras)))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for other in found:
        np.testing.assert_array_equal(other, product_whole)


# ---------------------------------------------------------------------------------- random masks


PINNED = [[15867, 16288, 57883, 2933, 7834, 28675], [47528, 53520, 27492, 45246, 2493, 16673]]


def test_draws_are_those_of_today() -> None:
    """The raw stream of Philox, whatever the version of numpy."""
    numbers = Draws(3, "layer.q", "a", 6).rows(2, 2)
    assert numbers.dtype == np.uint16
    np.testing.assert_array_equal(numbers, PINNED)


def test_draws_depend_on_their_place_alone() -> None:
    for width in (1, 3, 16, 17, 50):
        draws = Draws(0, "q", "a", width)
        whole = draws.rows(0, 9)
        assert whole.shape == (9, width)
        pieces = [draws.rows(start, 1) for start in range(9)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
        np.testing.assert_array_equal(draws.rows(4, 5), whole[4:])


def test_every_name_draws_for_itself() -> None:
    keys = [(0, "q", "a"), (1, "q", "a"), (0, "k", "a"), (0, "q", "b"), (-1, "q", "a")]
    found = [Draws(seed, label, name, 40).rows(0, 40) for seed, label, name in keys]
    for index, one in enumerate(found):
        assert abs(one.mean() / 65535 - 0.5) < 0.05
        for other in found[:index]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della"])
def test_masks_follow_the_name_not_the_place(name: str) -> None:
    x, y = full(random(OUT, IN, seed=1)), full(random(OUT, IN, seed=2))
    one = dense(run(name, [x, y], names=["a", "b"]))
    other = dense(run(name, [y, x], names=["b", "a"]))
    assert_close(other, one)
    for change in ({"seed": 1}, {"site": "k"}, {"names": ["a", "c"]}):
        assert not np.array_equal(dense(run(name, [x, y], **change)), one)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_the_expectation(density: float) -> None:
    x = np.ones((200, 200))
    found = dense(run("dare_linear", [full(x)], density=density))
    values = np.unique(found)
    assert len(values) == 2
    assert values[0] == 0
    assert values[1] == pytest.approx(1 / density, rel=1e-4)
    share = np.count_nonzero(found) / x.size
    assert abs(share - density) < 4 * np.sqrt(density * (1 - density) / x.size)
    assert found.mean() == pytest.approx(1.0, abs=4 * np.sqrt((1 / density - 1) / x.size))


def test_della_keeps_large_entries_more_often() -> None:
    x = np.tile(np.arange(1.0, 401.0), (400, 1))
    found = dense(run("della", [full(x)], density=0.5, epsilon=0.6))
    kept = (found != 0).reshape(400, 4, 100).mean(axis=(0, 2))
    np.testing.assert_allclose(kept, [0.275, 0.425, 0.575, 0.725], atol=0.01)
    np.testing.assert_allclose(found.mean(axis=0).mean(), x.mean(), rtol=0.02)


@pytest.mark.parametrize("width", [40, 300, 5000])
def test_della_on_large_matrices_rounds_magnitudes(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To seven binary digits, so that probabilities differ by a small part of epsilon."""
    value = product(random(2, width), random(12, 2))
    wanted = dense(run("della", [full(dense(value))], epsilon=0.3))
    monkeypatch.setattr(_dense, "_SMALL", 0)
    found = dense(run("della", [value], epsilon=0.3, rank=12))
    both = (np.abs(found) > 1e-9) & (wanted != 0)
    assert np.mean(both != (wanted != 0)) < 1e-3
    np.testing.assert_allclose(found[both], wanted[both], rtol=4e-3, atol=1e-4)


# ------------------------------------------------------------------------------- what is refused

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((name, {"rank": 0}, "rank") for name in NAMES),
    *(
        (name, {"density": value}, "density")
        for name in ("breadcrumbs", "dare_linear", "dare_ties", "della", "magnitude_prune", "ties")
        for value in (0.0, -0.1, 1.1, float("nan"), float("inf"))
    ),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.6}, "gamma"),
    ("breadcrumbs", {"gamma": -0.1}, "gamma"),
    ("breadcrumbs", {"gamma": float("nan")}, "gamma"),
    ("della", {"density": 0.05, "epsilon": 0.2}, "epsilon"),
    ("della", {"density": 1.0}, "epsilon"),
    ("della", {"epsilon": -0.1}, "epsilon"),
    ("della", {"epsilon": float("nan")}, "epsilon"),
    ("sce", {"select_topk": 0.0}, "select_topk"),
    ("sce", {"select_topk": 2.0}, "select_topk"),
    ("consensus", {"k": 0}, "`k`"),
    ("consensus", {"k": 3}, "number of operands"),
    ("consensus", {"tall_mask_lambda": -1.0}, "tall_mask_lambda"),
    ("consensus", {"tall_mask_lambda": float("nan")}, "tall_mask_lambda"),
    *(
        (name, {option: "none"}, option)
        for name in ("ties", "dare_ties", "della")
        for option in ("majority_sign_method", "merge")
    ),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(name, [lora(2), lora(2, 1)], **options)


@every_method
def test_what_does_not_go_together_is_refused(name: str) -> None:
    stack = Stack("q", [lora(2), lora(2, 1, 5, 4)], [1.0, 0.0], ["a", "b"], [None] * 2)
    assert isinstance(named_method(name).check(stack), ShapeMismatch)
    bad = lora(2, 1)
    bad.blocks[0].parts[0].a.raw[0, 0] = np.nan
    with pytest.raises(NonFiniteValue):
        run(name, [lora(2), bad], [1.0, 0.0])
