"""What the installed PEFT's `add_weighted_adapter` makes of adapter folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from .bases import base, quiet


def add_weighted_adapter(
    base_name: str, folders: Sequence[Path], weights: Sequence[float], out: Path, **options: Any
) -> Path:
    """The folder that PEFT saves for the weighted combination of the adapters in `folders`."""
    names = [f"operand{number}" for number in range(len(folders))]
    with quiet():
        model = PeftModel.from_pretrained(base(base_name), str(folders[0]), adapter_name=names[0])
        for name, folder in zip(names[1:], folders[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name)
        with torch.random.fork_rng(devices=[]):
            model.base_model.add_weighted_adapter(names, list(weights), "combined", **options)
        model.save_pretrained(str(out), selected_adapters=["combined"])
    return out / "combined"
