"""DARE on rank-one terms: exact from the factors, and of lower rank than the sum."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

from pemath.errors import KindMismatch, PemathError
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._entrywise import Draws, check_share, levels, probability
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import fitting
from pemath.names import display


def _lora_only(stack: Stack) -> PemathError | None:
    if all(isinstance(value, Lora) for value in stack.values):
        return fitting(stack)
    return KindMismatch(
        "only a LoRA is a sum of rank-one terms",
        where=f"site `{display(stack.site)}`",
        hint="dare_linear drops single entries of any kind",
    )


@method(
    space="factor",
    source="our own: Yu et al. 2024 (arXiv 2311.03099) on rank-one terms instead of entries",
    check=_lora_only,
)
def dare_rank(stack: Stack, *, density: float = 0.5, seed: int = 0) -> Any:
    """Rank-wise DARE: Σ mᵢₖ cᵢ sᵢ bᵢₖ aᵢₖ / density, each mᵢₖ 1 with probability `density`, else 0.

    Its expectation is the exact sum, as that of `dare_linear`; nothing is lost to truncation, and the
    rank shrinks with `density`. Which terms there are depends on the factors as they are stored, so
    two LoRAs of one delta may give different results. A bias is one term. Draws come from `seed` as in
    `dare_linear`.
    """
    check_share("density", density)
    kept = int(levels(density))
    terms = zip(stack.values, stack.weights, stack.names, strict=True)
    return reduce(add, (_dropped(v * c, f"{stack.site} rank", n, kept, seed) for v, c, n in terms))


def _dropped(value: Lora, label: str, name: str, kept: int, seed: int) -> Lora:
    def drop(product: LowRank, place: object) -> LowRank:
        draws = Draws(seed, f"{label} {place}", name, product.rank).rows(0, 1)[0]
        parts, start = [], 0
        for part in product.parts:
            keep = draws[start : start + part.rank] < kept
            start += part.rank
            if keep.any():
                scale = part.scale / probability(kept)
                parts.append(Part(part.a[keep], part.b[:, keep], scale))
        return LowRank(product.shape, tuple(parts))

    blocks = tuple(drop(block, index) for index, block in enumerate(value.blocks))
    bias = None if value.bias is None else drop(value.bias, "bias")
    return replace(value, blocks=blocks, bias=bias)
