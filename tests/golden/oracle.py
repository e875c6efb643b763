"""What PEFT itself makes of adapter folders, in float64: the values that composites must have.

On a float64 base PEFT's own rounding vanishes; what is left is that of the tensors in the file.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn

from .bases import base, quiet

Deltas = dict[str, torch.Tensor]


def load(base_name: str, folder: Path) -> PeftModel:
    """The adapter in `folder` on its base, in float64; every tensor of the file must be used."""
    with quiet():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        # With low_cpu_mem_usage no initialisation runs; not all of them run in float64.
        model = PeftModel.from_pretrained(
            base(base_name).double(), str(folder), low_cpu_mem_usage=True
        )
        loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    stored = {
        name for name in load_file(folder / "adapter_model.safetensors") if not _is_base(name)
    }
    assert {name for name in loaded if not _is_base(name)} == stored
    return model.double().eval()  # heads and biases come in the dtype of the file


def _is_base(tensor: str) -> bool:
    """Whether a stored tensor is the base model's own: a targeted embedding, or its old head."""
    return tensor.endswith(".base_layer.weight") or ".original_module." in tensor


def tuners(model: PeftModel) -> Iterable[tuple[str, BaseTunerLayer]]:
    """PEFT's layers in `model`, by the name of the base's module."""
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            yield re.sub(r"\.base_layer\b", "", name), module


def deltas(model: PeftModel) -> Deltas:
    """What a LoRA adds to each parameter of the base, by the parameter's name."""
    found: Deltas = {}
    for site, module in tuners(model):
        if not isinstance(module, LoraLayer):
            continue
        if isinstance(module, ParamWrapper):
            parameter = f"{site}.{module.parameter_name}"
        else:
            in_projection = isinstance(module.get_base_layer(), nn.MultiheadAttention)
            parameter = f"{site}.in_proj_weight" if in_projection else f"{site}.weight"
        found[parameter] = module.get_delta_weight("default").detach()
        if module.lora_bias["default"]:
            bias = module.lora_B["default"].bias.detach()
            found[f"{site}.bias"] = bias * module.scaling["default"]
    assert found, "PEFT has found no LoRA layer"
    return found


def weighted_sum(terms: Iterable[tuple[float, Deltas]]) -> Deltas:
    """Σ cᵢ·deltasᵢ in float64; an absent delta is zero."""
    total: Deltas = {}
    for coefficient, operand in terms:
        for name, delta in operand.items():
            total[name] = total.get(name, 0) + coefficient * delta.double()
    return total


def relative_errors(found: Mapping[str, torch.Tensor], wanted: Deltas) -> dict[str, float]:
    """‖found − wanted‖ / ‖wanted‖ (Frobenius) of every parameter."""
    assert set(found) == set(wanted)
    return {
        name: float(torch.linalg.norm(found[name] - delta) / torch.linalg.norm(delta))
        for name, delta in wanted.items()
    }


def with_deltas(base_name: str, changes: Deltas) -> nn.Module:
    """The float64 base model after adding `changes` to its parameters.

    The output projection of an attention layer is changed twice, as PEFT 0.21.2 does it in its
    forward pass: once by the attention's `merge` itself, and again by the projection's.
    """
    model = base(base_name).double()
    parameters = dict(model.named_parameters())
    for name, delta in changes.items():
        attention, _, rest = name.rpartition(".out_proj.")
        twice = rest and isinstance(model.get_submodule(attention), nn.MultiheadAttention)
        parameters[name].add_(2 * delta if twice else delta)
    return model


def vectors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The (IA)³ vectors of `model`, flat, by the name of the base's module."""
    found = {
        site: module.ia3_l["default"].detach().flatten()
        for site, module in tuners(model)
        if isinstance(module, IA3Layer)
    }
    assert found, "PEFT has found no (IA)3 layer"
    return found


def feedforward_sites(model: PeftModel) -> set[str]:
    """The sites at which (IA)³ scales the input."""
    return {
        site
        for site, module in tuners(model)
        if isinstance(module, IA3Layer) and module.is_feedforward
    }


def affine_sum(terms: Iterable[tuple[float, dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """1 + Σ cᵢ·(lᵢ − 1); an absent vector is one."""
    changes = weighted_sum(
        (c, {site: vector - 1 for site, vector in found.items()}) for c, found in terms
    )
    return {site: 1 + change for site, change in changes.items()}


def with_vectors(
    base_name: str, scales: dict[str, torch.Tensor], feedforward: set[str]
) -> nn.Module:
    """The float64 base model with its weights, and biases, scaled as (IA)³ does it."""
    model = base(base_name).double()
    for site, scale in scales.items():
        module = model.get_submodule(site)
        stored_in_out = type(module).__name__ == "Conv1D"
        scaled_axis = 1 if (site in feedforward) != stored_in_out else 0
        shape = [1] * module.weight.dim()
        shape[scaled_axis] = -1
        module.weight.mul_(scale.view(shape))
        if site not in feedforward and module.bias is not None:
            module.bias.mul_(scale)
    return model
