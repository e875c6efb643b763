"""Adapter folders written by PEFT itself, with random values everywhere."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from .bases import base, quiet
from .layouts import IA3, Config, Layout

WEIGHTS = "adapter_model.safetensors"


def train(model: PeftModel, seed: str, names: Callable[[str], bool] | None = None) -> PeftModel:
    """Random values for all of the adapter (or the parameters that `names` accepts), as if trained."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part = name.removeprefix("base_model.model.")
            if not (_is_trained(part) if names is None else names(part)):
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {part}".encode()))
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.5 * noise if ".ia3_l" in part else 0.3 * noise)
    return model


def _is_trained(parameter: str) -> bool:
    return any(mark in parameter for mark in (".lora_", ".ia3_l", ".modules_to_save."))


def with_adapter(base_name: str, config: PeftConfig, seed: str) -> PeftModel:
    """The base model with a new, trained adapter."""
    with quiet():
        model = get_peft_model(base(base_name), config)
    return train(model, seed)


def save(model: PeftModel, folder: Path) -> Path:
    """What `save_pretrained` writes into `folder`."""
    with quiet():
        model.save_pretrained(str(folder))
    return folder


def lora(base_name: str, folder: Path, **config: object) -> Path:
    """A folder with one trained LoRA."""
    settings: Config = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **config}
    return save(with_adapter(base_name, LoraConfig(**settings), folder.name), folder)


def ia3(base_name: str, folder: Path, **config: object) -> Path:
    """A folder with one trained (IA)³."""
    return save(with_adapter(base_name, IA3Config(**config), folder.name), folder)


def operands(layout: Layout, folder: Path, seed: str) -> dict[str, Path]:
    """Folders with the three operands of `layout`; equal seeds give equal values."""
    config_class = IA3Config if layout in IA3.values() else LoraConfig
    written: dict[str, Path] = {}
    for name, config in layout.configs().items():
        with quiet():
            settings = config_class(**config)
        model = with_adapter(layout.base, settings, f"{name} {seed}")
        if layout.shared_a:
            train(model, seed, lambda part: ".lora_A." in part)
        written[name] = save(model, folder / name)
    return written


def recast(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    """A copy of an adapter with its tensors in `dtype`."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    rewrite(source, folder, lambda name, tensor: (name, tensor.to(dtype)))
    return folder


def rewrite(
    source: Path,
    folder: Path,
    change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor] | None],
) -> None:
    """Store the tensors of `source` in `folder` after `change`, which may drop some."""
    changed = [change(name, tensor) for name, tensor in load_file(source / WEIGHTS).items()]
    kept = {name: tensor.contiguous() for name, tensor in filter(None, changed)}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
