"""The certificate of a truncated or rounded composite is the error that PEFT's deltas show."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pemath

from . import oracle
from .conftest import Operands

Make = Callable[[str], Operands]

LAYOUTS = [
    "plain",
    "different sites",
    "lora_bias",
    "embedding",
    "fan_in_fan_out",
    "t5",
    "experts",
    "conv2d",
    "whole net",
]
OPTIONS: dict[str, dict[str, Any]] = {
    "rank 1": {"rank": 1},
    "rank 3": {"rank": 3},
    "max_error": {"max_error": 0.3},
    "bfloat16": {"dtype": "bfloat16"},
    "rank 2 in bfloat16": {"rank": 2, "dtype": "bfloat16"},
}


def measured(found: oracle.Deltas, wanted: oracle.Deltas) -> float:
    """The relative Frobenius error of all deltas together."""
    errors = [float(torch.linalg.norm(found[name] - delta)) for name, delta in wanted.items()]
    return math.hypot(*errors) / math.hypot(*(float(torch.linalg.norm(d)) for d in wanted.values()))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_error(operands: Make, tmp_path: Path, name: str, options: str) -> None:
    made = operands(name)
    wanted = made.weighted_sum("a - b")
    folders = {key: str(made.folders[key]) for key in "ab"}
    done = pemath.compose("a - b", tmp_path / "out", operands=folders, **OPTIONS[options])
    found = oracle.deltas(oracle.load(made.layout.base, done.folder))
    assert set(found) == set(wanted)
    assert done.certificate.error == pytest.approx(measured(found, wanted), abs=1e-6)
    if "max_error" in options:
        assert done.certificate.error <= 0.3


def test_truncation_is_optimal(operands: Make, tmp_path: Path) -> None:
    made = operands("plain")
    folders = {key: str(made.folders[key]) for key in "ab"}
    done = pemath.compose("0.6*a + 0.4*b", tmp_path / "out", operands=folders, rank=3)
    wanted = made.weighted_sum("0.6*a + 0.4*b")
    found = oracle.deltas(oracle.load("bert", done.folder))
    for name, delta in wanted.items():
        optimum = float(torch.linalg.norm(torch.linalg.svdvals(delta)[3:]))
        assert float(torch.linalg.norm(found[name] - delta)) <= optimum * (1 + 1e-6)
