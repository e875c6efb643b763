"""Operands for the crash tests, and what a whole output is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import pemath
from pemath.formats.safetensors import TensorFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = [CONFIG, WEIGHTS, "README.md", "pemath.lock.json"]
Content = dict[str, bytes]


def lora(folder: Path, seed: int, *, sites: int = 3, rank: int = 4, size: int = 16) -> Path:
    """A LoRA with `sites` square sites, and a head."""
    rng = np.random.default_rng(seed)
    tensors = {"base_model.model.classifier.weight": rng.standard_normal((2, 5)).astype("f4")}
    for site in range(sites):
        prefix = f"base_model.model.layer.{site}.query"
        tensors[f"{prefix}.lora_A.weight"] = rng.standard_normal((rank, size)).astype("f4")
        tensors[f"{prefix}.lora_B.weight"] = rng.standard_normal((size, rank)).astype("f4")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "someone/base",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["query"],
        "modules_to_save": ["classifier"],
    }
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def content(folder: Path) -> Content:
    """The bytes of every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names_in(folder: Path, *known: str) -> list[str]:
    """What lies there besides `known`, hidden names included."""
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


def check_whole(out: Path) -> None:
    """All four files, as the lock file describes them."""
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    TensorFile.open(out / WEIGHTS)
    assert set(pemath.verify(out).outputs.values()) == {"ok"}
