"""Folders of full deltas, written and read back with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pemath.formats.safetensors import TensorFile
from pemath.kinds import full

PREFIX = "base_model.model."
SLAB = full._SLAB
SHAPES: dict[str, tuple[int, ...]] = {
    "embeddings.weight": (40, SLAB // 16),  # several slabs, the last one not whole
    "encoder.0.query.bias": (7,),
    "encoder.0.query.weight": (7, 5),
    "encoder.conv.weight": (3, 2, 4),
    "temperature": (),
}
Arrays = dict[str, Any]


def drawn(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Arrays:
    rng = np.random.default_rng(seed)
    return {n: np.asarray(1e-2 * rng.standard_normal(s), "f4") for n, s in shapes.items()}


def write(folder: Path, tensors: Arrays, prefix: str = PREFIX, **config: Any) -> str:
    folder.mkdir()
    save_file({prefix + n: t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "FULL", "base_model_name_or_path": "some/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return str(folder)


def written(folder: Path) -> Arrays:
    """What lies in the folder, widened to float64."""
    file = TensorFile.open(folder / "adapter_model.safetensors")
    return {name.removeprefix(PREFIX): file.stored(name).widen() for name in file.entries}


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapter_config.json").read_text()))


def write_pair(folder: Path) -> dict[str, str]:
    """Two of them, by name."""
    settings = {"task_type": "SEQ_CLS"}
    return {n: write(folder / n, drawn(s), **settings) for n, s in (("a", 1), ("b", 2))}
