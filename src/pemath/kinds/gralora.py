"""GraLoRA: a low-rank product for each of k × k blocks of the weight, beside a plain one if wanted.

Source: Jung et al. 2025 (arXiv 2505.20355), equation 4. With q = r / k the block of output part j and
input part n is Σₛ B[j, n q + s] A[n, j q + s], so all blocks together are a LoRA of rank k r: a row
of A lies in its input part n, its column of B in the output part j that it feeds. The hybrid part of
rank h is a LoRA as it stands. The scaling is alpha / (r + h).
"""

from __future__ import annotations

import numpy as np

from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, number, real
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part

_BLOCKS = ("gralora_A", "gralora_B")
_PLAIN = ("gralora_A_general.weight", "gralora_B_general.weight")
_WANTED = (
    "gralora_A [k, in / k, r], gralora_B [k, r, out / k]; A_general [h, in], B_general [out, h]"
)


def open_gralora(folder: PeftFolder) -> Adapter:
    """One LoRA of rank k r + h per site. Raises LayoutError, ConfigError, UnknownDtype."""
    sites, leftovers = group(folder, _BLOCKS, _PLAIN)
    values = {site: _value(tensors) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="GraLoRA")


def _value(tensors: Tensors) -> Lora:
    a, b = (tensors.shape(role) for role in _BLOCKS)
    tensors.fits(
        len(a) == len(b) == 3 and (a[0], a[2]) == b[:2],
        expected=_WANTED,
    )
    parts, width, rank = a
    tensors.fits(
        rank == number(tensors.folder, "r", least=1),
        parts == number(tensors.folder, "gralora_k", least=1),
        rank % parts == 0,
        expected=f"{_WANTED}, with r a multiple of k, and both as in the config",
    )
    height, inner = b[2], rank // parts
    shape = (parts * height, parts * width)
    stored_a, stored_b = (tensors.stored(role) for role in _BLOCKS)
    hybrid = _hybrid(tensors, shape)
    scale = real(tensors.folder, "alpha") / (rank + sum(part.rank for part in hybrid))

    def factor_a() -> Array:
        rows = np.zeros((parts, rank, parts, width))
        for part in range(parts):
            rows[part, :, part] = stored_a[part].widen().T
        return rows.reshape(parts * rank, parts * width)

    def factor_b() -> Array:
        columns = np.zeros((parts, height, parts, parts, inner))
        for part in range(parts):
            # Rows of B[part] are numbered by input part and s, and feed output part `part`.
            columns[part, :, :, part] = stored_b[part].widen().T.reshape(height, parts, inner)
        return columns.reshape(parts * height, parts * rank)

    tensors.spend(sum(shape) * parts * rank)
    blocks = tensors.product(
        shape,
        parts * rank,
        b=factor_b,
        a=factor_a,
        scale=scale,
        sources=(stored_a, stored_b),
    )
    plain = tuple(Part(part.a, part.b, scale) for part in hybrid)
    return linear(LowRank(shape, blocks.parts + plain))


def _hybrid(tensors: Tensors, shape: tuple[int, int]) -> tuple[Part, ...]:
    """The plain LoRA beside the blocks, if there is one."""
    if not any(role in tensors for role in _PLAIN):
        return ()
    tensors.fits(all(role in tensors for role in _PLAIN), expected=_WANTED)
    a, b = (tensors.shape(role) for role in _PLAIN)
    tensors.fits(len(a) == len(b) == 2 and a[0] == b[1] and (b[0], a[1]) == shape, expected=_WANTED)
    factor_a, factor_b = (tensors.stored(role) for role in _PLAIN)
    return (Part(factor_a, factor_b),)


KIND = register_compiled(
    Compiled(
        name="gralora",
        summary="GraLoRA: a low-rank product for each of k × k blocks; a LoRA of rank k r",
        peft_types=("GRALORA",),
        open=open_gralora,
    )
)
