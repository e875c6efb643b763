"""Methods that subtract less than a whole module, against their formulas on dense float64 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pemath.errors import (
    OperandError,
    PemathError,
    RankMismatch,
    RequestError,
    ShapeMismatch,
)
from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method

from .subtraction import agreed, best, deficient, unshared

OUT, IN = 9, 7


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def product(a: Array, b: Array, scale: float = 1.0) -> Lora:
    geometry = Geometry("linear", len(b), (a.shape[1],))
    return Lora(geometry, geometry.products(Stored.of(a), Stored.of(b), scale))


def lora(rank: int, seed: int = 0, scale: float = 1.0) -> Lora:
    return product(random(rank, IN, seed=seed), random(OUT, rank, seed=seed + 50), scale)


def ia3(vector: Array) -> Ia3:
    return Ia3("output", (len(vector), 1), ((1.0, Stored.of(vector.reshape(-1, 1))),))


def full(delta: Array) -> FullDelta:
    return FullDelta(delta.shape, ((1.0, Stored.of(delta)),))


def stack(values: list[Any], weights: list[float]) -> Stack:
    return Stack("q", values, weights, list("abcdef")[: len(values)], [None] * len(values))


def run(name: str, values: list[Any], weights: list[float] | None = None, **options: Any) -> Any:
    found = named_method(name)
    usual = [float(weight) for weight in found.default_weights(len(values))]
    return found.function(stack(values, weights or usual), **options)


def dense(value: Any) -> Array:
    return value.deviation() if isinstance(value, Ia3) else value.delta_weight()


A = random(3, IN)
SAME = lora(3, scale=0.5)
HOLLOW = random(OUT, 3, seed=60)
HOLLOW[::2] = 0.0
PAIRS: dict[str, tuple[Lora, Lora]] = {
    "own factors": (lora(3, 1), lora(3, 2)),
    "shared A": (product(A, random(OUT, 3, seed=1)), product(A, random(OUT, 3, seed=2))),
    "drifted A": (
        product(A, random(OUT, 3, seed=1)),
        product(A + 1e-3 * random(3, IN, seed=4), random(OUT, 3, seed=2)),
    ),
    "equal": (SAME, SAME),
    "parallel": (SAME, SAME * 3.0),
    "opposite": (SAME, SAME * -2.0),
    "disjoint rows and columns": (
        product(np.eye(IN)[:2], np.eye(OUT)[:, :2], 3.0),
        product(np.eye(IN)[3:5], np.eye(OUT)[:, 4:6], 2.0),
    ),
    "zero first": (product(A, np.zeros((OUT, 3))), lora(3, 2)),
    "zero second": (lora(3, 1), product(A, np.zeros((OUT, 3)))),
    "no factors": (lora(3, 1), lora(3, 2) * 0.0),
    "rows of zeros": (lora(3, 1), product(A, HOLLOW)),
    "different ranks": (lora(1, 1), lora(5, 2)),
    "rank above the matrix": (lora(12, 1), lora(11, 2)),
    "scaled": (lora(3, 1, scale=-1e-3), lora(3, 2, scale=40.0)),
    "several parts": (lora(2, 1) + lora(3, 3), lora(1, 2) + lora(2, 1) * 0.5),
    "wide singular values": (lora(3, 1), product(A, random(OUT, 3) * [1.0, 1e-3, 1e-6])),
}
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))


def assert_close(found: Array, wanted: Array, size: float) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-8 * max(size, 1e-300)


@every_pair
@pytest.mark.parametrize("weight", [1.0, -0.6])
def test_deficient(pair: tuple[Lora, Lora], weight: float) -> None:
    w, v = map(dense, pair)
    found = run("deficient", list(pair), [weight, 0.0])
    assert_close(dense(found), weight * deficient(w, v), float(np.linalg.norm(w)))
    assert found.rank <= named_method("deficient").rank([p.rank for p in pair], [None, None])
    for one, other in ((full(w), full(v)), (full(w.reshape(OUT, IN, 1)), full(v[..., None]))):
        got = dense(run("deficient", [one, other], [weight, 0.0])).reshape(OUT, IN)
        assert_close(got, weight * deficient(w, v), float(np.linalg.norm(w)))
    vectors = [ia3(1 + w.ravel()), ia3(1 + v.ravel())]
    wanted = weight * deficient(w.reshape(1, -1), v.reshape(1, -1))[0]
    assert_close(dense(run("deficient", vectors, [weight, 0.0])), wanted, 1 + float(np.sum(w**2)))
    flat = run("deficient", [full(w.ravel()), full(v.ravel())], [weight, 0.0])
    assert_close(dense(flat), wanted, float(np.linalg.norm(w)))


@every_pair
@pytest.mark.parametrize("weight", [1.0, -0.6])
def test_unshared(pair: tuple[Lora, Lora], weight: float) -> None:
    d, other = map(dense, pair)
    found = run("unshared", list(pair), [weight, 0.0])
    size = float(np.linalg.norm(d))
    assert_close(dense(found), weight * unshared(d, other), size)
    assert found.rank <= named_method("unshared").rank([p.rank for p in pair], [None, None])
    share = np.vdot(d, other) / (np.vdot(other, other) or 1.0)
    for kind in (full, lambda delta: ia3(1 + delta.ravel())):
        got = dense(run("unshared", [kind(d), kind(other)], [weight, 0.0]))
        assert_close(got.reshape(OUT, IN), weight * (d - share * other), 1 + size)


def test_unshared_with_several_others() -> None:
    first, *others = lora(3, 1), lora(2, 2), lora(1, 3), lora(2, 2) * -0.5
    wanted = unshared(dense(first), *map(dense, others))
    assert_close(dense(run("unshared", [first, *others])), wanted, first.norm())
    rows = np.stack([dense(other).ravel() for other in others])
    flat = dense(first).ravel()
    wanted = flat - np.linalg.pinv(rows) @ (rows @ flat)
    values: list[Any] = [full(dense(value)) for value in (first, *others)]
    assert_close(dense(run("unshared", values)).ravel(), wanted, first.norm())


def test_unshared_off_vectors_that_are_almost_one() -> None:
    first, second = random(50, seed=1), random(50, seed=2)
    near = second + 1e-4 * random(50, seed=3)
    found = dense(run("unshared", [full(first), full(second), full(near)]))
    for other in (second, near - second):
        assert abs(found @ other) <= 1e-9 * np.linalg.norm(found) * np.linalg.norm(other)


def test_unshared_energy_keeps_clear_of_leading_directions_only() -> None:
    first = lora(4, 1)
    other = product(np.eye(IN)[:3], np.eye(OUT)[:, :3] * [3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    for energy, rank in ((0.6, 1), (0.7, 2), (0.95, 3), (1.0, 3)):
        found = run("unshared", [first, other], energy=energy)
        assert_close(dense(found), unshared(dense(first), best(dense(other), rank)), first.norm())
    for energy in (0.0, -1.0, 1.1):
        with pytest.raises(RequestError, match="energy"):
            run("unshared", [first, other], energy=energy)


def test_what_both_share_goes_without_rounding_left() -> None:
    """Stored in float32, what is nothing stays next to nothing."""
    found = run("unshared", [SAME, SAME])
    stored = [(p.a.raw.astype("f4"), p.b.raw.astype("f4")) for p in found.blocks[0].parts]
    assert np.linalg.norm(sum(b @ a for a, b in stored)) <= 1e-13 * SAME.norm()


@every_pair
@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, -0.25], [-0.5, -0.5]])
def test_negmerge(pair: tuple[Lora, Lora], weights: list[float]) -> None:
    terms = [c * dense(value) for c, value in zip(weights, pair, strict=True)]
    wanted, size = agreed(*terms), sum(map(np.linalg.norm, terms))
    found = run("negmerge", list(pair), weights)
    assert_close(dense(found), best(wanted, sum(value.rank for value in pair)), size)
    for rank in (1, 4, 30):
        got = run("negmerge", list(pair), weights, rank=rank)
        assert_close(dense(got), best(wanted, rank), size)
        assert got.rank <= rank
    values: list[Any] = [full(dense(value)) for value in pair]
    np.testing.assert_array_equal(dense(run("negmerge", values, weights)), wanted)
    vectors: list[Any] = [ia3(1 + dense(value).ravel()) for value in pair]
    own = agreed(*(c * dense(v) for c, v in zip(weights, vectors, strict=True)))
    assert_close(dense(run("negmerge", vectors, weights)), own, 1 + size)


def test_negmerge_of_one_and_of_equals() -> None:
    value = lora(3, 1)
    assert run("negmerge", [value]).blocks[0].parts[0].a is value.blocks[0].parts[0].a
    assert_close(dense(run("negmerge", [value] * 4)), dense(value), value.norm())
    assert not dense(run("negmerge", [value, value * -1.0], [1.0, 1.0])).any()
    with pytest.raises(RequestError, match="rank"):
        run("negmerge", [value, value], rank=0)


@pytest.mark.parametrize(("c", "strength"), [(1.0, 0.3), (1.0, 1.0), (0.5, 0.0), (0.8, 0.5)])
def test_paper_detox(c: float, strength: float) -> None:
    """A' = cA₀ + λ(A₀ − A₁), B' = cB₀ + λ(B₀ + B₁), scales in B."""
    first, toxic = lora(3, 1, scale=2.0), lora(3, 2, scale=-0.5)
    (a0, b0), (a1, b1) = ((v.blocks[0].a(), v.blocks[0].b()) for v in (first, toxic))
    weights = [c + strength, -strength]
    (block,) = run("paper_detox", [first, toxic], weights).blocks
    np.testing.assert_allclose(block.a(), c * a0 + strength * (a0 - a1), atol=1e-14)
    np.testing.assert_allclose(block.b(), c * b0 + strength * (b0 + b1), atol=1e-14)
    l0, l1 = 1 + 0.1 * random(6), 1 + 0.1 * random(6, seed=1)
    found = run("paper_detox", [ia3(l0), ia3(l1)], weights)
    wanted = 1 + (c + strength) * (l0 - 1) - strength * (l1 - 1)
    np.testing.assert_allclose(found.vector(), wanted, atol=1e-14)
    found = run("paper_detox", [full(l0), full(l1)], weights)
    np.testing.assert_allclose(dense(found), (c + strength) * l0 - strength * l1, atol=1e-14)


def test_paper_detox_of_equals_is_inflated() -> None:
    for strength, size in ((0.3, 1.6), (0.4, 1.8), (0.5, 2.0)):
        found = run("paper_detox", [SAME, SAME], [1 + strength, -strength])
        assert_close(dense(found), size * dense(SAME), SAME.norm())


def test_biases_are_vectors() -> None:
    """A delta of the bias is treated as one row, and elementwise by negmerge."""
    bias = [random(OUT, seed=s) for s in (1, 2)]

    def with_bias(value: Lora, delta: Array) -> Lora:
        column = product(np.ones((1, 1)), delta.reshape(-1, 1)).blocks[0]
        return Lora(value.geometry, value.blocks, column)

    values = [with_bias(lora(3, s), b) for s, b in zip((1, 2), bias, strict=True)]
    for name, wanted in (
        ("deficient", deficient(bias[0][None], bias[1][None])[0]),
        ("unshared", bias[0] - (bias[0] @ bias[1]) / (bias[1] @ bias[1]) * bias[1]),
        ("negmerge", agreed(*(b / 2 for b in bias))),
    ):
        np.testing.assert_allclose(run(name, list(values)).delta_bias(), wanted, atol=1e-12)
    alone = run("deficient", [values[0], lora(3, 2)])
    np.testing.assert_allclose(alone.delta_bias(), bias[0], atol=1e-12)


# ------------------------------------------------------------------------------- what is refused

WRONG: list[tuple[str, list[Any], list[float], type[PemathError], str]] = [
    ("deficient", [lora(2)], [1.0], OperandError, "two operands"),
    ("deficient", [lora(2)] * 3, [1.0, 0.0, 0.0], OperandError, "two operands"),
    ("deficient", [lora(2)] * 2, [1.0, 1.0], OperandError, "only steer"),
    ("unshared", [lora(2)], [1.0], OperandError, "one or more"),
    ("unshared", [lora(2)] * 3, [1.0, 0.0, -0.5], OperandError, "only steer"),
    ("paper_detox", [lora(2)] * 3, [1.0, -0.1, -0.1], OperandError, "two operands"),
    ("paper_detox", [lora(2)] * 2, [1.0, 0.3], OperandError, "weights=.1.3, -0.3."),
    ("paper_detox", [lora(2), lora(3)], [1.3, -0.3], RankMismatch, "different ranks"),
    *(
        (name, [lora(2), product(random(2, 5), random(OUT, 2))], [1.0, 0.0], ShapeMismatch, "base")
        for name in ("deficient", "unshared", "negmerge")
    ),
    ("unshared", [full(random(4, 3)), full(random(3, 4))], [1.0, 0.0], ShapeMismatch, "base"),
]


@pytest.mark.parametrize(("name", "values", "weights", "error", "message"), WRONG)
def test_misuse_is_refused(
    name: str, values: list[Any], weights: list[float], error: type[PemathError], message: str
) -> None:
    found = named_method(name).check(stack(values, weights))
    assert type(found) is error
    with pytest.raises(error, match=message):
        raise found
