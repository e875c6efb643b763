"""LoHa: the elementwise product of two low-rank matrices, s (B₁A₁) ∘ (B₂A₂).

Source: Hyeon-Woo et al. 2022 (arXiv 2108.06098), FedPara; Yeh et al. 2024 (arXiv 2309.14859). With
the row-wise products B[o, ij] = B₁[o, i] B₂[o, j] and A[ij, n] = A₁[i, n] A₂[j, n] it is a LoRA B A
of rank r². A convolution's tensors T, w_a, w_b give each factor as B = w_aᵀ and
A[i, nkl] = Σⱼ T[i, j, k, l] w_b[j, n]. The scaling s is alpha / r.

A kernel that is stored flat cannot be told from a linear layer, and is read as one. A core of width
one, [r, r, k, 1], is read as that of a one-dimensional convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._geometry import Geometry
from pemath.kinds._lora_reading import Scales
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora

_FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_CORES = ("hada_t1", "hada_t2")
_Half = tuple[Callable[[], Array], Callable[[], Array]]


def open_loha(folder: PeftFolder) -> Adapter:
    """One LoRA of rank r² per site. Raises LayoutError, ConfigError, UnknownDtype."""
    sites, leftovers = group(folder, _FACTORS, _CORES)
    scales = Scales(folder, alpha="alpha")
    values = {site: _value(tensors, scales) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="LoHa")


def _value(tensors: Tensors, scales: Scales) -> Lora:
    geometry, rank, halves = _conv(tensors) if "hada_t1" in tensors else _linear(tensors)
    (b1, a1), (b2, a2) = halves
    product = tensors.product(
        geometry.block_shape,
        rank * rank,
        b=lambda: _by_rows(b1(), b2()),
        a=lambda: _by_rows(a1().T, a2().T).T,
        dense=lambda: (b1() @ a1()) * (b2() @ a2()),
        scale=scales.at(tensors.site, rank),
        sources=[tensors.stored(role) for role in tensors.names],
    )
    return Lora(geometry, (product,))


def _linear(tensors: Tensors) -> tuple[Geometry, int, list[_Half]]:
    """The geometry, the rank, and B and A of either matrix."""
    b1, a1, b2, a2 = (tensors.shape(role) for role in _FACTORS)
    tensors.fits(
        "hada_t2" not in tensors and len(b1) == len(a1) == 2,
        (b1, a1) == (b2, a2) and b1[-1] == a1[0],
        expected="w1_a and w2_a [out, r], w1_b and w2_b [r, in]",
    )
    halves: list[_Half] = [
        (tensors.stored(b).widen, tensors.stored(a).widen) for b, a in (_FACTORS[:2], _FACTORS[2:])
    ]
    return Geometry("linear", b1[0], a1[1:]), b1[1], halves


def _conv(tensors: Tensors) -> tuple[Geometry, int, list[_Half]]:
    wanted = "w1_a and w2_a [r, out], w1_b and w2_b [r, in], t1 and t2 [r, r, kernel, kernel]"
    tensors.fits("hada_t2" in tensors, expected=wanted)
    b1, a1, b2, a2, core1, core2 = (tensors.shape(role) for role in (*_FACTORS, *_CORES))
    tensors.fits(
        len(b1) == len(a1) == 2 and len(core1) == 4,
        (b1, a1, core1) == (b2, a2, core2) and core1[:2] == (b1[0], a1[0]) and b1[0] == a1[0],
        expected=wanted,
    )
    rank, kernel = b1[0], core1[2:3] if core1[3] == 1 else core1[2:]
    tensors.spend(rank * a1[1] * math.prod(kernel))

    def half(b: str, a: str, core: str) -> _Half:
        factor_b, factor_a, stored = tensors.stored(b), tensors.stored(a), tensors.stored(core)

        def contracted() -> Array:
            found: Array = np.einsum("ijkl,jn->inkl", stored.widen(), factor_a.widen())
            return found.reshape(rank, -1)

        return lambda: factor_b.widen().T, contracted

    halves = [half(*_FACTORS[:2], _CORES[0]), half(*_FACTORS[2:], _CORES[1])]
    return Geometry("conv", b1[1], (a1[1], *kernel)), rank, halves


def _by_rows(x: Array, y: Array) -> Array:
    """The Kronecker product of each row of x [n, p] with that of y [n, q]: [n, p q]."""
    return (x[:, :, None] * y[:, None, :]).reshape(len(x), -1)


KIND = register_compiled(
    Compiled(
        name="loha",
        summary="LoHa: the elementwise product of two low-rank matrices, a LoRA of rank r²",
        peft_types=("LOHA",),
        open=open_loha,
    )
)
