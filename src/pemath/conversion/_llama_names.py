"""Where a LoRA's sites lie in a GGUF file of their base model, for models built like Llama."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.errors import (
    BaseMismatch,
    ConfigError,
    RequestError,
    ShapeMismatch,
    UnsupportedFeature,
)
from pemath.formats.checkpoint import MODEL_CONFIG, Checkpoint
from pemath.formats.gguf import read_header
from pemath.kinds.lora import Lora
from pemath.names import display, listing

# GGUF's name of an architecture, by the `model_type` of its config. All name their weights alike.
_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
}
# Those whose query and key rows GGUF files have in another order than transformers.
_INTERLEAVED = ("llama",)
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SITE = re.compile(r"(?:model\.)?layers\.(?P<layer>[0-9]{1,4})\.(?P<module>\w+\.\w+)")
_MOST_HEADS = 1 << 16


@dataclass(frozen=True)
class Base:
    """What is known of the base model: GGUF's name of its architecture, its numbers of heads, and
    the shapes of its tensors; None unless a GGUF file of it was given.
    """

    architecture: str
    heads: int
    key_heads: int
    where: str
    shapes: Mapping[str, tuple[int, ...]] | None


def heads_of(tensor: str, base: Base) -> int:
    """The heads of a weight whose rows are reordered; 0 for the others."""
    if base.architecture not in _INTERLEAVED:
        return 0
    if tensor.endswith(".attn_q.weight"):
        return base.heads
    return base.key_heads if tensor.endswith(".attn_k.weight") else 0


def tensor_names(values: Mapping[str, Lora], base: Base) -> dict[str, str]:
    """The base's tensor of each site. Raises UnsupportedFeature, ShapeMismatch, BaseMismatch."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for site, value in values.items():
        match = _SITE.fullmatch(site)
        module = _MODULES.get(match["module"]) if match else None
        name = f"blk.{int(match['layer'])}.{module}.weight" if match and module else None
        name = "output.weight" if site == "lm_head" else name
        where = f"site `{display(site)}`"
        if name is None or value.geometry.layout != "linear" or value.bias is not None:
            raise UnsupportedFeature(
                "llama.cpp has no place for this site's LoRA",
                where=where,
                found=value.describe(),
                expected=f"linear weights {listing(list(_MODULES), 7)} of `layers.N`, or `lm_head`",
            )
        if name in taken:
            raise UnsupportedFeature(f"two sites would be `{name}`", where=where)
        rows = value.geometry.outputs
        heads = heads_of(name, base)
        if heads and rows % (2 * heads):
            raise ShapeMismatch(
                "the adapter's rows do not divide into the base's heads",
                where=f"{where}; {base.where}",
                found=f"{rows} rows, {heads} heads",
            )
        shape = (rows, *value.geometry.inputs)
        if base.shapes is not None and base.shapes.get(name) != shape:
            raise BaseMismatch(
                f"the base has no `{name}` of this shape",
                where=f"{where}; {base.where}",
                found=str(base.shapes.get(name, "no such tensor")),
                expected=str(shape),
                hint="the adapter belongs to another model, or its weight is tied to another",
            )
        found[site] = name
        taken.add(name)
    return found


def base_of(file: Path | None, weights: Checkpoint | None) -> Base:
    if file is not None:
        header = read_header(file)
        stated, where = header.metadata, display(file)
        architecture = stated.get("general.architecture")
        prefix = f"{architecture}.attention.head_count"
        heads, key_heads = stated.get(prefix), stated.get(f"{prefix}_kv", stated.get(prefix))
        if stated.get("general.type", "model") != "model":
            raise ConfigError("the file is no model", where=where, found=stated["general.type"])
        return _checked(architecture, heads, key_heads, where, header.shapes)
    if weights is not None:
        config, where = weights.config, display(weights.path / MODEL_CONFIG)
        heads = config.get("num_attention_heads")
        key_heads = config.get("num_key_value_heads", heads)
        architecture = _ARCHITECTURES.get(str(config.get("model_type")))
        if architecture is None:
            raise UnsupportedFeature(
                "the base's architecture is not one whose names in GGUF pemath knows",
                where=where,
                found=f"model_type {display(config.get('model_type'), 40)}",
                expected=listing(list(_ARCHITECTURES)),
            )
        return _checked(architecture, heads, key_heads, where, None)
    raise RequestError(
        "a GGUF adapter needs to know its base's architecture and heads",
        hint="add --base-gguf with the model that it will run on, or --base-weights with the "
        "folder of its config.json and weights",
    )


def _checked(
    architecture: Any,
    heads: Any,
    key_heads: Any,
    where: str,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> Base:
    if architecture not in _ARCHITECTURES.values():
        raise UnsupportedFeature(
            "the base's architecture is not one whose names in GGUF pemath knows",
            where=where,
            found=display(architecture, 40),
            expected=listing(list(dict.fromkeys(_ARCHITECTURES.values()))),
        )
    for count in (heads, key_heads):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= _MOST_HEADS:
            raise ConfigError(
                "the base does not say how many attention heads it has",
                where=where,
                found=display(count, 40),
                expected="one positive number for all layers",
            )
    return Base(architecture, heads, key_heads, where, shapes)
