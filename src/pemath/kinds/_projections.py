"""What VeRA and PVeRA share: one pair of projections for all sites, scaled at each.

λ_b ⊙ B λ_d ⊙ A with A [≥ r, ≥ in] and B [≥ out, r] cut to each layer's size. Both vectors go to B, so
that adapters with the same projections have the same A, and their sum keeps the rank.

The file states a layer's outputs, by the length of λ_b, and not its inputs. A is as wide as the
widest layer: where all sites must be equally wide, that is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pemath.errors import LayoutError, UnsupportedFeature
from pemath.formats.floats import Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, linear, take_shared
from pemath.kinds._computed import Computed
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.names import display, listing

# Modules of one parent that read the same input.
_SAME_INPUT = (
    {"q_proj", "k_proj", "v_proj"}, {"query", "key", "value"}, {"q", "k", "v"},
    {"q_lin", "k_lin", "v_lin"}, {"to_q", "to_k", "to_v"}, {"wq", "wk", "wv"},
    {"gate_proj", "up_proj"}, {"wi_0", "wi_1"}, {"w1", "w3"},
)  # fmt: skip


def projections(
    folder: PeftFolder, sites: Mapping[str, Tensors], leftovers: list[str], prefix: str
) -> tuple[Stored, Stored]:
    """A and B, taken out of `leftovers`.

    Raises: UnsupportedFeature if they were not saved, LayoutError.
    """
    a, b = take_shared(folder, sites, leftovers, f"{prefix}_A", f"{prefix}_B")
    if a is None or b is None:
        raise UnsupportedFeature(
            f"the file lacks the projections `{prefix}_A` and `{prefix}_B`, which torch's generator "
            "would draw again",
            where=display(folder.tensors.path),
            hint="load it with PEFT, set `save_projection` to true in its config, and save it again",
        )
    if len(a.shape) != 2 or len(b.shape) != 2 or 0 in a.shape + b.shape:
        raise LayoutError(
            "the projections are no matrices",
            where=display(folder.tensors.path),
            found=f"A {list(a.shape)}, B {list(b.shape)}",
        )
    return a, b


def refuse_unequal_inputs(folder: PeftFolder, sites: Iterable[str], hint: str) -> None:
    """Raise UnsupportedFeature unless all sites read equally wide inputs, as far as names tell.

    They do where only the layer's number tells them apart, or where they are, say, the query and
    the value of one attention.
    """
    places = {re.sub(r"(^|\.)\d+(?=\.)", r"\1N", site).rpartition(".") for site in sites}
    parents, names = {parent for parent, _, _ in places}, {name for _, _, name in places}
    if len(parents) > 1 or (len(names) > 1 and not any(names <= same for same in _SAME_INPUT)):
        raise UnsupportedFeature(
            "the file does not say how wide the inputs of each layer are, and these may differ: "
            f"{listing(sorted(f'{parent}.{name}'.strip('.') for parent, _, name in places))}",
            where=display(folder.tensors.path),
            expected="modules that read one input, such as the query and the value of an attention",
            hint=hint,
        )


def scaled(tensors: Tensors, roles: tuple[str, str], a: Stored, b: Stored, rank: int) -> Lora:
    """λ_b ⊙ B λ_d ⊙ A, of `rank`; `roles` are those of λ_b and λ_d, whose first part is used."""
    outputs = tensors.shape(roles[0])[0] if tensors.shape(roles[0]) else 0
    tensors.fits(
        tensors.shape(roles[0]) == (outputs,) and len(tensors.shape(roles[1])) == 1,
        outputs <= b.shape[0] and b.shape[1] == rank,
        expected=f"{roles[0]} of at most {b.shape[0]} outputs, {roles[1]} [{rank}]",
    )
    across, along, columns = tensors.stored(roles[0]), tensors.stored(roles[1])[:rank], b[:outputs]
    tensors.spend(outputs * rank)
    factor_b = Computed(
        (outputs, rank),
        lambda: across.widen()[:, None] * columns.widen() * along.widen(),
        (across, along, columns),
    )
    return linear(LowRank((outputs, a.shape[1]), (Part(a[:rank], factor_b),)))
