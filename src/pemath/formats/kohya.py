"""kohya's layout: one safetensors file, module names with underscores in the place of dots.

Written by sd-scripts and its relatives, read by ComfyUI, WebUI and diffusers. A module has
`PREFIX_NAME.lora_down.weight` (A), `.lora_up.weight` (B) and `.alpha`; it acts with alpha / rank,
and without an alpha with 1. LyCORIS's LoHa and LoKr have PEFT's leaves there. The prefix says the
component: `lora_unet`, `lora_transformer`, `lora_te` or `lora_te1`, `lora_te2`, `lora_te3`.

An underscore stands for itself or for a dot. A name is resolved among the modules of the base
model where they are given, and else by the words that modules of diffusers and transformers are
made of; what these leave open is refused. Names of the original Stable Diffusion code
(`input_blocks…`, which sd-scripts uses for SDXL) are translated to diffusers' where a UNet has two
layers in each block, as those of SD 1, SD 2 and SDXL have.
"""

from __future__ import annotations

import re

from pemath.errors import LayoutError, UnsupportedFeature
from pemath.formats.module_names import OF_THE_BASE, Modules, the_one
from pemath.formats.safetensors import TensorFile
from pemath.formats.single_file import ALPHA, FACTORS, LOHA, LOKR, Parts, refuse_leaf
from pemath.names import display

