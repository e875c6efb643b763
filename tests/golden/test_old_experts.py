"""Adapters of MoE models from before their experts became one parameter.

They have a LoRA per expert; PEFT fuses these when it loads them, so a composite must keep them
fusible: the leaf names of the experts' layers among the target modules, and one rank.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import pemath

from . import adapters, oracle
from .bases import base, forward, quiet
from .layouts import EXPRESSIONS

SHAPES = {"w1": (48, 32), "w2": (32, 48), "w3": (48, 32)}  # (out, in) of one expert's layers


def write(folder: Path, rank: int, alpha: float) -> Path:
    generator = torch.Generator().manual_seed(rank)
    tensors = {}
    for expert in range(4):
        for name, (out, inputs) in SHAPES.items():
            site = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{name}"
            for factor, shape in {"A": (rank, inputs), "B": (out, rank)}.items():
                noise = 0.3 * torch.randn(shape, generator=generator)
                tensors[f"{site}.lora_{factor}.weight"] = noise
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": [*SHAPES]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapters.save_file(tensors, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    return folder


def load(folder: Path) -> PeftModel:
    with quiet():
        model = PeftModel.from_pretrained(base("mixtral").double(), str(folder))
    names = {f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")}
    assert set(oracle.deltas(model)) == names
    return model.eval()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_delta_and_forward(tmp_path: Path, expression: str) -> None:
    folders = {
        "a": write(tmp_path / "a", 2, 4),
        "b": write(tmp_path / "b", 3, 1),
        "c": write(tmp_path / "c", 1, 2),
    }
    terms = EXPRESSIONS[expression]
    used = {name: str(folders[name]) for name in terms}
    done = pemath.compose(expression, tmp_path / "out", operands=used)
    wanted = oracle.weighted_sum((c, oracle.deltas(load(folders[n]))) for n, c in terms.items())
    model = load(done.folder)
    errors = oracle.relative_errors(oracle.deltas(model), wanted)
    assert max(errors.values()) <= 1e-6, errors
    torch.testing.assert_close(
        forward("mixtral", model),
        forward("mixtral", oracle.with_deltas("mixtral", wanted)),
        rtol=1e-5,
        atol=1e-5,
    )
