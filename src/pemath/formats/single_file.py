"""Adapter files that hold all parts of a pipeline, and each part of one seen as a PEFT folder.

Image pipelines keep the adapters of their UNet (or transformer) and text encoders in one
safetensors file. Only names and places of the scaling differ from PEFT's folders, so a part is read
by giving PEFT's names to the same bytes, and a config to what the file says of ranks and alphas.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pemath.errors import LayoutError, NonFiniteValue, RequestError, UnsupportedFeature
from pemath.formats.patterns import Number, pattern_table
from pemath.formats.peft import PREFIX, PeftFolder
from pemath.formats.safetensors import TensorFile
from pemath.names import display, listing

# The parts of a pipeline, by the names that diffusers gives them.
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
# Modules that only one of them has; text encoders all look alike.
_TELLING = {
    "unet": ("down_blocks.", "mid_block.", "up_blocks."),
    "transformer": ("transformer_blocks.", "single_transformer_blocks."),
}
# The ends of tensor names in PEFT's folders, by PEFT's name of the kind.
FACTORS = ("lora_A.weight", "lora_B.weight")
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = (
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
_KIND_OF = {
    **dict.fromkeys(FACTORS, "LORA"),
    **dict.fromkeys(LOHA, "LOHA"),
    **dict.fromkeys(LOKR, "LOKR"),
}
# Those whose first axis is the rank.
_RANKED = ("lora_A.weight", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
ALPHA = "alpha"

_INTEGERS = {"I16": "<i2", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True)
class Parts:
    """The tensors of a file by component, site and leaf: a PEFT name's end, or `alpha`."""

    file: TensorFile
    found: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    @property
    def components(self) -> list[str]:
        """The components that the file has, in a fixed order."""
        return [name for name in COMPONENTS if name in self.found]

    def add(self, component: str, site: str, leaf: str, tensor: str) -> None:
        """Note what `tensor` is. Raises LayoutError if another one is the same."""
        leaves = self.found.setdefault(component, {}).setdefault(site, {})
        if leaf in leaves:
            raise LayoutError(
                f"two tensors are `{leaf}` of `{display(site)}` of the {component}",
                where=display(self.file.path),
                found=f"`{display(leaves[leaf])}` and `{display(tensor)}`",
                hint="the file spells one module in two ways: keep one of them",
            )
        leaves[leaf] = tensor

    def chosen(self, component: str | None) -> list[str]:
        """The components to convert: `component`, or all. Raises RequestError if it is not there."""
        if component is not None and component not in self.found:
            raise RequestError(
                f"the file has no part `{display(component)}`",
                where=display(self.file.path),
                hint=f"its parts are {listing(self.components)}",
            )
        return self.components if component is None else [component]

    def folder(self, component: str, stated: Mapping[str, Any] | None = None) -> PeftFolder:
        """One component as a PEFT folder. `stated` is the LoRA's config if the file has it.

        Raises: LayoutError for an alpha without factors, one that is no number, or one beside a
        config; NonFiniteValue for an alpha that is not finite; UnsupportedFeature for an alpha of 0
        and for kinds mixed.
        """
        entries, kinds = {}, set()
        ranks: dict[str, int] = {}
        alphas: dict[str, float] = {}
        for site, leaves in self.found[component].items():
            for leaf, tensor in leaves.items():
                if leaf in _KIND_OF:
                    kinds.add(_KIND_OF[leaf])
                    entries[f"{PREFIX}{site}.{leaf}"] = self.file.entries[tensor]
            ranks[site], alphas[site] = self._scaling_of(leaves, stated is not None)
        if len(kinds) > 1:
            raise UnsupportedFeature(
                f"the {component} has adapters of several kinds",
                where=display(self.file.path),
                found=listing(sorted(kinds)),
                expected="one kind, as in a PEFT folder",
            )
        kind = kinds.pop() if kinds else "LORA"
        config = dict(stated) if stated is not None else _config(kind, entries, ranks, alphas)
        config |= {"peft_type": kind, "target_modules": sorted(ranks)}
        return PeftFolder(self.file.path, config, replace(self.file, entries=entries))

    def _scaling_of(self, leaves: Mapping[str, str], is_stated: bool) -> tuple[int, float]:  # noqa: FBT001
        """Rank and alpha of a site. Both are 1 where no factor tells a rank: a LoKr of two full
        matrices, which LyCORIS does not scale.
        """
        where = display(self.file.path)
        if not leaves.keys() & _KIND_OF.keys():
            raise LayoutError(
                f"{listing([*leaves.values()])} has no factors beside it", where=where
            )
        if ALPHA in leaves and is_stated:
            raise LayoutError(
                f"`{display(leaves[ALPHA])}` stands beside a config in the header",
                where=where,
                hint="the file says the scaling twice: remove one of the two",
            )
        ranked = next((leaves[leaf] for leaf in _RANKED if leaf in leaves), None)
        if ranked is None:
            return 1, 1.0
        shape = self.file.entries[ranked].shape
        rank = shape[0] if shape else 0
        if rank == 0:
            raise LayoutError(
                f"`{display(ranked)}` has no rank", where=where, found=f"shape {list(shape)}"
            )
        alpha = _number(self.file, leaves[ALPHA]) if ALPHA in leaves else float(rank)
        if alpha == 0:
            raise UnsupportedFeature(
                f"`{display(leaves[ALPHA])}` is 0, by which some tools mean the rank and some 0",
                where=where,
                hint="write the alpha that is meant",
            )
        return rank, alpha


