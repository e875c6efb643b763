"""On (IA)³, `peft_linear` is PEFT's bare weighted sum: around zero, not around one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pemath

from . import adapters, oracle
from .conftest import Operands
from .layouts import IA3
from .released_peft import add_weighted_adapter

Make = Callable[[str], Operands]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, -1.0), (-1.0, 0.0)])
@pytest.mark.parametrize("name", IA3)
def test_two_operands(
    operands: Make, tmp_path: Path, name: str, weights: tuple[float, float]
) -> None:
    made = operands(f"ia3 {name}")
    folders = {key: str(made.folders[key]) for key in "ab"}
    done = pemath.compose(
        f"peft_linear(a, b, weights={list(weights)})", tmp_path / "ours", operands=folders
    )
    theirs = add_weighted_adapter(
        made.layout.base,
        [Path(folder) for folder in folders.values()],
        weights,
        tmp_path / "theirs",
    )
    found = adapters.load_file(done.folder / adapters.WEIGHTS)
    wanted = adapters.load_file(theirs / adapters.WEIGHTS)
    assert set(found) == set(wanted)
    for key, tensor in wanted.items():
        assert found[key].shape == tensor.shape
        assert found[key].dtype == torch.float32
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-7)
    oracle.load(made.layout.base, done.folder)


def test_three_operands(operands: Make, tmp_path: Path) -> None:
    made = operands("ia3 llama")
    weights = [0.2, 0.3, 0.5]
    done = pemath.compose(
        f"peft_linear(a, b, c, weights={weights})",
        tmp_path / "ours",
        operands={name: str(folder) for name, folder in made.folders.items()},
    )
    theirs = add_weighted_adapter(
        "llama", list(made.folders.values()), weights, tmp_path / "theirs"
    )
    wanted = adapters.load_file(theirs / adapters.WEIGHTS)
    for key, tensor in adapters.load_file(done.folder / adapters.WEIGHTS).items():
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-6, atol=1e-7)
