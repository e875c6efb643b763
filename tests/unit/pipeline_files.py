"""LoRA files of image pipelines, and PEFT folders, written with numpy alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Arrays = Mapping[str, Any]

UNET = (
    "conv_in",
    "time_embedding.linear_1",
    "down_blocks.0.resnets.1.conv1",
    "down_blocks.0.resnets.1.time_emb_proj",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.resnets.0.conv_shortcut",
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2",
    "mid_block.attentions.0.proj_out",
    "up_blocks.2.upsamplers.0.conv",
)
TEXT = (
    "text_model.encoder.layers.0.self_attn.q_proj",
    "text_model.encoder.layers.11.self_attn.out_proj",
    "text_model.encoder.layers.3.mlp.fc1",
    "text_projection",
)
FLUX = (
    "x_embedder",
    "proj_out",
    "norm_out.linear",
    "context_embedder",
    "time_text_embed.timestep_embedder.linear_1",
    "transformer_blocks.0.attn.add_q_proj",
    "transformer_blocks.0.attn.to_add_out",
    "transformer_blocks.18.ff_context.net.0.proj",
    "transformer_blocks.18.norm1_context.linear",
    "single_transformer_blocks.37.proj_mlp",
    "single_transformer_blocks.37.proj_out",
    "single_transformer_blocks.37.norm.linear",
)
T5 = (
    "encoder.block.0.layer.0.SelfAttention.q",
    "encoder.block.23.layer.1.DenseReluDense.wi_0",
)
OUT, IN = 6, 8


def is_conv(site: str) -> bool:
    return site.rsplit(".", maxsplit=1)[-1].startswith("conv")


def factors(site: str, seed: int, rank: int, dtype: str = "f4") -> tuple[Any, Any]:
    """Random A and B of a linear weight or, for `conv…`, a convolution 3×3 (1×1 for a shortcut)."""
    random = np.random.default_rng([seed, *site.encode()])
    a, b = random.standard_normal((rank, IN)), random.standard_normal((OUT, rank))
    if is_conv(site):
        size = 1 if site.endswith("shortcut") else 3
        a, b = random.standard_normal((rank, IN, size, size)), b[:, :, None, None]
    return a.astype(dtype), b.astype(dtype)


def peft(
    folder: Path,
    sites: Sequence[str],
    *,
    seed: int = 0,
    rank: int = 4,
    ranks: Mapping[str, int] | None = None,
    dtype: str = "f4",
    **config: Any,
) -> Path:
    """A PEFT folder with random factors."""
    tensors = {}
    for site in sites:
        a, b = factors(site, seed, (ranks or {}).get(site, rank), dtype)
        tensors[f"base_model.model.{site}.lora_A.weight"] = a
        tensors[f"base_model.model.{site}.lora_B.weight"] = b
    stated = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "rank_pattern": dict(ranks or {})}
    folder.mkdir(parents=True)
    text = json.dumps(stated | {"target_modules": list(sites)} | config)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def kohya(
    path: Path,
    prefix: str,
    names: Sequence[str],
    *,
    alpha: Any = None,
    rank: int = 4,
    metadata: Mapping[str, str] | None = None,
    **more: Any,
) -> Path:
    """A file in kohya's layout; `more` are further tensors."""
    tensors = dict(more)
    for name in names:
        a, b = factors("a", 0, rank)
        tensors[f"{prefix}_{name}.lora_down.weight"] = a
        tensors[f"{prefix}_{name}.lora_up.weight"] = b
        if alpha is not None:
            tensors[f"{prefix}_{name}.alpha"] = np.asarray(alpha)
    return saved(path, tensors, metadata)


def saved(path: Path, tensors: Arrays, metadata: Mapping[str, str] | None = None) -> Path:
    arrays = {name: np.ascontiguousarray(t).reshape(np.shape(t)) for name, t in tensors.items()}
    save_file(arrays, path, metadata=dict(metadata or {"format": "pt"}))
    return path


def tensors_of(folder: Path) -> dict[str, Any]:
    """Tensors of a PEFT folder by name without PEFT's prefix."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): t for name, t in tensors.items()}


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))


def product(a: Any, b: Any) -> Any:
    """B A in float64 from the formula: for a convolution, over the rank at each place."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    rank, out = a.shape[0], b.shape[0]
    total = np.zeros((out, *a.shape[1:]))
    for o in range(out):
        for r in range(rank):
            total[o] += b[o, r].item() * a[r]
    return total