def _config(
    kind: str, entries: Iterable[str], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> dict[str, Any]:
    """PEFT's config of this kind."""
    config = {
        "base_model_name_or_path": None,
        "inference_mode": True,
        "task_type": None,
        **_scaling(ranks, alphas),
    }
    if kind == "LORA":
        return config | {
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "lora_bias": False,
            "lora_dropout": 0.0,
            "use_dora": False,
            "use_rslora": False,
        }
    config |= {"alpha": config.pop("lora_alpha"), "init_weights": True}
    config["use_effective_conv2d"] = any(name.endswith(("_t1", "_t2")) for name in entries)
    if kind == "LOKR":
        both = any(name.endswith("lokr_w1_a") for name in entries)
        config |= {"decompose_both": both, "decompose_factor": -1}
    return config


def _scaling(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """`r`, `lora_alpha` and the patterns of what differs from them."""
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    return {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": pattern_table(ranks, rank),
        "alpha_pattern": pattern_table(alphas, alpha),
    }


def _most_common(values: Iterable[Number]) -> Number:
    """The value that occurs most often; of several the largest."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))


def component_told_by(name: str) -> str | None:
    """The component that a module's name alone tells, or None."""
    return next((c for c, starts in _TELLING.items() if name.startswith(starts)), None)


def _number(file: TensorFile, tensor: str) -> float:
    """A tensor of one number. Raises LayoutError, UnknownDtype, NonFiniteValue."""
    entry = file.entries[tensor]
    if math.prod(entry.shape) != 1:
        raise LayoutError(
            f"`{display(tensor)}` is not one number",
            where=display(file.path),
            found=f"shape {list(entry.shape)}",
        )
    if entry.dtype in _INTEGERS:
        return float(np.frombuffer(file.raw_bytes(tensor), _INTEGERS[entry.dtype])[0])
    value = float(file.stored(tensor).flat().widen()[0])
    if not math.isfinite(value):
        raise NonFiniteValue(
            f"`{display(tensor)}` is NaN or infinite", where=display(file.path), found=value
        )
    return value


def refuse_leaf(file: TensorFile, tensor: str, leaf: str) -> None:
    """Raise UnsupportedFeature for what other adapters than plain LoRA store, by name."""
    for ending, reason in _OTHERS.items():
        if ending in leaf:
            raise UnsupportedFeature(
                f"`{display(tensor)}` is not a factor of a plain LoRA: {reason}",
                where=display(file.path),
                expected="pairs of factors, and alphas",
            )


_OTHERS = {
    "dora_scale": "DoRA normalises by the base weights",
    "lora_magnitude_vector": "DoRA normalises by the base weights",
    "lora_mid": "a convolution in three factors (LoCon with Tucker's decomposition)",
    "scalar": "a trained scale of LyCORIS",
    "oft_": "an orthogonal transformation (OFT)",
    "boft_": "an orthogonal transformation (BOFT)",
    "a1.weight": "a GLoRA of LyCORIS",
    "b1.weight": "a GLoRA of LyCORIS",
    "on_input": "an (IA)³ of LyCORIS",
    "diff_b": "a dense change of a bias",
    "diff": "a dense change of a weight",
    "lora_embedding_": "token rows",
    ".bias": "a bias",
    "norm": "a norm's weights",
}
