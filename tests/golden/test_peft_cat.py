"""`peft_cat` writes what released PEFT's `add_weighted_adapter("cat")` saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pemath
from pemath.errors import KindMismatch

from . import adapters, oracle
from .conftest import Operands
from .released_peft import add_weighted_adapter
from .test_grouped_convolution import kernel
from .test_peft_linear import assert_same_tensors

Make = Callable[[str], Operands]

WEIGHTS = [(0.5, 0.5), (1.0, -1.0), (-0.7, 0.3)]
LAYOUTS = [
    "plain",
    "shared A",
    "different ranks and alphas",
    "rank_pattern and alpha_pattern",
    "different sites",
    "regex",
    "embedding",
    "fan_in_fan_out",
    "llama",
    "t5",
    "conv1d",
]


def peft_cat(
    base: str, folders: list[Path], weights: list[float], tmp_path: Path
) -> tuple[Path, Path]:
    """The composite of pemath, and PEFT's."""
    names = [f"x{number}" for number in range(len(folders))]
    done = pemath.compose(
        f"peft_cat({', '.join(names)}, weights={weights})",
        tmp_path / "ours",
        operands={name: str(folder) for name, folder in zip(names, folders, strict=True)},
    )
    return done.folder, add_weighted_adapter(
        base, folders, weights, tmp_path / "theirs", combination_type="cat"
    )


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_two_operands(
    operands: Make, tmp_path: Path, name: str, weights: tuple[float, float]
) -> None:
    made = operands(name)
    folders = [made.folders["a"], made.folders["b"]]
    ours, theirs = peft_cat(made.layout.base, folders, list(weights), tmp_path)
    assert_same_tensors(ours, theirs)
    oracle.load(made.layout.base, ours)


def test_convolutions(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"target_modules": ["stem", "point", "volume"], "lora_alpha": 5}
    folders = [
        adapters.lora("net", tmp_path / key, r=r, **settings)
        for key, r in zip("ab", (1, 2), strict=True)
    ]
    assert_same_tensors(*peft_cat("net", folders, [0.7, -0.4], tmp_path))


def test_three_operands(operands: Make, tmp_path: Path) -> None:
    folders = list(operands("different ranks and alphas").folders.values())
    assert_same_tensors(*peft_cat("bert", folders, [0.5, -0.3, 1.5], tmp_path))


@pytest.mark.parametrize("weight", [1.0, -1.0, 0.3])
def test_one_operand_is_combined_linearly(operands: Make, tmp_path: Path, weight: float) -> None:
    folders = [operands("alpha_pattern").folders["b"]]
    assert_same_tensors(*peft_cat("bert", folders, [weight], tmp_path))


def test_it_is_the_exact_sum(operands: Make, tmp_path: Path) -> None:
    made = operands("different ranks and alphas")
    folders = [made.folders["a"], made.folders["b"]]
    ours, _ = peft_cat("bert", folders, [0.6, 0.4], tmp_path)
    found = oracle.deltas(oracle.load("bert", ours))
    wanted = made.weighted_sum("0.6*a + 0.4*b")
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


def test_rslora_keeps_its_scaling(tmp_path: Path) -> None:
    folders = [adapters.lora("bert", tmp_path / name, use_rslora=True) for name in "ab"]
    ours, theirs = peft_cat("bert", folders, [0.5, 0.5], tmp_path)
    wanted = oracle.deltas(oracle.load("bert", theirs))
    found = oracle.deltas(oracle.load("bert", ours))
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


def test_groups_of_a_convolution_are_mixed_up(tmp_path: Path) -> None:
    """PEFT puts the operands' A below each other, where each group of the layer wants its own rows
    of all of them: what it saves is not the sum."""
    settings: dict[str, Any] = {"target_modules": ["grouped"], "r": 2, "lora_alpha": 8}
    folders = [adapters.lora("grouped_net", tmp_path / key, **settings) for key in "ab"]
    ours, theirs = peft_cat("grouped_net", folders, [0.5, 0.5], tmp_path)
    assert_same_tensors(ours, theirs)
    wanted = 0.5 * kernel(folders[0]) + 0.5 * kernel(folders[1])
    lost = torch.linalg.norm(kernel(theirs) - wanted)
    assert float(lost) > 0.5 * float(torch.linalg.norm(wanted))


def test_a_rank_above_the_matrix_is_written_smaller(operands: Make, tmp_path: Path) -> None:
    """Where the ranks add up to more than the matrix has, ours is the sum at its full rank."""
    made = operands("rank above the matrix")
    folders = [made.folders["a"], made.folders["b"]]
    ours, theirs = peft_cat("bert", folders, [0.6, 0.4], tmp_path)
    sizes = [
        max(len(tensor) for name, tensor in adapters.load_file(f / adapters.WEIGHTS).items()
            if "lora_A" in name)
        for f in (ours, theirs)
    ]  # fmt: skip
    assert sizes == [32, 60]
    found, wanted = (oracle.deltas(oracle.load("bert", folder)) for folder in (ours, theirs))
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-5


@pytest.mark.parametrize("kind", ["ia3 bert", "experts"])
def test_what_both_refuse(operands: Make, tmp_path: Path, kind: str) -> None:
    made = operands(kind)
    folders = [made.folders["a"], made.folders["b"]]
    with pytest.raises((TypeError, ValueError)):
        add_weighted_adapter(
            made.layout.base, folders, [1, 1], tmp_path / "theirs", combination_type="cat"
        )
    bound = {key: str(folder) for key, folder in zip("ab", folders, strict=True)}
    with pytest.raises(KindMismatch):
        pemath.compose("peft_cat(a, b)", tmp_path / "out", operands=bound)
