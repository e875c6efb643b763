"""`peft_linear` writes what released PEFT's `add_weighted_adapter("linear")` saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pemath
from pemath.errors import PemathError

from . import adapters, oracle
from .conftest import Operands
from .released_peft import add_weighted_adapter

Make = Callable[[str], Operands]

WEIGHTS = [(0.5, 0.5), (1.0, -1.0), (-0.7, 0.3), (2.0, 0.25), (0.0, 1.0)]
LAYOUTS = [
    "plain",
    "shared A",
    "alpha_pattern",
    "full names",
    "all-linear",
    "regex",
    "embedding",
    "fan_in_fan_out",
    "fan_in_fan_out embedding",
    "llama",
    "t5",
    "conv1d",
    "conv2d",
    "conv2d 1x1",
    "conv3d",
    "multihead attention",
]


def peft_linear(
    base: str, folders: list[Path], weights: list[float], tmp_path: Path, profile: str = "portable"
) -> tuple[Path, Path]:
    """The composite of pemath, and PEFT's."""
    names = [f"x{number}" for number in range(len(folders))]
    done = pemath.compose(
        f"peft_linear({', '.join(names)}, weights={weights})",
        tmp_path / "ours",
        operands={name: str(folder) for name, folder in zip(names, folders, strict=True)},
        profile=profile,
    )
    theirs = add_weighted_adapter(
        base, folders, weights, tmp_path / "theirs", combination_type="linear"
    )
    return done.folder, theirs


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    found = adapters.load_file(ours / adapters.WEIGHTS)
    wanted = adapters.load_file(theirs / adapters.WEIGHTS)
    wanted = {name: t for name, t in wanted.items() if not name.endswith(".base_layer.weight")}
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype == torch.float32
        assert found[name].shape == tensor.shape
        # Products and sums may be rounded once each.
        assert float((found[name] - tensor).abs().max()) <= 2**-22 * float(tensor.abs().max()), name


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_two_operands(
    operands: Make, tmp_path: Path, name: str, weights: tuple[float, float]
) -> None:
    made = operands(name)
    folders = [made.folders["a"], made.folders["b"]]
    ours, theirs = peft_linear(made.layout.base, folders, list(weights), tmp_path)
    assert_same_tensors(ours, theirs)
    config = json.loads((ours / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    oracle.load(made.layout.base, ours)  # and it loads


def test_three_operands(operands: Make, tmp_path: Path) -> None:
    folders = [operands(name).folders["a"] for name in ("plain", "alpha_pattern", "shared A")]
    assert_same_tensors(*peft_linear("bert", folders, [0.5, -0.3, 1.5], tmp_path))


@pytest.mark.parametrize("weight", [1.0, -1.0, 0.3])
def test_one_operand(operands: Make, tmp_path: Path, weight: float) -> None:
    folders = [operands("alpha_pattern").folders["b"]]
    assert_same_tensors(*peft_linear("bert", folders, [weight], tmp_path))


def test_sites_that_only_one_has(tmp_path: Path) -> None:
    folders = [
        adapters.lora("bert", tmp_path / "a", target_modules=["query"], lora_alpha=3),
        adapters.lora("bert", tmp_path / "b", target_modules=["query", "value"]),
    ]
    assert_same_tensors(*peft_linear("bert", folders, [0.5, -2.0], tmp_path))


def test_filters_of_the_first_lose_sites(tmp_path: Path) -> None:
    """PEFT applies the first operand's `layers_to_transform` to all, silently: here it is zero."""
    folders = [
        adapters.lora("bert", tmp_path / "a", layers_to_transform=[0]),
        adapters.lora("bert", tmp_path / "b"),
    ]
    ours, theirs = peft_linear("bert", folders, [0.5, 0.5], tmp_path)
    found = adapters.load_file(ours / adapters.WEIGHTS)
    wanted = adapters.load_file(theirs / adapters.WEIGHTS)
    for name, tensor in found.items():
        if name in wanted:
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-6, atol=0)
        else:
            assert not tensor.any(), name


def test_equal_rank_patterns(tmp_path: Path) -> None:
    """PEFT saves the right tensors and a configuration that it cannot load; ours loads."""
    pattern = {"rank_pattern": {"layer.1.attention.self.query": 6}}
    folders = [adapters.lora("bert", tmp_path / name, **pattern) for name in "ab"]
    ours, theirs = peft_linear("bert", folders, [0.5, -0.5], tmp_path, profile="compact")
    assert_same_tensors(ours, theirs)
    oracle.load("bert", ours)
    with pytest.raises(RuntimeError, match="size mismatch"):
        oracle.load("bert", theirs)


@pytest.mark.parametrize("second", [True, False])
def test_rslora_keeps_its_scaling(tmp_path: Path, second: bool) -> None:
    """PEFT's configuration keeps the first operand's rsLoRA: the delta grows by the root of r."""
    folders = [
        adapters.lora("bert", tmp_path / "a", use_rslora=True),
        adapters.lora("bert", tmp_path / "b", use_rslora=second),
    ]
    ours, theirs = peft_linear("bert", folders, [0.5, 0.5], tmp_path)
    wanted = oracle.deltas(oracle.load("bert", theirs))
    found = oracle.deltas(oracle.load("bert", ours))
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


def test_lora_bias_is_dropped(tmp_path: Path) -> None:
    folders = [adapters.lora("bert", tmp_path / name, lora_bias=True) for name in "ab"]
    ours, theirs = peft_linear("bert", folders, [0.5, 0.5], tmp_path)
    wanted = oracle.deltas(oracle.load("bert", theirs))
    assert all(not delta.any() for name, delta in wanted.items() if name.endswith("bias"))
    found = oracle.deltas(oracle.load("bert", ours))
    for name, delta in wanted.items():
        torch.testing.assert_close(found.get(name, torch.zeros(1)), delta, rtol=1e-6, atol=1e-6)


# What PEFT refuses, for the reason that it gives.
RAISES: dict[str, tuple[list[dict], str]] = {
    "ranks": ([{"r": 4}, {"r": 2}], "same r"),
    "rank_pattern": (
        [{"rank_pattern": {"query": 6}}, {"rank_pattern": {"value": 6}}],
        "equal size",
    ),
    "target modules": ([{}, {"target_modules": r".*\.(query|value)"}], "target modules type"),
    "heads": ([{"modules_to_save": ["classifier"]}] * 2, "modules_to_save"),
    "biases": ([{"bias": "lora_only"}] * 2, "bias"),
}


@pytest.mark.parametrize("reason", RAISES)
def test_what_peft_refuses(tmp_path: Path, reason: str) -> None:
    configs, message = RAISES[reason]
    folders = [
        adapters.lora("bert", tmp_path / name, **config)
        for name, config in zip("ab", configs, strict=True)
    ]
    with pytest.raises((ValueError, RuntimeError), match=message):
        add_weighted_adapter(
            "bert", folders, [0.5, 0.5], tmp_path / "theirs", combination_type="linear"
        )


@pytest.mark.parametrize("reason", ["ranks", "rank_pattern"])
def test_ranks_that_differ_are_refused(tmp_path: Path, reason: str) -> None:
    folders = {
        name: str(adapters.lora("bert", tmp_path / name, **config))
        for name, config in zip("ab", RAISES[reason][0], strict=True)
    }
    with pytest.raises(PemathError, match="rank") as refused:
        pemath.compose("peft_linear(a, b)", tmp_path / "out", operands=folders)
    assert refused.value.exit_code == 4


def test_experts_are_refused_by_peft(operands: Make, tmp_path: Path) -> None:
    made = operands("experts")
    with pytest.raises(ValueError, match=r"nn\.Parameter"):
        add_weighted_adapter(
            "mixtral", [made.folders["a"], made.folders["b"]], [1.0, 1.0], tmp_path / "theirs"
        )
