"""`peft_svd` writes what released PEFT's `add_weighted_adapter("svd")` saves, up to signs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pemath

from . import adapters, oracle
from .conftest import Operands
from .released_peft import add_weighted_adapter

Make = Callable[[str], Operands]

WEIGHTS = [(0.5, 0.5), (1.0, -1.0), (-0.7, 0.3)]
LAYOUTS = [
    "plain",
    "shared A",
    "different ranks and alphas",
    "rank_pattern",
    "alpha_pattern",
    "rank_pattern and alpha_pattern",
    "different sites",
    "embedding",
    "fan_in_fan_out",
    "fan_in_fan_out embedding",
    "llama",
    "t5",
    "conv2d",
    "conv2d 1x1",
    "multihead attention",
]


def peft_svd(
    base: str, folders: list[Path], weights: list[float], tmp_path: Path, **options: float
) -> tuple[Path, Path]:
    """The composite of pemath, and PEFT's."""
    names = [f"x{number}" for number in range(len(folders))]
    more = "".join(f", {name}={value}" for name, value in options.items())
    done = pemath.compose(
        f"peft_svd({', '.join(names)}, weights={weights}{more})",
        tmp_path / "ours",
        operands={name: str(folder) for name, folder in zip(names, folders, strict=True)},
    )
    theirs = add_weighted_adapter(
        base, folders, weights, tmp_path / "theirs", combination_type="svd", **options
    )
    return done.folder, theirs


def factors(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B as matrices, by site."""
    stored = adapters.load_file(folder / adapters.WEIGHTS)
    found = {}
    for name, A in stored.items():
        if "lora_A" in name or "lora_embedding_A" in name:
            B = stored[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
            assert A.dtype == B.dtype == torch.float32
            found[name] = (A.flatten(1), B.flatten(1))
    return found


def assert_same_singular_pairs(ours: Path, theirs: Path) -> None:
    """Equal factors but for the sign of each pair, as far as float32 determines them."""
    found, wanted = factors(ours), factors(theirs)
    assert set(found) == set(wanted)
    for name, (A, B) in wanted.items():
        own_A, own_B = found[name]
        assert own_A.shape == A.shape
        assert own_B.shape == B.shape
        size = float(torch.linalg.norm(B))
        error = torch.linalg.norm(own_B @ own_A - B @ A)
        assert float(error) <= 1e-5 * size, name
        values, own_values = torch.linalg.norm(B, dim=0), torch.linalg.norm(own_B, dim=0)
        assert float((values - own_values).abs().max()) <= 1e-5 * size, name
        # A pair is only determined where its singular value stands apart from its neighbours.
        gaps = (values[:, None] - values[None, :]).abs().fill_diagonal_(torch.inf).amin(1)
        for k in (torch.minimum(gaps, values) > 1e-2 * size).nonzero().flatten().tolist():
            sign = float(torch.sign(own_A[k] @ A[k]))
            torch.testing.assert_close(sign * own_A[k], A[k], rtol=0, atol=1e-3)
            torch.testing.assert_close(sign * own_B[:, k], B[:, k], rtol=0, atol=1e-3 * size)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_two_operands(
    operands: Make, tmp_path: Path, name: str, weights: tuple[float, float]
) -> None:
    made = operands(name)
    folders = [made.folders["a"], made.folders["b"]]
    ours, theirs = peft_svd(made.layout.base, folders, list(weights), tmp_path)
    assert_same_singular_pairs(ours, theirs)
    configs = [
        json.loads((folder / "adapter_config.json").read_text()) for folder in (ours, theirs)
    ]
    assert {(config["r"], config["lora_alpha"]) for config in configs} == {(configs[0]["r"],) * 2}
    oracle.load(made.layout.base, ours)


@pytest.mark.parametrize("svd_rank", [1, 3, 7])
def test_rank(operands: Make, tmp_path: Path, svd_rank: int) -> None:
    folders = list(operands("different ranks and alphas").folders.values())
    weights = [0.5, -0.3, 1.5]
    assert_same_singular_pairs(*peft_svd("bert", folders, weights, tmp_path, svd_rank=svd_rank))


@pytest.mark.parametrize("svd_clamp", [0.6, 0.99])
def test_clamp(operands: Make, tmp_path: Path, svd_clamp: float) -> None:
    """The quantile is that of the signed values, so it depends on the signs of the pairs: it is
    checked on our own."""
    folders = {name: str(operands("plain").folders[name]) for name in "ab"}
    plain, clamped = (
        pemath.compose(f"peft_svd(a, b{option})", tmp_path / name, operands=folders).folder
        for name, option in {"plain": "", "clamped": f", svd_clamp={svd_clamp}"}.items()
    )
    found = factors(clamped)
    for name, (A, B) in factors(plain).items():
        bound = float(torch.quantile(torch.cat([B.flatten(), A.flatten()]), svd_clamp))
        for own, M in zip(found[name], (A, B), strict=True):
            torch.testing.assert_close(own, M.clamp(-bound, bound), rtol=1e-5, atol=1e-6)


def test_one_operand_is_combined_linearly(operands: Make, tmp_path: Path) -> None:
    """PEFT does not truncate a single adapter, whatever `svd_rank` says."""
    folders = [operands("plain").folders["a"]]
    ours, theirs = peft_svd("bert", folders, [-0.5], tmp_path, svd_rank=2)
    found = adapters.load_file(ours / adapters.WEIGHTS)
    wanted = adapters.load_file(theirs / adapters.WEIGHTS)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


def test_rslora_keeps_its_scaling(tmp_path: Path) -> None:
    folders = [adapters.lora("bert", tmp_path / name, use_rslora=True) for name in "ab"]
    ours, theirs = peft_svd("bert", folders, [0.5, 0.5], tmp_path)
    wanted = oracle.deltas(oracle.load("bert", theirs))
    found = oracle.deltas(oracle.load("bert", ours))
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-5


@pytest.mark.parametrize("name", ["conv1d", "conv3d"])
def test_what_peft_cannot_do(operands: Make, tmp_path: Path, name: str) -> None:
    folders = [operands(name).folders[operand] for operand in "ab"]
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        add_weighted_adapter("net", folders, [0.5, 0.5], tmp_path / "theirs")


def test_rank_above_the_matrix(operands: Make, tmp_path: Path) -> None:
    """Where a layer has fewer outputs than the rank (a classifier), PEFT saves an A with more rows
    than B has columns, which it cannot load; ours is the sum."""
    made = operands("all-linear")
    folders = [made.folders[name] for name in "ab"]
    ours, theirs = peft_svd("bert", folders, [0.6, 0.4], tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        oracle.load("bert", theirs)
    found = oracle.deltas(oracle.load("bert", ours))["classifier.weight"]
    wanted = made.weighted_sum("0.6*a + 0.4*b")["classifier.weight"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