PREFIXES = {
    "unet": ("lora_unet",),
    "transformer": ("lora_transformer",),
    "text_encoder": ("lora_te", "lora_te1"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
}
_LEAVES = {
    "lora_down.weight": FACTORS[0],
    "lora_up.weight": FACTORS[1],
    **{leaf: leaf for leaf in (*LOHA, *LOKR, ALPHA)},
}
_TENSOR = re.compile(
    r"(?P<prefix>lora_(?:unet|transformer|te[123]?))_(?P<name>[^.]+)\.(?P<leaf>.+)"
)
_COMPONENT = {prefix: name for name, prefixes in PREFIXES.items() for prefix in prefixes}

# The words that module names consist of. A word with a colon is a list's and stands before a number.
_UNET = """
    add_embedding add_k_proj add_v_proj attentions: attn1 attn2 class_embedding conv conv1 conv2
    conv_in conv_out conv_shortcut down_blocks: downsamplers: encoder_hid_proj ff linear_1 linear_2
    mid_block net: proj proj_in proj_out resnets: time_emb_proj time_embedding to_k to_out: to_q
    to_v transformer_blocks: up_blocks: upsamplers:
"""
_TRANSFORMER = """
    add_k_proj add_q_proj add_v_proj attn attn1 attn2 blocks: caption_projection condition_embedder
    context_embedder ff ff_context ffn guidance_embedder img_in img_mlp img_mod: linear linear_1
    linear_2 net: norm norm1 norm1_context norm_out pos_embed proj proj_in proj_mlp proj_out
    single_transformer_blocks: text_embedder time_text_embed timestep_embedder to_add_out to_k
    to_out: to_q to_v transformer_blocks: txt_in txt_mlp txt_mod: x_embedder
"""
_TEXT_ENCODER = """
    block: DenseReluDense SelfAttention down_proj encoder fc1 fc2 gate_proj k k_proj language_model
    layer: layers: lm_head mlp model o o_proj out_proj q q_proj self_attn text_model text_projection
    up_proj v v_proj wi_0 wi_1 wo
"""
_WORDS = {
    "unet": frozenset(_UNET.split()),
    "transformer": frozenset(_TRANSFORMER.split()),
    "text_encoder": frozenset(_TEXT_ENCODER.split()),
}
_WORDS["text_encoder_2"] = _WORDS["text_encoder_3"] = _WORDS["text_encoder"]
_LONGEST = 1 + max(word.count("_") + 1 for words in _WORDS.values() for word in words)


def is_kohya(file: TensorFile) -> bool:
    """Whether a file's names have this layout's prefixes."""
    return any(_TENSOR.fullmatch(name) for name in file.entries)


def read(file: TensorFile, modules: Modules | None = None, only: str | None = None) -> Parts:
    """What the tensors of a file are; those of other components than `only` are left unread.
    `modules` are the base model's, where they are known: then every name must be one of them.

    Raises: LayoutError for a name that cannot be resolved, UnsupportedFeature for other adapters
    than LoRA and for other naming.
    """
    parts, where = Parts(file), display(file.path)
    sites: dict[tuple[str, str], str] = {}
    for tensor in file.entries:
        match = _TENSOR.fullmatch(tensor)
        if match is None:
            raise LayoutError(
                f"`{display(tensor)}` is no tensor of kohya's layout",
                where=where,
                expected="lora_unet_…, lora_te_…, lora_transformer_…",
            )
        component, name, leaf = _COMPONENT[match["prefix"]], match["name"], match["leaf"]
        if only is not None and component != only:
            parts.found.setdefault(component, {})
            continue
        if leaf not in _LEAVES:
            refuse_leaf(file, tensor, leaf)
            raise LayoutError(f"`{display(tensor)}` is no part of a LoRA", where=where)
        if (component, name) not in sites:
            sites[component, name] = _site(
                component, name, modules, f"{where}, `{display(tensor)}`"
            )
        parts.add(component, sites[component, name], _LEAVES[leaf], tensor)
    return parts


def spellings(name: str, component: str) -> list[str]:
    """Module names that known words make of `name`: none, one, or two of several."""
    words, pieces = _WORDS[component], name.split("_")
    found: list[list[str]] = [[""]]
    for stop in range(1, len(pieces) + 1):
        here = []
        for start in range(max(0, stop - _LONGEST), stop):
            *list_, last = pieces[start:stop]
            number = last.isascii() and last.isdecimal() and f"{'_'.join(list_)}:" in words
            word = f"{'_'.join(list_)}.{last}" if number else "_".join(pieces[start:stop])
            if number or word in words:
                here += [f"{before}.{word}" for before in found[start]]
        found.append(here[:2])
    return [spelling[1:] for spelling in found[-1]]


def _site(component: str, name: str, modules: Modules | None, where: str) -> str:
    """The module that `name` stands for. Raises LayoutError, UnsupportedFeature."""
    translated = _from_original(name) if component == "unet" else None
    if modules is not None:
        found = modules.find(name) or modules.find(translated or name)
        return the_one(found, name, where, *OF_THE_BASE)
    _refuse_foreign(name, where)
    return the_one(
        spellings(translated or name, component),
        name,
        where,
        f"a name made of words that a {component} is known to have",
        "--base-weights says the names: give the folder of that part of the base model",
    )


def _refuse_foreign(name: str, where: str) -> None:
    for words, whose in _FOREIGN.items():
        if name.startswith(words):
            raise UnsupportedFeature(
                f"the modules are named as in {whose}, which diffusers divides otherwise",
                where=where,
                expected="the names of diffusers' models",
                hint="convert the file with its trainer's own script first",
            )


_FOREIGN = {
    ("double_blocks_", "single_blocks_"): "Black Forest Labs' code for Flux (q, k and v in one)",
    ("joint_blocks_",): "Stability's code for SD 3 (q, k and v in one)",
}

# Places of the original UNet code: blocks of two layers (and three going up).
_BLOCK = re.compile(r"(?P<side>input|output)_blocks_(?P<block>\d{1,2})_(?P<item>\d)_(?P<rest>\w+)")
_MIDDLE = re.compile(r"middle_block_(?P<item>[012])_(?P<rest>\w+)")
_MIDDLE_ITEMS = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
}


def _from_original(name: str) -> str | None:
    """diffusers' name, with underscores, of a UNet's module in the original code; else None."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if match := _MIDDLE.fullmatch(name):
        rest = match["rest"] if match["item"] == "1" else _RESNET.get(match["rest"])
        return f"mid_block_{_MIDDLE_ITEMS[match['item']]}_{rest}" if rest else None
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    block, item, rest = int(match["block"]), int(match["item"]), match["rest"]
    down = match["side"] == "input"
    stage, layer = divmod(block - 1 if down else block, 3)
    place = f"{'down' if down else 'up'}_blocks_{stage}"
    if down and layer == 2:
        return f"{place}_downsamplers_0_conv" if item == 0 and rest == "op" else None
    if not down and rest == "conv" and item in (1, 2) and layer == 2:
        return f"{place}_upsamplers_0_conv"
    if item == 1:
        return f"{place}_attentions_{layer}_{rest}"
    return f"{place}_resnets_{layer}_{_RESNET[rest]}" if item == 0 and rest in _RESNET else None
