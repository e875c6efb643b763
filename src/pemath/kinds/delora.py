"""DeLoRA: B diag(λ / (r ‖bᵢ‖ ‖aᵢ‖)) A diag(w), a LoRA whose strength λ is learned apart.

Source: Bini et al. 2025 (arXiv 2503.18225). The lengths of the columns of B and of the rows of A are
divided out (PEFT: not below 1e-4 each); w are the lengths of the base weight's columns, which PEFT
saves in the file. So its update is known from the file; it is not linear in the parameters, and its
delta weights are what is added up.
"""

from __future__ import annotations

import numpy as np

from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear
from pemath.kinds._computed import Computed
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._lora_reading import Scales
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part

_ROLES = ("delora_A", "delora_B", "delora_lambda", "delora_w_norm")
_SHORTEST = 1e-4


def open_delora(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, ConfigError, UnknownDtype."""
    sites, leftovers = group(folder, _ROLES)
    ranks = Scales(folder)
    values = {site: _value(tensors, ranks) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="DeLoRA")


def _value(tensors: Tensors, ranks: Scales) -> Lora:
    a, b, strength, widths = (tensors.shape(role) for role in _ROLES)
    tensors.fits(
        len(a) == len(b) == 2 and b[-1] == a[0],
        strength == (1,) and widths == a[1:],
        expected="delora_A [r, in], delora_B [out, r], delora_lambda [1], delora_w_norm [in]",
    )
    ranks.agree(tensors.site, a[0])
    tensors.spend((b[0] + a[1]) * a[0])
    stored = [tensors.stored(role) for role in _ROLES]

    def factor_a() -> Array:
        return stored[0].widen() * stored[3].widen()

    def factor_b() -> Array:
        rows, columns = stored[0].widen(), stored[1].widen()
        lengths = np.maximum(np.linalg.norm(rows, axis=1), _SHORTEST)
        lengths *= np.maximum(np.linalg.norm(columns, axis=0), _SHORTEST)
        scaled: Array = columns * (stored[2].widen() / (len(rows) * lengths))
        return scaled

    part = Part(Computed(a, factor_a, stored), Computed(b, factor_b, stored))
    return linear(LowRank((b[0], a[1]), (part,)))


KIND = register_compiled(
    Compiled(
        name="delora",
        summary="DeLoRA: normalised factors with a learned strength; a LoRA",
        peft_types=("DELORA",),
        open=open_delora,
    )
)
