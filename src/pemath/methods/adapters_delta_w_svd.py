"""What AdapterHub's `average_adapter(combine_strategy="lora_delta_w_svd")` computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pemath.errors import KindMismatch, PemathError, RequestError
from pemath.kinds.lora import Lora
from pemath.methods._adapterhub import one_configuration, shares
from pemath.methods._peft import singular_pairs
from pemath.methods._registry import Operands, Stack, method
from pemath.methods.exact import exact
from pemath.names import display


def _loras(stack: Stack) -> PemathError | None:
    if all(isinstance(value, Lora) for value in stack.values):
        return one_configuration(stack)
    return KindMismatch(
        "AdapterHub's lora_delta_w_svd combines only LoRAs",
        where=f"site `{display(stack.site)}`",
        hint="use the exact sum",
    )


def _kept_rank(
    ranks: Sequence[int], operands: Operands, svd_rank: int | None = None, **options: Any
) -> int:
    return svd_rank or max(ranks, default=0)


@method(
    space="core",
    source="AdapterHub's adapters 1.3.0, methods/lora.py, average_adapter",
    check=_loras,
    rank=_kept_rank,
    weights="shares",
)
def adapters_delta_w_svd(
    stack: Stack, *, svd_rank: int | None = None, normalize_weights: bool = True
) -> Any:
    """AdapterHub's lora_delta_w_svd: the sum truncated to `svd_rank`, but times r / `svd_rank`.

    It replaces r by `svd_rank` and keeps alpha, so the update shrinks as the rank grows: at twice
    the rank, where nothing need be lost, it has half the size. But for that it is the best
    truncation of Σc·ΔW, as B = U·S and A = Vᵀ, here found from the factors. `normalize_weights`
    divides c by Σc: a single -a is a, and `a - b`, a division by zero in AdapterHub, is refused.
    AdapterHub has no default for `svd_rank` and fails without one; here it is the operands' rank.
    Operands need one rank, one alpha and the same sites.
    """
    if svd_rank is not None and svd_rank < 1:
        raise RequestError("`svd_rank` must be at least 1", found=svd_rank)
    summed: Lora = exact(replace(stack, weights=shares(stack, normalize_weights)))
    own = max(value.rank for value in stack.values)
    rank = svd_rank or max(own, 1)
    allowed, scale = summed.geometry.block_rank(rank), own / rank
    blocks = (singular_pairs(block, allowed) * scale for block in summed.blocks)
    return Lora(summed.geometry, tuple(blocks))
