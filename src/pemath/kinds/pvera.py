"""PVeRA: VeRA whose inner activations are drawn from a learned distribution; the mean at inference.

Source: arXiv 2512.07703 (2025), as PEFT 0.21.2 has it. A gives mean and log variance below
each other; the mean's half makes λ_b ⊙ B λ_d ⊙ A, a LoRA, read as VeRA is. A module that also draws
at inference (`sample_at_inference`) is no fixed change of a weight, and is refused.

PEFT's get_delta_weight takes half of the vector and half of A, as its forward pass does.
"""

from __future__ import annotations

from pemath.errors import UnsupportedFeature
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import adapter, group
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._projections import projections, refuse_unequal_inputs, scaled
from pemath.kinds._refused import MERGE
from pemath.kinds._registry import register_compiled
from pemath.names import display
from pemath.references import CONFIG

_ROLES = ("pvera_lambda_b", "pvera_lambda_d")


def open_pvera(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, UnsupportedFeature, UnknownDtype."""
    sites, leftovers = group(folder, _ROLES)
    a, b = projections(folder, sites, leftovers, "pvera")
    if folder.config.get("sample_at_inference"):
        raise UnsupportedFeature(
            "`sample_at_inference` draws the update anew for every input",
            where=display(folder.path / CONFIG),
            hint="set it to false to compose the mean update",
        )
    refuse_unequal_inputs(folder, sites, MERGE)
    values = {}
    for site, tensors in sites.items():
        rank = b.shape[1]
        tensors.fits(
            tensors.shape("pvera_lambda_d") == (2 * rank,),
            a.shape[0] == 2 * rank,
            expected=f"pvera_lambda_d [{2 * rank}], twice the {rank} columns of pvera_B",
        )
        values[site] = scaled(tensors, _ROLES, a, b, rank)
    return adapter(folder, values, leftovers, name="PVeRA")


KIND = register_compiled(
    Compiled(
        name="pvera",
        summary="PVeRA: VeRA with a learned distribution, of which the mean is taken; a LoRA",
        peft_types=("PVERA",),
        open=open_pvera,
    )
)
