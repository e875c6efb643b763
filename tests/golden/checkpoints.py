"""Folders with the weights of the tiny base models, and what PEFT's merge makes of them."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn

from .bases import base, quiet
from .oracle import Deltas

Weights = dict[str, torch.Tensor]


def weights_of(model: nn.Module) -> Weights:
    """Parameters by name; tied ones once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def save_base(base_name: str, folder: Path, shard_size: str = "5GB") -> Path:
    """The base model as its library saves it."""
    model = base(base_name)
    if hasattr(model, "save_pretrained"):
        with quiet():
            model.save_pretrained(str(folder), max_shard_size=shard_size)
    else:
        folder.mkdir(parents=True)
        save_file(weights_of(model), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def merged(base_name: str, folder: Path) -> Weights:
    """The base's parameters after PEFT has merged the adapter in `folder`, all in float64."""
    with quiet():
        model = PeftModel.from_pretrained(base(base_name).double(), str(folder))
        return weights_of(model.double().merge_and_unload())


def changes(base_name: str, folder: Path) -> Deltas:
    """What the merge changes, by parameter; what stays is left out."""
    before = weights_of(base(base_name).double())
    found = {name: weight - before[name] for name, weight in merged(base_name, folder).items()}
    return {name: delta for name, delta in found.items() if bool(delta.any())}


def with_trained_biases(folder: Path) -> Path:
    """The adapter in `folder`, whose stored biases are made to differ from the base's."""
    from . import adapters

    adapters.rewrite(folder, folder, lambda n, t: (n, t + 0.1 if n.endswith(".bias") else t))
    return folder
