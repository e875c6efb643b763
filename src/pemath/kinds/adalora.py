"""AdaLoRA: s B diag(E) A, a LoRA in the form of a singular value decomposition.

Source: Zhang et al. 2023 (arXiv 2303.10512), equation 3. E goes to B. The scaling is alpha over the
rank that training began with, plus 1e-5: PEFT 0.21.2 keeps dividing by `init_r` after the budget has
shrunk the rank, also when it has loaded the folder again. An alpha of zero or less means the rank
that is left. A site without any rank left changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pemath.errors import LayoutError, UnsupportedFeature
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, number, real
from pemath.kinds._computed import Computed
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.names import display
from pemath.references import CONFIG

_FACTORS = ("lora_A", "lora_B", "lora_E")
# PEFT adds this to the rank before it divides by it.
_SOFT = 1e-5


def open_adalora(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, ConfigError, UnsupportedFeature, UnknownDtype."""
    sites, leftovers = group(folder, _FACTORS)
    if folder.config.get("layer_replication"):
        raise UnsupportedFeature(
            "`layer_replication` is not supported: replicated layers belong to another stack than "
            "the base model's",
            where=display(folder.path / CONFIG),
        )
    values = {site: _value(folder, tensors) for site, tensors in sites.items()}
    empty = sum(tensors.shape("lora_A")[0] == 0 for tensors in sites.values())
    notes = [f"{empty} sites have no rank left, and change nothing"] if empty else []
    return adapter(folder, values, leftovers, name="AdaLoRA", notes=notes)


def _value(folder: PeftFolder, tensors: Tensors) -> Lora:
    a, b, e = (tensors.shape(role) for role in _FACTORS)
    if a[:1] == (0,):
        return _nothing(tensors)
    tensors.fits(
        len(a) == len(b) == 2 and e == (a[0], 1),
        b[-1] == a[0],
        expected="lora_A [r, in], lora_B [out, r], lora_E [r, 1]",
    )
    factor_a, columns, values = (tensors.stored(role) for role in _FACTORS)
    factor_b = Computed(b, lambda: columns.widen() * values.widen()[:, 0], (columns, values))
    tensors.spend(b[0] * b[1])
    part = Part(factor_a, factor_b, _scale(folder, tensors.site, a[0]))
    return linear(LowRank((b[0], a[1]), (part,)))


def _nothing(tensors: Tensors) -> Lora:
    """Zero, of rank one: no file holds a LoRA of rank zero."""
    a, b, e = (tensors.shape(role) for role in _FACTORS)
    if not (len(a) == len(b) == 2 and b[1] == 0 and e == (0, 1) and a[1] and b[0]):
        tensors.fits(expected="lora_A [0, in], lora_B [out, 0], lora_E [0, 1]")
    return linear(
        tensors.product(
            (b[0], a[1]),
            1,
            b=lambda: np.zeros((b[0], 1)),
            a=lambda: np.zeros((1, a[1])),
            sources=(),
        )
    )


def _scale(folder: PeftFolder, site: str, rank: int) -> float:
    start = number(folder, "init_r", least=1)
    alpha = real(folder, "lora_alpha")
    stated = _stated(folder.config.get("rank_pattern"), site, start)
    if stated != rank:
        raise LayoutError(
            f"the config and the tensors disagree on the rank of `{display(site)}`",
            where=display(folder.path / CONFIG),
            found=f"r = {display(stated, 40)}",
            expected=f"{rank}, as in {display(folder.tensors.path.name)}",
        )
    return float((alpha if alpha > 0 else rank) / (np.float64(start) + _SOFT))


def _stated(pattern: Any, site: str, start: int) -> Any:
    """The rank that `rank_pattern` says, which lists what was kept of each site's directions."""
    table = pattern if isinstance(pattern, Mapping) else {}
    # With the adapter's name where the config was saved before the weights.
    kept = table.get(f"{site}.lora_E", table.get(f"{site}.lora_E.default", start))
    return sum(map(bool, kept)) if isinstance(kept, list) else kept


KIND = register_compiled(
    Compiled(
        name="adalora",
        summary="AdaLoRA: B diag(E) A with a rank of its own at each site; a LoRA",
        peft_types=("ADALORA",),
        open=open_adalora,
    )
)
