"""Uni-LoRA: all entries of all factors are taken from one short vector, times fixed scales.

Source: Li et al. 2025 (arXiv 2506.00799). A[i, n] = θ[position] scale, and B likewise. The positions
and scales must be in the file (`save_indices`).
"""

from __future__ import annotations

from pemath.errors import LayoutError, UnsupportedFeature
from pemath.formats.floats import Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, take_shared
from pemath.kinds._computed import Computed
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.names import display

_ROLES = ("unilora_indices_A", "unilora_indices_B", "unilora_scales_A", "unilora_scales_B")


def open_unilora(folder: PeftFolder) -> Adapter:
    """One LoRA per site; the positions are read. Raises LayoutError, UnsupportedFeature."""
    sites, leftovers = group(folder, _ROLES)
    where = display(folder.tensors.path)
    if not sites and "base_model.unilora_theta_d" in leftovers:
        raise UnsupportedFeature(
            "the file lacks the positions and scales, which torch's generator would draw again",
            where=where,
            hint="load it with PEFT, set `save_indices` to true in its config, and save it again",
        )
    (theta,) = take_shared(folder, sites, leftovers, "unilora_theta_d")
    if theta is None or len(theta.shape) != 1 or 0 in theta.shape:
        raise LayoutError(
            "the file lacks the vector of Uni-LoRA",
            where=where,
            expected="base_model.unilora_theta_d [length]",
        )
    values = {site: _value(tensors, theta) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="Uni-LoRA")


def _value(tensors: Tensors, theta: Stored) -> Lora:
    a, b, scales_a, scales_b = (tensors.shape(role) for role in _ROLES)
    tensors.fits(
        len(a) == len(b) == 2 and b[-1] == a[0],
        scales_a == a and scales_b == b,
        expected="indices and scales of A [r, in] and of B [out, r]",
    )
    tensors.spend((b[0] + a[1]) * a[0])
    part = Part(_factor(tensors, theta, "A"), _factor(tensors, theta, "B"))
    return linear(LowRank((b[0], a[1]), (part,)))


def _factor(tensors: Tensors, theta: Stored, name: str) -> Computed:
    positions = tensors.indices(f"unilora_indices_{name}", theta.shape[0])
    scales = tensors.stored(f"unilora_scales_{name}")
    return Computed(
        scales.shape, lambda: theta.widen()[positions] * scales.widen(), (theta, scales)
    )


KIND = register_compiled(
    Compiled(
        name="unilora",
        summary="Uni-LoRA: factors whose entries are taken from one vector; a LoRA",
        peft_types=("UNILORA",),
        open=open_unilora,
    )
)
