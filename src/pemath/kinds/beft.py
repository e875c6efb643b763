"""BEFT: a vector added to a layer's outputs, which is a change of its bias.

Source: as PEFT 0.21.2 has it (bias-efficient fine-tuning). The change of the bias does not depend on
the base, so it is a full delta of the parameter `SITE.bias`; a layer without a bias has no such
parameter, and the result cannot be loaded into its base.
"""

from __future__ import annotations

from dataclasses import replace

from pemath.formats.floats import Stored, common_type
from pemath.formats.peft import PeftFolder
from pemath.kinds import full
from pemath.kinds._compiled import Tensors, group, lora_config
from pemath.kinds._contract import Adapter, Compiled, heads_of, refuse_unknown
from pemath.kinds._registry import register_compiled


def open_beft(folder: PeftFolder) -> Adapter:
    """One full delta of a bias per site. Raises LayoutError, UnknownDtype."""
    sites, leftovers = group(folder, ("beft_bias",))
    values = {f"{site}.bias": _value(tensors) for site, tensors in sites.items()}
    heads, unknown = heads_of(folder, leftovers)
    refuse_unknown(folder, unknown, sites)
    dtype = common_type(tensors.stored("beft_bias").kind for tensors in sites.values())
    config = {**lora_config(folder), "peft_type": "FULL"}
    note = "BEFT, read as a full delta of the layers' biases"
    return Adapter(replace(folder, config=config), full.KIND, values, heads, dtype, notes=(note,))


def _value(tensors: Tensors) -> full.FullDelta:
    shape = tensors.shape("beft_bias")
    tensors.fits(len(shape) == 2 and shape[0] == 1, expected="beft_bias [1, out]")
    stored = tensors.stored("beft_bias")
    return full.FullDelta(shape[1:], ((1.0, Stored(stored.raw[0], stored.kind)),))


KIND = register_compiled(
    Compiled(
        name="beft",
        summary="BEFT: a vector added to a layer's outputs; a full delta of its bias",
        peft_types=("BEFT",),
        open=open_beft,
        into="full",
    )
)
