"""C³A: blocks of circulant matrices, each given by one kernel.

Source: Chen et al. 2024 (arXiv 2407.19342). The block of kernel w is C[t, s] = w[(s - t) mod b], over
the number of inputs, as PEFT's Fourier transforms come to. Its rank is as large as the matrix in
general.
"""

from __future__ import annotations

import numpy as np

from pemath.formats.floats import Array
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora


def open_c3a(folder: PeftFolder) -> Adapter:
    """One LoRA of full rank per site. Raises LayoutError, UnknownDtype."""
    sites, leftovers = group(folder, ("c3a_kernel",))
    values = {site: _value(tensors) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="C³A")


def _value(tensors: Tensors) -> Lora:
    shape = tensors.shape("c3a_kernel")
    tensors.fits(len(shape) == 3, expected="c3a_kernel [out / b, in / b, b]")
    down, across, size = shape
    kernel = tensors.stored("c3a_kernel")

    def dense() -> Array:
        twice = np.concatenate([kernel.widen()] * 2, axis=-1)
        # Row t is the window that begins at b - t: views, so that nothing is as large but the result.
        circulant = np.lib.stride_tricks.sliding_window_view(twice, size, axis=-1)[:, :, :0:-1]
        return circulant.transpose(0, 2, 1, 3).reshape(down * size, across * size)

    inputs = across * size
    matrix = tensors.dense((down * size, inputs), dense, scale=1 / inputs, sources=(kernel,))
    return linear(matrix)


KIND = register_compiled(
    Compiled(
        name="c3a",
        summary="C³A: blocks of circulant matrices; a LoRA of full rank",
        peft_types=("C3A",),
        open=open_c3a,
    )
)
