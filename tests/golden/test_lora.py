"""Composites of LoRA, read back through PEFT, are the weighted sum of PEFT's own deltas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pemath

from . import adapters, oracle
from .bases import forward
from .conftest import Operands
from .layouts import EXPRESSIONS, LORA

Make = Callable[[str], Operands]
Composite = Callable[[str, str], Path]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("name", LORA)
def test_delta(operands: Make, composite: Composite, name: str, expression: str) -> None:
    made = operands(name)
    found = oracle.deltas(oracle.load(made.layout.base, composite(name, expression)))
    errors = oracle.relative_errors(found, made.weighted_sum(expression))
    assert max(errors.values()) <= 1e-6, errors


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("name", LORA)
def test_forward(operands: Make, composite: Composite, name: str, expression: str) -> None:
    made = operands(name)
    model = oracle.load(made.layout.base, composite(name, expression))
    changed = oracle.with_deltas(made.layout.base, made.weighted_sum(expression))
    found, wanted = forward(made.layout.base, model), forward(made.layout.base, changed)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "rank_pattern", "rslora", "different sites", "t5"])
def test_evaluate(operands: Make, name: str) -> None:
    made = operands(name)
    wanted = made.weighted_sum("0.6*a + 0.4*b")
    folders = {key: str(path) for key, path in made.folders.items() if key != "c"}
    found = {
        f"{site}.weight": torch.from_numpy(np.asarray(value.delta_weight()))
        for site, value in pemath.evaluate("0.6*a + 0.4*b", operands=folders)
    }
    assert all(delta.dtype == torch.float64 for delta in found.values())
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-12


def test_operators_build_the_same_composite(operands: Make, tmp_path: Path) -> None:
    folders = operands("plain").folders
    a, b, c = (pemath.adapter(str(folders[name])) for name in "abc")
    done = pemath.compose(0.9 * a + 0.1 * (b - c), tmp_path / "out")
    found = oracle.deltas(oracle.load("bert", done.folder))
    wanted = operands("plain").weighted_sum("0.9*a + 0.1*(b - c)")
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "regex",
        "lora_bias",
        "embedding",
        "fan_in_fan_out",
        "experts",
        "conv2d",
        "whole net",
    ],
)
def test_a_composite_is_an_operand(
    operands: Make, composite: Composite, tmp_path: Path, name: str
) -> None:
    made = operands(name)
    folders = {"x": str(composite(name, "0.6*a + 0.4*b")), "a": str(made.folders["a"])}
    done = pemath.compose("x - 0.6*a", tmp_path / "out", operands=folders)
    wanted = oracle.weighted_sum([(0.4, made.deltas["b"])])
    found = oracle.deltas(oracle.load(made.layout.base, done.folder))
    for parameter, delta in found.items():
        size = torch.linalg.norm(made.deltas["a"].get(parameter, delta))  # of what cancels
        difference = delta - wanted.get(parameter, torch.zeros_like(delta))
        assert torch.linalg.norm(difference) <= 1e-6 * (size + torch.linalg.norm(delta)), parameter
    assert set(wanted) <= set(found)


def test_shared_A_keeps_the_rank(composite: Composite) -> None:
    folder = composite("shared A", "0.6*a + 0.4*b")
    ranks = {
        tensor.shape[0]
        for name, tensor in adapters.load_file(folder / adapters.WEIGHTS).items()
        if ".lora_A." in name
    }
    assert ranks == {4}


def test_no_change_at_all(operands: Make, tmp_path: Path) -> None:
    made = operands("plain")
    done = pemath.compose("a - a", tmp_path / "out", operands={"a": str(made.folders["a"])})
    plain = forward("bert", oracle.with_deltas("bert", {}))
    assert torch.equal(forward("bert", oracle.load("bert", done.folder)), plain)
