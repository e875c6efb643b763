"""LoKr: the Kronecker product of two matrices, s w₁ ⊗ w₂, each of them full or a product.

Source: Yeh et al. 2024 (arXiv 2309.14859); Edalati et al. 2022 (arXiv 2212.10650). With w₁ = P₁Q₁
and w₂ = P₂Q₂ it is a LoRA with B = P₁ ⊗ P₂ and A = Q₁ ⊗ Q₂, whose rank is the product of the inner
sizes; a full matrix takes an identity matrix for one of its factors, on its smaller side. The
scaling s is alpha / r. A convolution's core T gives w₂[p, n, k, l] = Σᵢⱼ T[i, j, k, l] w_a[i, p]
w_b[j, n].

For a one-dimensional convolution with a full w₂ [q, d, k], PEFT multiplies with the axes aligned at
their ends: output channel (i, j) is the pair of w₂'s and w₁'s index there, and w₁'s and w₂'s
elsewhere. Its forward pass does so too, and so does pemath.

A kernel that is stored flat cannot be told from a linear layer, and is read as one. A core of width
one, [r, r, k, 1], is read as that of a one-dimensional convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._geometry import Geometry
from pemath.kinds._lora_reading import Scales
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora

_ROLES = (
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
_WANTED = (
    "w1 [a, c] or w1_a [a, r] and w1_b [r, c]; w2 [b, d, kernel…], or w2_a [b, r] and w2_b [r, d], "
    "or with t2 [r, r, kernel, kernel] w2_a [r, b] and w2_b [r, d]"
)


@dataclass(frozen=True)
class _Side:
    """One of the two matrices [outputs, inputs], P [outputs, inner] times Q [inner, inputs].

    `r` is the config's rank where a tensor has it.
    """

    outputs: int
    inputs: int
    inner: int
    p: Callable[[], Array]
    q: Callable[[], Array]
    kernel: tuple[int, ...] = ()
    r: int | None = None


def open_lokr(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, ConfigError, UnknownDtype."""
    sites, leftovers = group(folder, (), _ROLES)
    scales = Scales(folder, alpha="alpha")
    values = {site: _value(tensors, scales) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="LoKr")


def _value(tensors: Tensors, scales: Scales) -> Lora:
    first, second = _first(tensors), _second(tensors)
    ranks = {side.r for side in (first, second) if side.r is not None}
    tensors.fits(len(ranks) <= 1, expected=_WANTED)
    outputs, inputs = first.outputs * second.outputs, first.inputs * second.inputs
    geometry = Geometry("linear", outputs, (inputs,))
    if second.kernel:
        channels = inputs // math.prod(second.kernel)
        geometry = Geometry("conv", outputs, (channels, *second.kernel))
    # See above. A core's kernel has two dimensions in the file.
    swapped = "lokr_w2" in tensors and len(second.kernel) == 1
    product = tensors.product(
        (outputs, inputs),
        first.inner * second.inner,
        b=lambda: _rows(first.p(), second.p(), swapped=swapped),
        a=lambda: _columns(first.q(), second.q(), second.kernel if swapped else ()),
        scale=scales.at(tensors.site, next(iter(ranks), scales.rank(tensors.site))),
        sources=[tensors.stored(role) for role in tensors.names],
    )
    return Lora(geometry, (product,))


def _first(tensors: Tensors) -> _Side:
    if "lokr_w1" in tensors:
        shape = tensors.shape("lokr_w1")
        _only(tensors, "lokr_w1_a", "lokr_w1_b")
        tensors.fits(len(shape) == 2, expected=_WANTED)
        return _full(shape, tensors.stored("lokr_w1").widen)
    return _factored(tensors, "lokr_w1_a", "lokr_w1_b")


