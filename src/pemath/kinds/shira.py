"""SHiRA: a sparse update, r (in + out) single weights at positions that are in the file.

Source: Bhardwaj et al. 2024 (arXiv 2406.13175). The file does not state the layer's shape: out + in
is the number of entries over r, and no position may lie outside. Where the last row and the last
column both have an entry, as they do but for rare draws, that leaves one shape only.
"""

from __future__ import annotations

import numpy as np

from pemath.errors import UnsupportedFeature
from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, number
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._refused import MERGE
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.names import display

_ROLES = ("shira_weight", "shira_indices")


def open_shira(folder: PeftFolder) -> Adapter:
    """One LoRA of full rank per site; the positions are read.

    Raises: LayoutError, ConfigError, UnsupportedFeature, UnknownDtype.
    """
    sites, leftovers = group(folder, _ROLES)
    values = {site: _value(tensors) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="SHiRA")


def _value(tensors: Tensors) -> Lora:
    (count, *rest), positions = tensors.shape("shira_weight") or (0,), tensors.shape(_ROLES[1])
    rank = number(tensors.folder, "r", least=1)
    tensors.fits(
        not rest and positions == (2, count) and count % rank == 0,
        expected=f"shira_weight [n], shira_indices [2, n], with n a multiple of r = {rank}",
    )
    rows, columns = tensors.indices("shira_indices")
    outputs, inputs = int(rows.max()) + 1, int(columns.max()) + 1
    if outputs + inputs != count // rank:
        raise UnsupportedFeature(
            f"the shape of the layer `{display(tensors.site)}` cannot be known from the file",
            where=display(tensors.folder.tensors.path),
            found=f"positions up to row {outputs} and column {inputs}",
            expected=f"{count // rank} rows and columns together",
            hint=MERGE,
        )
    stored = tensors.stored("shira_weight")

    def dense() -> Array:
        weight = np.zeros((outputs, inputs))
        np.add.at(weight, (rows, columns), stored.widen())
        return weight

    return linear(tensors.dense((outputs, inputs), dense, sources=(stored,)))


KIND = register_compiled(
    Compiled(
        name="shira",
        summary="SHiRA: single weights at positions that are in the file; a LoRA of full rank",
        peft_types=("SHIRA",),
        open=open_shira,
    )
)
