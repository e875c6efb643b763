"""LoRA adapters of real shape with random values, written once into a cache folder.

The writer is a dozen lines of numpy on purpose: the inputs of a benchmark of readers and writers
should come from neither of the two that are measured.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = {"bfloat16": ("BF16", 2), "float32": ("F32", 4)}


@dataclass(frozen=True)
class Shape:
    """The adapted weights of a base model: {site: (out, in)}, all at one rank, alpha = rank."""

    name: str
    rank: int
    sites: dict[str, tuple[int, int]]

    @property
    def targets(self) -> list[str]:
        return sorted({site.rsplit(".", 1)[1] for site in self.sites})

    def tensors(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        for site, (out_features, in_features) in self.sites.items():
            for factor, shape in (
                ("A", (self.rank, in_features)),
                ("B", (out_features, self.rank)),
            ):
                yield f"base_model.model.{site}.lora_{factor}.weight", factor, shape


ATTENTION = {f"self_attn.{m}_proj": (4096, 4096) for m in "qkvo"}
FEED_FORWARD = {
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}


def _llama(name: str, modules: dict[str, tuple[int, int]]) -> Shape:
    return Shape(
        name, 16, {f"model.layers.{i}.{m}": s for i in range(32) for m, s in modules.items()}
    )


LLAMA_7B = _llama("llama-7b", ATTENTION | FEED_FORWARD)
LLAMA_7B_ATTENTION = _llama("llama-7b-attention", ATTENTION)


def _roberta(name: str, modules: dict[str, tuple[int, int]]) -> Shape:
    return Shape(
        name, 8, {f"encoder.layer.{i}.{m}": s for i in range(12) for m, s in modules.items()}
    )


ROBERTA_BASE = _roberta(
    "roberta-base", {f"attention.self.{m}": (768, 768) for m in ("query", "value")}
)
ROBERTA_BASE_ALL = _roberta(
    "roberta-base-all-linear",
    {f"attention.self.{m}": (768, 768) for m in ("query", "key", "value")}
    | {
        "attention.output.dense": (768, 768),
        "intermediate.dense": (3072, 768),
        "output.dense": (768, 3072),
    },
)


def cached(cache: Path, shape: Shape, dtype: str, count: int) -> list[Path]:
    """The folders of `count` different adapters; the missing ones are written first."""
    folders = [cache / f"{shape.name}-{dtype}-{seed}" for seed in range(count)]
    for seed, folder in enumerate(folders):
        if not folder.exists():
            _write(folder, shape, dtype, seed)
    return folders


def tensors_file(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def tensor(folder: Path, name: str) -> Array:
    """One tensor as float64, for checking results."""
    with tensors_file(folder).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        raw = file.read(end - begin)
    if entry["dtype"] == "BF16":
        values: Array = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, np.float32)
    return values.reshape(entry["shape"]).astype(np.float64)


def delta(folder: Path, site: str) -> Array:
    """The dense delta weight of one site, with the scaling that the folder's config states."""
    config = json.loads((folder / "adapter_config.json").read_text())
    a = tensor(folder, f"base_model.model.{site}.lora_A.weight")
    b = tensor(folder, f"base_model.model.{site}.lora_B.weight")
    return float(config["lora_alpha"]) / float(config["r"]) * (b @ a)


def relative(found: Array, wanted: Array) -> float:
    """Relative Frobenius error."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _write(folder: Path, shape: Shape, dtype: str, seed: int) -> None:
    staging = folder.with_name(folder.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    (staging / "adapter_config.json").write_text(json.dumps(_config(shape), indent=2))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    code, width = DTYPES[dtype]
    offset = 0
    for name, _, size_ in shape.tensors():
        end = offset + math.prod(size_) * width
        header[name] = {"dtype": code, "shape": list(size_), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with tensors_file(staging).open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        _values(file, shape, dtype, seed)
    staging.rename(folder)


def _values(file: BinaryIO, shape: Shape, dtype: str, seed: int) -> None:
    """A as PEFT draws it (uniform within 1/sqrt(in)), B small, as after a short training."""
    rng = np.random.default_rng(seed)
    for _, factor, (rows, columns) in shape.tensors():
        values = rng.random((rows, columns), np.float32)
        values -= np.float32(0.5)
        values *= np.float32(2 / math.sqrt(columns) if factor == "A" else 0.02)
        if dtype == "bfloat16":
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        else:
            file.write(values.tobytes())


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": shape.name,
        "inference_mode": True,
        "r": shape.rank,
        "lora_alpha": shape.rank,
        "lora_dropout": 0.0,
        "target_modules": shape.targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
