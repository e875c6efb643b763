"""VB-LoRA: B and A put together from pieces, each a softmax mixture of a few vectors of a bank.

Source: Li et al. 2024 (arXiv 2405.15179), equations 3 and 4. The k largest logits of a piece choose
its vectors and, by a softmax among them, their shares. A file saved with `save_only_topk_weights`
holds the chosen positions and all shares but the last, which make one together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pemath.errors import LayoutError
from pemath.formats.floats import Array, Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds._compiled import Tensors, adapter, group, linear, number, take_shared
from pemath.kinds._contract import Adapter, Compiled
from pemath.kinds._registry import register_compiled
from pemath.kinds.lora import Lora
from pemath.names import display

_LOGITS = ("vblora_logits_A", "vblora_logits_B")
_CHOSEN = tuple(f"{name}_topk_{part}" for name in _LOGITS for part in ("indices", "weights"))
_WANTED = "logits A [r, in / length, vectors] and B [out / length, r, vectors], or the top ones"


def open_vblora(folder: PeftFolder) -> Adapter:
    """One LoRA per site. Raises LayoutError, ConfigError, UnknownDtype."""
    sites, leftovers = group(folder, (), (*_LOGITS, *_CHOSEN))
    (bank,) = take_shared(folder, sites, leftovers, "vblora_vector_bank")
    if bank is None or len(bank.shape) != 2 or 0 in bank.shape:
        raise LayoutError(
            "the file lacks the vector bank",
            where=display(folder.tensors.path),
            found="nothing" if bank is None else list(bank.shape),
            expected="base_model.vblora_vector_bank [vectors, length]",
        )
    chosen = number(folder, "topk", least=1)
    values = {site: _value(tensors, bank, chosen) for site, tensors in sites.items()}
    return adapter(folder, values, leftovers, name="VB-LoRA")


def _value(tensors: Tensors, bank: Stored, chosen: int) -> Lora:
    vectors, length = bank.shape
    pieces = []
    for role in _LOGITS:
        if role in tensors:
            shape = tensors.shape(role)
            tensors.fits(len(shape) == 3 and shape[-1] == vectors >= chosen, expected=_WANTED)
            pieces.append((shape[:2], _by_logits(tensors.stored(role), chosen)))
        else:
            pieces.append(_by_choice(tensors, role, vectors, chosen))
    tensors.fits(len(tensors.names) == sum(2 - (r in tensors) for r in _LOGITS), expected=_WANTED)
    ((rank, inputs), mix_a), ((outputs, same), mix_b) = pieces
    tensors.fits(same == rank, expected=_WANTED)

    def b() -> Array:
        mixed = mix_b(bank.widen())
        return mixed.transpose(0, 2, 1).reshape(outputs * length, rank)

    return linear(
        tensors.product(
            (outputs * length, inputs * length),
            rank,
            b=b,
            a=lambda: mix_a(bank.widen()).reshape(rank, inputs * length),
            sources=[bank],
        )
    )


def _by_logits(logits: Stored, chosen: int) -> Callable[[Array], Array]:
    """The mixtures of the bank's vectors, [.., .., length]."""

    def mixed(bank: Array) -> Array:
        values = logits.widen()
        values[~(values < np.inf)] = (
            np.nan
        )  # negative infinity is never chosen, and may stand there
        if np.isnan(values).any():
            return np.full((*values.shape[:2], bank.shape[1]), np.nan)
        order = np.argsort(-values, axis=-1, kind="stable")[..., :chosen]
        top = np.take_along_axis(values, order, -1)
        shares = np.exp(top - top[..., :1])
        return _mixed(bank, order, shares / shares.sum(-1, keepdims=True))

    return mixed


def _by_choice(
    tensors: Tensors, role: str, vectors: int, chosen: int
) -> tuple[tuple[int, ...], Callable[[Array], Array]]:
    indices, weights = f"{role}_topk_indices", f"{role}_topk_weights"
    tensors.fits(indices in tensors and weights in tensors, expected=_WANTED)
    shape = tensors.shape(indices)
    if chosen == 1:
        # The one share is 1, and the tensor of all but the last share is empty.
        raise LayoutError(
            "top positions of `topk` 1 have no weights to be saved",
            where=display(tensors.folder.tensors.path),
        )
    tensors.fits(
        len(shape) == 3 and shape[-1] == chosen <= vectors,
        tensors.shape(weights) == (*shape[:-1], chosen - 1),
        expected=_WANTED,
    )
    order, stored = tensors.indices(indices, vectors), tensors.stored(weights)

    def mixed(bank: Array) -> Array:
        first = stored.widen()
        last = 1.0 - first.sum(-1, keepdims=True)
        return _mixed(bank, order, np.concatenate([first, last], -1))

    return shape[:2], mixed


def _mixed(bank: Array, order: np.ndarray, shares: Array) -> Array:
    total = np.zeros((*order.shape[:2], bank.shape[1]))
    for position in range(order.shape[-1]):
        total += shares[..., position, None] * bank[order[..., position]]
    return total


KIND = register_compiled(
    Compiled(
        name="vblora",
        summary="VB-LoRA: factors put together from the vectors of one bank; a LoRA",
        peft_types=("VBLORA",),
        open=open_vblora,
    )
)
