"""Checkpoint folders of random weights, written with numpy alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

INDEX = "model.safetensors.index.json"
Arrays = Mapping[str, Any]


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, Any]:
    """Random float32 arrays; `__` in a name stands for a dot."""
    rng = np.random.default_rng(seed)
    return {
        name.replace("__", "."): rng.standard_normal(shape).astype("f4")
        for name, shape in shapes.items()
    }


def saved(folder: Path, tensors: Arrays, *, shards: int = 1, **config: Any) -> Path:
    """A checkpoint of these tensors, in one file or in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if shards == 1:
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = list(arrays)
    table = {}
    for index in range(shards):
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        part = {name: arrays[name] for name in names[index::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in arrays.values())
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": table})
    )
    return folder


def loaded(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