def _second(tensors: Tensors) -> _Side:
    if "lokr_w2" in tensors:
        shape = tensors.shape("lokr_w2")
        _only(tensors, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        tensors.fits(2 <= len(shape) <= 4, expected=_WANTED)
        matrix, kernel = tensors.stored("lokr_w2"), shape[2:]
        flat = (shape[0], math.prod(shape[1:]))
        return _full(flat, lambda: matrix.widen().reshape(flat), kernel)
    return _core(tensors) if "lokr_t2" in tensors else _factored(tensors, "lokr_w2_a", "lokr_w2_b")


def _only(tensors: Tensors, *others: str) -> None:
    """A full matrix has no factors beside it."""
    tensors.fits(not any(role in tensors for role in others), expected=_WANTED)


def _full(
    shape: tuple[int, ...],
    matrix: Callable[[], Array],
    kernel: tuple[int, ...] = (),
    r: int | None = None,
) -> _Side:
    """A full matrix, beside an identity matrix on its smaller side."""
    outputs, inputs = shape
    if outputs <= inputs:
        return _Side(outputs, inputs, outputs, lambda: np.eye(outputs), matrix, kernel, r)
    return _Side(outputs, inputs, inputs, matrix, lambda: np.eye(inputs), kernel, r)


def _factored(tensors: Tensors, p: str, q: str) -> _Side:
    tensors.fits(p in tensors and q in tensors, expected=_WANTED)
    (outputs, *_), (r, *_) = tensors.shape(p), tensors.shape(q)
    tensors.fits(
        len(tensors.shape(p)) == len(tensors.shape(q)) == 2,
        tensors.shape(p)[-1] == r,
        expected=_WANTED,
    )
    inputs, left, right = tensors.shape(q)[1], tensors.stored(p), tensors.stored(q)
    if r > min(outputs, inputs):
        tensors.spend(outputs * inputs)
        return _full((outputs, inputs), lambda: left.widen() @ right.widen(), r=r)
    return _Side(outputs, inputs, r, left.widen, right.widen, r=r)


def _core(tensors: Tensors) -> _Side:
    """A convolution's w2 in its three factors: P is w_aᵀ, Q the core times w_b."""
    tensors.fits("lokr_w2_a" in tensors and "lokr_w2_b" in tensors, expected=_WANTED)
    p, q, core = (tensors.shape(role) for role in ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
    tensors.fits(
        len(p) == len(q) == 2 and len(core) == 4,
        core[:2] == (p[0], q[0]) and p[0] == q[0],
        expected=_WANTED,
    )
    r, kernel = p[0], core[2:3] if core[3] == 1 else core[2:]
    inputs = q[1] * math.prod(kernel)
    tensors.spend(r * inputs)
    left, right, middle = (tensors.stored(role) for role in ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))

    def contracted() -> Array:
        found: Array = np.einsum("ijkl,jn->inkl", middle.widen(), right.widen())
        return found.reshape(r, -1)

    if r > min(p[1], inputs):
        tensors.spend(p[1] * inputs)
        return _full((p[1], inputs), lambda: left.widen().T @ contracted(), kernel, r)
    return _Side(p[1], inputs, r, lambda: left.widen().T, contracted, kernel, r)


def _rows(x: Array, y: Array, *, swapped: bool) -> Array:
    """The Kronecker product; where `swapped`, its rows are ordered by those of y first."""
    found: Array = np.einsum("pi,qj->qpij" if swapped else "pi,qj->pqij", x, y)
    return found.reshape(len(x) * len(y), -1)


def _columns(x: Array, y: Array, kernel: tuple[int, ...]) -> Array:
    """The Kronecker product; with a kernel, y's columns but for the kernel's come first."""
    cube = y.reshape(len(y), -1, *kernel) if kernel else y[:, None]
    found: Array = np.einsum("ic,jdk->ijdck", x, cube)
    return found.reshape(len(x) * len(y), -1)


KIND = register_compiled(
    Compiled(
        name="lokr",
        summary="LoKr: the Kronecker product of two matrices, a LoRA of the product of their ranks",
        peft_types=("LOKR",),
        open=open_lokr,
    )
)
