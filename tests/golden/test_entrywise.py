"""`magnitude_prune`, `ties` and `dare_…` beside what released PEFT's svd combinations save.

Weights are positive and alike, since PEFT elects signs before it applies them; densities are such
that the number of entries kept is whole. Nothing is truncated in 32 × 32 matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pemath

from . import oracle
from .conftest import Operands
from .released_peft import add_weighted_adapter

Make = Callable[[str], Operands]
WHOLE = 32
PRUNING: dict[str, dict[str, Any]] = {
    "magnitude_prune": {"density": 0.25},
    "ties": {"density": 0.25},
    "ties by frequency": {"density": 1.0, "majority_sign_method": "frequency"},
    "ties of all": {"density": 1.0},
}


def both(
    base: str, folders: list[Path], weights: list[float], tmp_path: Path, name: str, **options: Any
) -> tuple[oracle.Deltas, oracle.Deltas]:
    """The deltas of our composite, and of PEFT's."""
    names = [f"x{number}" for number in range(len(folders))]
    written = {k: f'"{v}"' if isinstance(v, str) else v for k, v in options.items()}
    more = "".join(f", {k}={v}" for k, v in written.items())
    done = pemath.compose(
        f"{name}({', '.join(names)}, weights={weights}, rank={WHOLE}{more})",
        tmp_path / "ours",
        operands={n: str(folder) for n, folder in zip(names, folders, strict=True)},
    )
    theirs = add_weighted_adapter(
        base, folders, weights, tmp_path / "theirs",
        combination_type=f"{name}_svd", svd_rank=WHOLE, **options,
    )  # fmt: skip
    return (
        oracle.deltas(oracle.load(base, done.folder)),
        oracle.deltas(oracle.load(base, theirs)),
    )


def assert_same(found: oracle.Deltas, wanted: oracle.Deltas) -> None:
    assert set(found) == set(wanted)
    for name, delta in wanted.items():
        assert torch.linalg.norm(found[name] - delta) <= 1e-5 * torch.linalg.norm(delta), name


@pytest.mark.parametrize("name", PRUNING)
@pytest.mark.parametrize("layout", ["plain", "shared A", "t5"])
def test_pruning(operands: Make, tmp_path: Path, layout: str, name: str) -> None:
    made = operands(layout)
    folders = [made.folders["a"], made.folders["b"]]
    method = name.partition(" ")[0]
    weights = [0.5, 2.0] if method == "magnitude_prune" else [0.7, 0.7]
    if name == "ties by frequency":  # of an odd number: PEFT takes + where votes are equal
        folders, weights = [*folders, made.folders["c"]], [0.7, 0.7, 0.7]
    assert_same(*both(made.layout.base, folders, weights, tmp_path, method, **PRUNING[name]))


def test_signs_are_elected_with_the_weights(operands: Make, tmp_path: Path) -> None:
    """PEFT elects without them: it equals ours of the operands that are scaled beforehand only where
    the weights are positive and alike."""
    folders = [operands("plain").folders["a"]] * 2
    weights, options = [1.0, -2.0], {"density": 1.0}
    found, wanted = both("bert", folders, weights, tmp_path, "ties", **options)
    for name, delta in operands("plain").deltas["a"].items():
        torch.testing.assert_close(found[name].double(), -2 * delta.double(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            wanted[name].double(), -0.5 * delta.double(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_random_masks(operands: Make, tmp_path: Path, name: str) -> None:
    """PEFT draws others, with the same probability, and rescales by the same number."""
    made = operands("plain")
    folders, density = [made.folders["a"], made.folders["b"]], 0.25
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found, wanted = both("bert", folders, [1.0, 1.0], tmp_path, name, density=density)
    for deltas in (found, wanted):
        kept = torch.cat([(d.abs() > 1e-5).flatten().double() for d in deltas.values()])
        share = 1 - (1 - density) ** 2  # either operand is there, and is not nothing
        sigma = (share * (1 - share) / len(kept)) ** 0.5
        assert abs(float(kept.mean()) - share) < 5 * sigma + 2e-3
    exact = {n: made.deltas["a"][n] + made.deltas["b"][n] for n in found}
    if name == "dare_linear":
        for deltas in (found, wanted):
            along = sum(float((delta * exact[n]).sum()) for n, delta in deltas.items())
            slope = along / sum(float((delta**2).sum()) for delta in exact.values())
            assert slope == pytest.approx(1.0, abs=0.2)  # four standard errors
