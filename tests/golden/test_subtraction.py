"""What methods of subtraction write is what PEFT adds to the base model's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pemath

from . import oracle
from .bases import forward
from .conftest import Operands

Make = Callable[[str], Operands]
Tensor = torch.Tensor


def _matrix(delta: Tensor) -> Tensor:
    return delta.flatten(1)


def _deficient(w: Tensor, v: Tensor) -> Tensor:
    w, v = _matrix(w), _matrix(v)
    bisector = torch.nn.functional.normalize(w, dim=1) + torch.nn.functional.normalize(v, dim=1)
    bisector = torch.nn.functional.normalize(bisector, dim=1)
    return w - (w * bisector).sum(1, keepdim=True) * bisector


def _projector(delta: Tensor) -> Tensor:
    """On the columns of `delta`."""
    left, values, _ = torch.linalg.svd(delta, full_matrices=False)
    kept = left[:, values > 1e-6 * values.max()]
    return kept @ kept.T


def _unshared(d: Tensor, other: Tensor) -> Tensor:
    d, other = _matrix(d), _matrix(other)
    return d - _projector(other) @ d @ _projector(other.T)


DEFICIENT, UNSHARED = "a - 0.6*deficient(b, a)", "a - 0.6*unshared(b, a)"
FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    DEFICIENT: lambda a, b: _matrix(a) - 0.6 * _deficient(b, a),
    UNSHARED: lambda a, b: _matrix(a) - 0.6 * _unshared(b, a),
}
LAYOUTS = ["plain", "shared A", "different ranks and alphas", "llama", "t5", "conv2d"]
# PEFT turns these weights over, and `deficient` goes by rows.
TRANSPOSED = ["fan_in_fan_out", "embedding"]
CASES = [(name, text) for text in FORMULAS for name in LAYOUTS]
CASES += [(name, UNSHARED) for name in TRANSPOSED]


@pytest.mark.parametrize(("name", "text"), CASES)
def test_deltas_and_forward(operands: Make, tmp_path: Path, name: str, text: str) -> None:
    made = operands(name)
    folders = {key: str(made.folders[key]) for key in "ab"}
    done = pemath.compose(text, tmp_path / "out", operands=folders)
    model = oracle.load(made.layout.base, Path(done.folder))
    first, second = (made.deltas[key] for key in "ab")
    wanted = {
        site: FORMULAS[text](delta.double(), second[site].double()).reshape(delta.shape)
        for site, delta in first.items()
    }
    assert max(oracle.relative_errors(oracle.deltas(model), wanted).values()) <= 1e-5
    torch.testing.assert_close(
        forward(made.layout.base, model),
        forward(made.layout.base, oracle.with_deltas(made.layout.base, wanted)),
        rtol=1e-4,
        atol=1e-4,
    )
