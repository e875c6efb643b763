"""diffusers' layout: `pytorch_lora_weights.safetensors`, names with the component in front.

`unet.MODULE.lora_A.weight`, `text_encoder.MODULE.lora_B.weight` and so on, with PEFT's leaves. The
spellings from before diffusers used PEFT are read too: `lora.down` and `lora.up`,
`lora_linear_layer`, and those of attention processors (`attn1.processor.to_q_lora.down`). The
scaling is in the header (`lora_adapter_metadata`: PEFT's config, its fields named
`COMPONENT.FIELD`) or in tensors `MODULE.alpha`; without both it is 1.
"""

from __future__ import annotations

import re
from typing import Any

from pemath.errors import ConfigError, LayoutError
from pemath.formats.module_names import OF_THE_BASE, Modules, the_one, underscored
from pemath.formats.peft import parse_json
from pemath.formats.safetensors import TensorFile
from pemath.formats.single_file import (
    ALPHA,
    COMPONENTS,
    FACTORS,
    Parts,
    component_told_by,
    refuse_leaf,
)
from pemath.names import display

WEIGHTS = "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"

_LEAF = re.compile(
    r"(?P<module>.+?)\."
    r"(?:lora_(?P<factor>[AB])\.weight|(?:lora|lora_linear_layer)\.(?P<side>down|up)\.weight"
    r"|(?P<alpha>alpha))"
)
_PROCESSOR = re.compile(
    r"(?P<module>.+)\.to_(?P<projection>q|k|v|out)_lora\.(?P<side>down|up)\.weight"
)
_SIDES = {"down": FACTORS[0], "up": FACTORS[1]}


def is_diffusers(file: TensorFile) -> bool:
    """Whether a file's names have this layout's prefixes."""
    return any(_component(name)[0] for name in file.entries)


def read(file: TensorFile, modules: Modules | None = None, only: str | None = None) -> Parts:
    """What the tensors of a file are; those of other components than `only` are left unread.
    `modules` are the base model's, where they are known: then every name must be one of them.

    Raises: LayoutError for a tensor without a place, UnsupportedFeature for other adapters.
    """
    parts = Parts(file)
    for tensor in file.entries:
        component, name = _component(tensor)
        if component is None:
            raise LayoutError(
                f"`{display(tensor)}` is no tensor of diffusers' layout",
                where=display(file.path),
                expected="unet.…, transformer.…, text_encoder.…, text_encoder_2.…",
            )
        if only is not None and component != only:
            parts.found.setdefault(component, {})
            continue
        place = _place(name, component)
        if place is None:
            refuse_leaf(file, tensor, name)
            raise LayoutError(f"`{display(tensor)}` is no part of a LoRA", where=display(file.path))
        site, leaf = place
        if modules is not None:
            where = f"{display(file.path)}, `{display(tensor)}`"
            site = the_one(modules.find(underscored(site)), site, where, *OF_THE_BASE)
        parts.add(component, site, leaf, tensor)
    return parts


def stated_configs(file: TensorFile) -> dict[str, dict[str, Any]]:
    """PEFT's config of each component that the header has one of. Raises ConfigError."""
    text = file.metadata.get(_METADATA)
    if not text:
        return {}
    where = f"{display(file.path)}, `{_METADATA}`"
    found: dict[str, dict[str, Any]] = {}
    for key, value in parse_json(text, where).items():
        component, dot, name = key.partition(".")
        if component not in COMPONENTS or not dot:
            raise ConfigError(
                f"`{display(key)}` is no field of a component", where=where, expected="unet.r"
            )
        found.setdefault(component, {})[name] = value
    return {component: config | _NOT_CHOSEN for component, config in found.items()}


# Fields that only select modules: the tensors say which there are.
_NOT_CHOSEN: dict[str, Any] = dict.fromkeys(
    ("exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save")
)


def _component(tensor: str) -> tuple[str | None, str]:
    """The component, None if the name tells none, and the rest of the name."""
    first, _, rest = tensor.partition(".")
    if first in COMPONENTS:
        return first, rest
    return component_told_by(tensor), tensor


def _place(name: str, component: str) -> tuple[str, str] | None:
    """Site and leaf of a tensor."""
    if match := _PROCESSOR.fullmatch(name):
        projection = match["projection"]
        if component.startswith("text_encoder"):
            return f"{match['module']}.{projection}_proj", _SIDES[match["side"]]
        last = "to_out.0" if projection == "out" else f"to_{projection}"
        return f"{match['module'].removesuffix('.processor')}.{last}", _SIDES[match["side"]]
    match = _LEAF.fullmatch(name)
    if match is None:
        return None
    if match["alpha"]:
        return match["module"], ALPHA
    leaf = f"lora_{match['factor']}.weight" if match["factor"] else _SIDES[match["side"]]
    return match["module"], leaf
