"""(IA)³ is affine around one: l = 1 + Σ cᵢ·(lᵢ − 1), for weights and biases alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from . import oracle
from .bases import forward
from .conftest import Operands
from .layouts import EXPRESSIONS, IA3

Make = Callable[[str], Operands]
Composite = Callable[[str, str], Path]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("name", IA3)
def test_vectors(operands: Make, composite: Composite, name: str, expression: str) -> None:
    made = operands(f"ia3 {name}")
    found = oracle.vectors(oracle.load(made.layout.base, composite(f"ia3 {name}", expression)))
    wanted = made.affine_sum(expression)
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("name", IA3)
def test_forward(operands: Make, composite: Composite, name: str, expression: str) -> None:
    made = operands(f"ia3 {name}")
    feedforward: set[str] = set()
    for folder in made.folders.values():
        feedforward |= oracle.feedforward_sites(oracle.load(made.layout.base, folder))
    model = oracle.load(made.layout.base, composite(f"ia3 {name}", expression))
    wanted = oracle.with_vectors(made.layout.base, made.affine_sum(expression), feedforward)
    torch.testing.assert_close(
        forward(made.layout.base, model), forward(made.layout.base, wanted), rtol=1e-5, atol=1e-5
    )
