"""Arcs and means of directions, against their formulas on dense float64 arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pemath.errors import OperandError, PemathError, RequestError, ShapeMismatch
from pemath.methods import Stack, named_method

from . import combinations as reference
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


def as_kinds(values: Any) -> list[list[Any]]:
    """The same deltas as LoRAs, full deltas of several shapes, and (IA)³."""
    deltas = [dense(value) for value in values]
    return [
        list(values),
        [full(delta) for delta in deltas],
        [full(delta.reshape(OUT, 2, IN // 2)) for delta in deltas],
        [full(delta.ravel()) for delta in deltas],
        [ia3(1 + delta.ravel()) for delta in deltas],
    ]


def close_as(found: Any, wanted: Any, scale: float) -> None:
    """(IA)³ loses the digits that a one takes up."""
    got = dense(found)
    close(full(got), np.asarray(wanted).reshape(got.shape), scale + (got.ndim == 1))


@every_pair
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, -2.0]])
def test_slerp(pair: Any, t: float, weights: list[float]) -> None:
    x, y = (w * dense(value) for w, value in zip(weights, pair, strict=True))
    wanted = reference.slerp(x, y, t)
    for values in as_kinds(pair):
        close_as(run("slerp", values, weights, t=t), wanted, 2 * size(*pair))
    found = run("slerp", list(pair), weights, t=t)
    assert found.rank <= named_method("slerp").rank([p.rank for p in pair], [None, None])


@every_pair
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.75, -0.25], [-2.0, -1.0], [0.0, 1.0]])
def test_nuslerp(pair: Any, weights: list[float]) -> None:
    total = sum(map(abs, weights))
    t = abs(weights[1]) / total
    x, y = (np.sign(w) * dense(value) for w, value in zip(weights, pair, strict=True))
    wanted = total * reference.slerp(x, y, t)
    for values in as_kinds(pair):
        close_as(run("nuslerp", values, weights), wanted, 3 * size(*pair))
    wanted = total * reference.slerp_rows(x, y, t)
    lora_values, matrices, cubes, vectors, ia3_values = as_kinds(pair)
    for values in (lora_values, matrices, cubes):
        close_as(run("nuslerp", values, weights, row_wise=True), wanted, 3 * size(*pair))
    whole = run("nuslerp", vectors, weights)  # a vector is one row
    close_as(run("nuslerp", vectors, weights, row_wise=True), dense(whole), 3 * size(*pair))
    whole = run("nuslerp", ia3_values, weights)
    close_as(run("nuslerp", ia3_values, weights, row_wise=True), dense(whole), 3 * size(*pair))


def test_nuslerp_takes_opposite_rows_and_rows_of_zeros() -> None:
    """Of LoRAs of rank one with one A, all rows are parallel or opposite."""
    a = random(1, IN)
    b, c = random(OUT, 1), random(OUT, 1, seed=1)
    b[:3] = 0.0
    found = run("nuslerp", [product(a, b), product(a, c)], row_wise=True)
    close(found, 0.5 * (b + c) @ a, size(found))


@every_pair
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.9, 0.1], [0.3, -0.6]])
def test_multislerp_and_karcher_of_two(pair: Any, weights: list[float]) -> None:
    deltas = [dense(value) for value in pair]
    wanted = reference.multislerp(deltas, weights)
    for name in ("multislerp", "karcher"):  # of two, the first step is there already
        for values in as_kinds(pair):
            close_as(run(name, values, weights), wanted, size(*pair))


TRIPLES = {
    "own": [lora(3, 1), lora(2, 2), lora(4, 3)],
    "alike": [lora(3, 1), lora(3, 1) + lora(2, 2) * 0.1, lora(3, 1) * 2.0 + lora(1, 3)],
    "one twice": [lora(3, 1), lora(3, 1), lora(3, 2, scale=1e-3)],
    "one zero": [lora(3, 1), product(random(2, IN), np.zeros((OUT, 2))), lora(3, 2)],
    "of one plane": [lora(3, 1), lora(3, 2), lora(3, 1) * 0.5 + lora(3, 2) * -0.2],
}


@pytest.mark.parametrize("values", TRIPLES.values(), ids=list(TRIPLES))
@pytest.mark.parametrize("weights", [[1 / 3, 1 / 3, 1 / 3], [0.2, 0.5, 0.3], [1.0, 2.0, -0.5]])
def test_means_of_three(values: list[Any], weights: list[float]) -> None:
    deltas = [dense(value) for value in values]
    for same in as_kinds(values):
        scale = 3 * size(*values)
        close_as(run("mean", same, weights), np.tensordot(weights, deltas, 1), scale)
        close_as(run("multislerp", same, weights), reference.multislerp(deltas, weights), scale)
        close_as(run("karcher", same, weights), reference.karcher(deltas, weights), scale)
        close_as(run("model_stock", same, weights), reference.model_stock(deltas, weights), scale)
        close_as(run("metagpt", same, weights), reference.metagpt(deltas, weights), scale)


def test_karcher_has_no_gradient() -> None:
    """At the mean direction, the weighted logarithms cancel."""
    values, weights = [lora(3, s) for s in range(5)], [0.1, 0.3, 0.2, 0.15, 0.25]
    found = dense(run("karcher", values, weights))
    mean = found / np.linalg.norm(found)
    units = [dense(value) / np.linalg.norm(dense(value)) for value in values]
    gradient = sum(w * reference.logarithm(mean, u) for w, u in zip(weights, units, strict=True))
    assert np.linalg.norm(gradient) < 1e-9
    assert np.linalg.norm(found) == pytest.approx(
        sum(w * np.linalg.norm(dense(v)) for w, v in zip(weights, values, strict=True))
    )


def test_karcher_stops_where_it_is_told() -> None:
    values = [lora(3, s) for s in range(4)]
    deltas = [dense(value) for value in values]
    units, shares = reference.directions(deltas, [0.25] * 4)
    start = sum(s * u for s, u in zip(shares, units, strict=True))
    start *= reference.mean_norm(deltas, [0.25] * 4) / np.linalg.norm(start)
    close(run("karcher", values, max_iter=0), start, size(*values))
    close(run("karcher", values, tol=10.0), start, size(*values))
    once = run("multislerp", values)
    close(run("karcher", values, max_iter=1), dense(once), size(*values))


def test_directions_that_cancel_give_the_plain_sum() -> None:
    values = [SAME, SAME * -1.0, SAME * 1e-12]
    for name in ("karcher", "multislerp"):
        close(run(name, values, [0.5, 0.5, 1e-12]), 0 * dense(SAME), SAME.norm())
        found = run(name, [SAME, SAME * -3.0], [0.5, 0.5])
        close(found, -dense(SAME), SAME.norm())
        close(run(name, [SAME, SAME * 3.0], [0.5, -0.5]), -dense(SAME), SAME.norm())


def test_orthogonal_operands() -> None:
    """Closed forms: an arc of a right angle, means on the diagonal, nothing in common."""
    e = np.eye(IN)
    x, y, z = (product(e[i : i + 1], np.ones((OUT, 1)) * (i + 1)) for i in range(3))
    r = math.sqrt(OUT)
    dx, dy, dz = map(dense, (x, y, z))
    found = run("slerp", [x, y], t=1 / 3)
    close(found, math.cos(math.pi / 6) * dx + math.sin(math.pi / 6) * dy, 10 * r)
    diagonal = (dx + dy / 2 + dz / 3) / (r * math.sqrt(3))
    for name in ("karcher", "multislerp"):
        close(run(name, [x, y, z]), 2 * r * diagonal, 10 * r)
    assert not dense(run("model_stock", [x, y, z])).any()
    close(run("metagpt", [x, y, z]), (dx + 4 * dy + 9 * dz) / 14, 10 * r)


def test_model_stock_of_an_angle() -> None:
    """cos θ = 1/2 between three: t = 3/2 / (1 + 1)."""
    e = np.eye(4)
    values = [full(e[i] + e[3]) for i in range(3)]
    close(run("model_stock", values), 0.75 / 3 * (e[0] + e[1] + e[2] + 3 * e[3]), 3.0)
    opposite = [full(e[0] + 0.1 * e[1]), full(-e[0] + 0.1 * e[1])]
    assert not dense(run("model_stock", opposite)).any()


def test_biases_belong_to_the_vector() -> None:
    biases = [random(OUT, seed=s) for s in (7, 8)]
    values = [with_bias(lora(2, s), bias) for s, bias in zip((1, 2), biases, strict=True)]
    whole = [
        np.concatenate([dense(v).ravel(), bias]) for v, bias in zip(values, biases, strict=True)
    ]
    for name in ("slerp", "nuslerp", "karcher", "model_stock", "metagpt"):
        found = run(name, list(values))
        flat = np.concatenate([dense(found).ravel(), found.delta_bias()])
        wanted = run(name, [full(delta) for delta in whole])
        close(full(flat), dense(wanted), size(*values))
    rows = run("nuslerp", list(values), row_wise=True)
    close(full(rows.delta_bias()), reference.slerp(*biases, 0.5), size(*map(full, biases)))
    alone = run("nuslerp", [values[0], lora(2, 2)], row_wise=True)
    close(full(alone.delta_bias()), 0.5 * biases[0], size(full(biases[0])))


@pytest.mark.parametrize("name", ["mean", "multislerp", "karcher", "model_stock", "metagpt"])
def test_a_site_that_an_operand_lacks_counts_as_zero(name: str) -> None:
    values = [lora(3, 1), lora(2, 2)]
    zero = lora(2, 3) * 0.0
    usual = [float(w) for w in named_method(name).default_weights(3)]
    close(
        run(name, values, usual[:2], 3),
        dense(run(name, [*values, zero], usual)),
        size(*values),
        1e-12,
    )
    (only,) = [run(name, [values[0]], usual[:1], 3)]
    close(only, dense(run(name, [values[0], zero, zero], usual)), size(*values), 1e-12)


class Opened:
    """An adapter with these sites."""

    def __init__(self, **sites: Any) -> None:
        self.sites = sites


def test_slerp_knows_which_end_lacks_the_site() -> None:
    value = lora(3, 1)
    here, elsewhere = Opened(q=value), Opened(k=value)
    slerp = named_method("slerp")
    for operands, share in (
        ([here, elsewhere], 0.7),
        ([elsewhere, here], 0.3),
        ([None, elsewhere], 0.7),
        ([None, here], 0.3),
        ([here, None], 0.7),
        ([elsewhere, None], 0.3),
    ):
        alone = Stack("q", [value], [-2.0], ["a"], operands)  # type: ignore[arg-type]
        assert slerp.check(alone) is None
        close(slerp.function(alone, t=0.3), -2 * share * dense(value), 2 * value.norm())
    error = slerp.check(stack([value], [1.0], 2))
    assert isinstance(error, OperandError)
    assert "which of two expressions" in str(error)
    close(run("nuslerp", [value], [0.3], 2), 0.3 * dense(value), value.norm())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("slerp", {"t": -0.1}),
        ("slerp", {"t": 1.5}),
        ("slerp", {"t": math.nan}),
        ("karcher", {"max_iter": -1}),
        ("karcher", {"tol": -1.0}),
        ("karcher", {"tol": math.nan}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        run(name, [lora(2), lora(2, 1)], **options)


WRONG: list[tuple[str, list[Any], type[PemathError], str]] = [
    *((name, [lora(2)] * count, OperandError, "two operands") for name in ("slerp", "nuslerp")
      for count in (1, 3)),
    *((name, [lora(2), product(random(2, 5), random(OUT, 2))], ShapeMismatch, "base")
      for name in ("slerp", "nuslerp", "karcher", "multislerp", "model_stock", "metagpt")),
    ("slerp", [full(random(4, 3)), full(random(3, 4))], ShapeMismatch, "base"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "error", "message"), WRONG)
def test_misuse_is_refused(
    name: str, values: list[Any], error: type[PemathError], message: str
) -> None:
    found = named_method(name).check(stack(values, [1.0] * len(values)))
    assert type(found) is error
    with pytest.raises(error, match=message):
        raise found
