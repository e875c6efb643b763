"""What methods on directions and in core spaces may hold: factors, never a matrix of the base."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from pemath.formats.floats import FLOAT_TYPES, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.lora import Lora
from pemath.methods import Stack, named_method

SIDE, RANK = 4096, 8
DENSE = 8 * SIDE * SIDE  # bytes of one delta in float64: 134 MB

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("mean", {}),
    ("slerp", {}),
    ("nuslerp", {}),
    ("nuslerp", {"row_wise": True}),
    ("multislerp", {}),
    ("karcher", {}),
    ("model_stock", {}),
    ("metagpt", {}),
    ("knots", {}),
    ("core", {}),
    ("core", {"inner": "tsv"}),
    ("tsv", {}),
    ("iso", {}),
    ("iso", {"variant": "cts"}),
    ("lego", {}),
]


@pytest.fixture(scope="module")
def factors() -> list[tuple[Stored, Stored]]:
    """Three LoRAs in float16, as they would lie in a file, with something in common."""
    rng = np.random.default_rng(0)
    common_a, common_b = rng.standard_normal((RANK, SIDE)), rng.standard_normal((SIDE, RANK))
    found = []
    for _ in range(3):
        a = (common_a + rng.standard_normal((RANK, SIDE))) / 64
        b = 0.01 * (common_b + rng.standard_normal((SIDE, RANK)))
        kind = FLOAT_TYPES["F16"]
        found.append((Stored(a.astype("f2"), kind), Stored(b.astype("f2"), kind)))
    return found


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_nothing_of_the_size_of_the_base(
    name: str, options: dict[str, Any], factors: list[tuple[Stored, Stored]]
) -> None:
    """Three operands of rank 8 at 4096×4096: a tenth of one dense delta, output included."""
    geometry = Geometry("linear", SIDE, (SIDE,))
    values = [Lora(geometry, geometry.products(a, b, 2.0)) for a, b in factors]
    method = named_method(name)
    count = 2 if name in ("slerp", "nuslerp") else 3
    weights = [float(weight) for weight in method.default_weights(count)]
    stack = Stack("q", values[:count], weights, list("abc")[:count], [None] * count)
    assert method.check(stack) is None
    tracemalloc.start()
    found = method.function(stack, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < DENSE / 10
    assert found.rank <= method.rank([RANK] * count, [None] * count, **options) <= count * RANK
    assert found.norm() > 0
