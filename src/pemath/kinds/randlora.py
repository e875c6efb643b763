"""RandLoRA: a sum of n random products of rank r, each scaled on both sides; of full rank.

Source: Albert et al. 2025 (arXiv 2502.00987), equation 3, Σⱼ Bⱼ diag(λⱼ) A diag(γⱼ), times alpha / r.
PEFT 0.21.2 puts the same parts together in another order: with the bases A [r, 1, m] and B [m, n, r],
row i n + j of A is λ[i, j] A[i] γ[j], and it meets column i n + j of B [m, n r], which belongs to
another pair (j, i). Its forward pass does so too, and so does pemath.

The file states the smaller side of each layer, by γ, and not the larger one, nor which of the two it
is. Only a layer as large on both sides as the bases, which is square, is therefore known; others are
refused. The bases must be in the file (`save_projection`).
"""

from __future__ import annotations

from pemath.errors import LayoutError, UnsupportedFeature
from pemath.formats.floats import Array, Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, take_shared
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._lora_reading import Scales
from pemath.kinds._refused import AS_LORA
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.names import display

_ROLES = ("randlora_lambda", "randlora_gamma")
# PEFT stores the shared bases once more at every layer.
_COPIES = ("randlora_A", "randlora_B")


def open_randlora(folder: PeftFolder) -> Adapter:
    """One LoRA of full rank per site. Raises LayoutError, ConfigError, UnsupportedFeature."""
    sites, leftovers = group(folder, _ROLES, _COPIES)
    a, b = take_shared(folder, sites, leftovers, *_COPIES)
    where = display(folder.tensors.path)
    if a is None or b is None:
        raise UnsupportedFeature(
            "the file lacks the random bases, which torch's generator would draw again",
            where=where,
            hint="load it with PEFT, set `save_projection` to true in its config, and save it again",
        )
    if len(a.shape) != 3 or a.shape[1] != 1 or len(b.shape) != 3 or 0 in a.shape + b.shape:
        raise LayoutError(
            "the random bases do not fit together",
            where=where,
            found=f"A {list(a.shape)}, B {list(b.shape)}",
            expected="A [r, 1, inputs], B [outputs, n, r]",
        )
    scales = Scales(folder, alpha="randlora_alpha")
    values = {site: _value(tensors, a, b, scales) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="RandLoRA")


def _value(tensors: Tensors, a: Stored, b: Stored, scales: Scales) -> Lora:
    strengths, widths = (tensors.shape(role) for role in _ROLES)
    tensors.fits(
        len(strengths) == len(widths) == 2 and strengths[1] == widths[0],
        strengths[0] == a.shape[0] == b.shape[2],
        widths[0] <= b.shape[1] and widths[-1] <= a.shape[2],
        expected="randlora_lambda [r, n], randlora_gamma [n, m], within the bases",
    )
    (rank, count), size = strengths, widths[1]
    if size != b.shape[0]:
        raise UnsupportedFeature(
            f"the shape of the layer `{display(tensors.site)}` cannot be known from the file",
            where=display(tensors.folder.tensors.path),
            found=f"a smaller side of {size}, and bases for layers of up to {b.shape[0]}",
            expected="square layers as large as the bases",
            hint=AS_LORA,
        )
    rows, columns = a[:, 0, :size], b[:, :count]
    by, along = (tensors.stored(role) for role in _ROLES)
    tensors.spend(size * count * rank)

    def dense() -> Array:
        scaled = by.widen()[:, :, None] * rows.widen()[:, None] * along.widen()
        return columns.widen().reshape(size, -1) @ scaled.reshape(-1, size)

    scale = scales.at(tensors.site, rank)
    sources = (rows, columns, by, along)
    return linear(tensors.dense((size, size), dense, scale=scale, sources=sources))


KIND = register_compiled(
    Compiled(
        name="randlora",
        summary="RandLoRA: a sum of scaled random products; a LoRA of full rank",
        peft_types=("RANDLORA",),
        open=open_randlora,
    )
)
