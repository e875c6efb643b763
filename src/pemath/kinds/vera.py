"""VeRA: λ_b ⊙ B λ_d ⊙ A, random projections that all layers share, scaled by a vector on each side.

Source: Kopiczko et al. 2024 (arXiv 2310.11454), equation 2. It is a LoRA whose A is the projection
itself, so adapters of the same projections add up at no cost in rank. The projections must be in
the file (`save_projection`), and the adapted layers equally wide: the file does not state a layer's
inputs, only the widest is known.
"""

from __future__ import annotations

from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import adapter, group
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._projections import projections, refuse_unequal_inputs, scaled
from pemath.kinds._refused import AS_LORA
from pemath.kinds._registry import register_compiled

_ROLES = ("vera_lambda_b", "vera_lambda_d")


def open_vera(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, UnsupportedFeature, UnknownDtype."""
    sites, leftovers = group(folder, _ROLES)
    a, b = projections(folder, sites, leftovers, "vera")
    refuse_unequal_inputs(folder, sites, AS_LORA)
    values = {}
    for site, tensors in sites.items():
        rank = a.shape[0]
        tensors.fits(tensors.shape("vera_lambda_d") == (rank,), expected=f"vera_lambda_d [{rank}]")
        values[site] = scaled(tensors, _ROLES, a, b, rank)
    return adapter(folder, values, leftovers, name="VeRA")


KIND = register_compiled(
    Compiled(
        name="vera",
        summary="VeRA: shared random projections, scaled by a vector on each side; a LoRA",
        peft_types=("VERA",),
        open=open_vera,
    )
)
