"""TinyLoRA: B R A, where R = Σᵢ vᵢ Pᵢ is mixed from fixed random matrices by a few numbers v.

Source: arXiv 2602.04118 (2026). B and A come from the base weight's decomposition, and are in the
file; so must be the matrices Pᵢ (`save_projection`). Groups of layers share a v each. Which layers
form a group follows from their order in the base model, which the file does not state: it must hold
one v for all (`weight_tying` 1). Nor does it tell an embedding from a linear layer, whose LoRAs lie in
other tensors: what is called like an embedding is refused.
"""

from __future__ import annotations

import re

import numpy as np

from pemath.errors import UnsupportedFeature
from pemath.formats.floats import Array, Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, take_shared
from pemath.kinds._computed import Computed
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._refused import AS_LORA, DENSE
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.names import display, listing

_FACTORS = ("tinylora_A", "tinylora_B")
_MIXED = "tinylora_P"
_EMBEDDING = re.compile(r"(.*\.)?(\w*emb\w*|wte|wpe|shared)")


def open_tinylora(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, UnsupportedFeature, UnknownDtype."""
    sites, leftovers = group(folder, _FACTORS, (_MIXED,))
    start = "base_model."
    names = [n.removeprefix(start) for n in leftovers if n.startswith(f"{start}tinylora_v.")]
    where = display(folder.tensors.path)
    if len(names) != 1:
        raise UnsupportedFeature(
            "which layers share a vector of TinyLoRA cannot be known from the file: it follows from "
            "the order of the base model's layers",
            where=where,
            found=f"{len(names)} vectors",
            expected="one vector for all layers, as with `weight_tying` 1",
            hint=AS_LORA,
        )
    (vector,) = take_shared(folder, sites, leftovers, *names)
    if vector is None or any(_MIXED not in tensors for tensors in sites.values()):
        raise UnsupportedFeature(
            "the file lacks the random matrices `tinylora_P`, which torch's generator would draw "
            "again",
            where=where,
            hint="load it with PEFT, set `save_projection` to true in its config, and save it again",
        )
    embeddings = [site for site in sites if _EMBEDDING.fullmatch(site)]
    if embeddings:
        raise UnsupportedFeature(
            "the file does not tell embeddings from linear layers, and these are called like "
            f"embeddings: {listing(embeddings)}",
            where=where,
            hint=DENSE,
        )
    values = {site: _value(tensors, vector) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="TinyLoRA")


def _value(tensors: Tensors, vector: Stored) -> Lora:
    a, b = (tensors.shape(role) for role in _FACTORS)
    tensors.fits(
        len(a) == len(b) == 2 and b[-1] == a[0],
        tensors.shape(_MIXED) == (*vector.shape, a[0], a[0]) and len(vector.shape) == 1,
        expected="tinylora_A [r, in], tinylora_B [out, r], tinylora_P [u, r, r], tinylora_v [u]",
    )
    tensors.spend(b[0] * a[0])
    factor_a, columns = (tensors.stored(role) for role in _FACTORS)
    matrices = tensors.stored(_MIXED)

    def factor_b() -> Array:
        mixed: Array = np.einsum("u,ujk->jk", vector.widen(), matrices.widen())
        return columns.widen() @ mixed

    computed = Computed(b, factor_b, (columns, vector, matrices))
    return linear(LowRank((b[0], a[1]), (Part(factor_a, computed),)))


KIND = register_compiled(
    Compiled(
        name="tinylora",
        summary="TinyLoRA: fixed factors around a matrix mixed by a few numbers; a LoRA",
        peft_types=("TINYLORA",),
        open=open_tinylora,
    )
)
