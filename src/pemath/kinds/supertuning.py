"""Supertuning: single weights of a layer, numbered through, beside a LoRA if wanted.

Source: arXiv 2607.09287 (2026), as PEFT has it. The file numbers the changed weights and does not
hold the layer's shape, which only the LoRA beside them states (`r`, the "Supra" form): without it the
module is refused. The positions must be in the file (`save_precomputed_indices`).
"""

from __future__ import annotations

import numpy as np

from pemath.errors import UnsupportedFeature
from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._lora_reading import Scales
from pemath.kinds._refused import MERGE
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.names import display

_VALUES, _INDICES = "supertuning_values", "supertuning_indices"
_FACTORS = ("supertuning_lora_A.weight", "supertuning_lora_B.weight")


def open_supertuning(folder: PeftFolder) -> Adapter:
    """One LoRA of full rank per site; the positions are read.

    Raises: LayoutError, ConfigError, UnsupportedFeature, UnknownDtype.
    """
    sites, leftovers = group(folder, (_VALUES,), (_INDICES, *_FACTORS))
    scales = Scales(folder)
    values = {site: _value(tensors, scales) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="Supertuning")


def _value(tensors: Tensors, scales: Scales) -> Lora:
    where = display(tensors.folder.tensors.path)
    if _INDICES not in tensors or not any(role in tensors for role in _FACTORS):
        raise UnsupportedFeature(
            "Supertuning numbers the changed weights of a layer, and the file holds "
            + ("no numbers" if _INDICES not in tensors else "no shape of the layer"),
            where=f"{where}, site `{display(tensors.site)}`",
            expected="`save_precomputed_indices` and a LoRA beside them (`r`)",
            hint=MERGE,
        )
    tensors.fits(all(role in tensors for role in _FACTORS), expected=", ".join(_FACTORS))
    a, b = (tensors.shape(role) for role in _FACTORS)
    tensors.fits(
        len(a) == len(b) == 2 and b[-1] == a[0],
        len(tensors.shape(_VALUES)) == 1 and tensors.shape(_VALUES) == tensors.shape(_INDICES),
        expected="lora_A [r, in], lora_B [out, r], values [n], indices [n]",
    )
    shape = (b[0], a[1])
    positions, stored = tensors.indices(_INDICES, b[0] * a[1]), tensors.stored(_VALUES)

    def dense() -> Array:
        weight = np.zeros(b[0] * a[1])
        np.add.at(weight, positions, stored.widen())
        return weight.reshape(shape)

    single = tensors.dense(shape, dense, sources=(stored,))
    factor_a, factor_b = (tensors.stored(role) for role in _FACTORS)
    plain = Part(factor_a, factor_b, scales.at(tensors.site, a[0]))
    return linear(LowRank(shape, (*single.parts, plain)))


KIND = register_compiled(
    Compiled(
        name="supertuning",
        summary="Supertuning: single weights beside a LoRA; a LoRA of full rank",
        peft_types=("SUPERTUNING",),
        open=open_supertuning,
    )
)
