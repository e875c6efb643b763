"""The oracle, checked: PEFT's delta weights are what its documentation promises.

Nothing here needs pemath. A failure means that PEFT has changed, and the other tests with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from . import adapters, oracle
from .bases import base, forward
from .conftest import Operands
from .layouts import IA3, LORA

Make = Callable[[str], Operands]


def scaling(config: dict, site: str) -> tuple[int, float]:
    """Rank and scaling at a site, from the configuration alone."""

    def matched(pattern: dict, default: float) -> float:
        for key, value in pattern.items():
            if re.match(rf"(.*\.)?({key})$", site):
                return value
        return default

    rank = matched(config["rank_pattern"], config["r"])
    alpha = matched(config["alpha_pattern"], config["lora_alpha"])
    return rank, alpha / (rank**0.5 if config["use_rslora"] else rank)


@pytest.mark.parametrize("name", LORA)
def test_deltas_follow_the_formulas(operands: Make, name: str) -> None:
    made = operands(name)
    model = base(made.layout.base)
    for operand, folder in made.folders.items():
        config = json.loads((folder / "adapter_config.json").read_text())
        stored = {
            key.removeprefix("base_model.model."): tensor.double()
            for key, tensor in load_file(folder / adapters.WEIGHTS).items()
        }
        for parameter, delta in made.deltas[operand].items():
            wanted = formula(config, stored, model, parameter)
            assert delta.shape == wanted.shape
            assert torch.allclose(delta, wanted, rtol=1e-12, atol=1e-12), parameter


def formula(
    config: dict, stored: dict[str, torch.Tensor], model: nn.Module, parameter: str
) -> torch.Tensor:
    """The delta of one parameter, from the tensors of the file."""
    site, _, kind = parameter.rpartition(".")
    scale = scaling(config, site)[1]
    if kind == "bias":
        return scale * stored[f"{site}.lora_B.bias"]
    if f"{site}.lora_embedding_A" in stored:
        return scale * (stored[f"{site}.lora_embedding_B"] @ stored[f"{site}.lora_embedding_A"]).T
    nested = kind == "gate_up_proj" and f"{site}.base_layer.lora_A.weight" in stored
    layer = f"{site}.base_layer" if nested else site.replace(".out_proj", ".base_layer.out_proj")
    A, B = stored[f"{layer}.lora_A.weight"], stored[f"{layer}.lora_B.weight"]
    module = model.get_submodule(site)
    if "experts" in site:
        rank, scale = scaling(config, parameter)
        A = A.reshape(-1, rank, A.shape[1])  # (experts, rank, in)
        B = B.reshape(B.shape[0], rank, -1)  # (out, rank, experts)
        stored_in_out = getattr(module, "is_transposed", False)
        return scale * torch.einsum(f"ore,eri->{'eio' if stored_in_out else 'eoi'}", B, A)
    delta = scale * torch.einsum("or,ri...->oi...", B.flatten(1), A)
    return delta.T if type(module).__name__ == "Conv1D" else delta


@pytest.mark.parametrize("name", LORA)
def test_the_forward_pass_adds_the_deltas(operands: Make, name: str) -> None:
    made = operands(name)
    wanted = forward(made.layout.base, oracle.with_deltas(made.layout.base, made.deltas["a"]))
    found = forward(made.layout.base, oracle.load(made.layout.base, made.folders["a"]))
    plain = forward(made.layout.base, base(made.layout.base).double())
    assert torch.allclose(found, wanted, atol=1e-9)
    assert not torch.allclose(found, plain, atol=1e-3)  # the test would see a lost adapter


@pytest.mark.parametrize("name", IA3)
def test_the_forward_pass_scales_weights_and_biases(operands: Make, name: str) -> None:
    made = operands(f"ia3 {name}")
    model = oracle.load(made.layout.base, made.folders["a"])
    scaled = oracle.with_vectors(
        made.layout.base, made.vectors["a"], oracle.feedforward_sites(model)
    )
    found, plain = forward(made.layout.base, model), base(made.layout.base).double()
    assert torch.allclose(found, forward(made.layout.base, scaled), atol=1e-9)
    assert not torch.allclose(found, forward(made.layout.base, plain), atol=1e-3)
