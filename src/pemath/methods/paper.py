"""The paper's operators on the factors of LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pemath.errors import PemathError, RankMismatch
from pemath.formats.floats import weighted_sum
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Operands, Stack, method
from pemath.methods.exact import exact


def equal_ranks(stack: Stack) -> PemathError | None:
    """RankMismatch where factors of different ranks would have to be added."""
    ranks = [value.rank for value in stack.values if isinstance(value, Lora)]
    if len(set(ranks)) <= 1:
        return None
    pairs = zip(stack.names, ranks, strict=True)
    return RankMismatch(
        "factors of different ranks cannot be added",
        where=f"site `{stack.site}`",
        found=", ".join(f"{name} has rank {rank}" for name, rank in pairs),
        expected="one rank",
        hint="use the exact arithmetic, which takes any ranks; --rank N keeps the result small",
    )


def kept_rank(ranks: Sequence[int], operands: Operands, **options: Any) -> int:
    """The rank of factors that are added, not concatenated."""
    return max(ranks, default=0)


@method(
    space="factor",
    source="Zhang et al. 2023 (arXiv 2306.14870), section 3, as in the authors' merge.py and analogy.py",
    check=equal_ranks,
    rank=kept_rank,
)
def paper(stack: Stack, *, normalize: bool = False) -> Any:
    """The paper's sum: A' = Σ|c|A and B' = ΣcB, for a single module (A, cB); (IA)³ is exact.

    It equals the exact sum only where all A are equal and Σ|c| = 1. `normalize` divides A' by Σ|c|,
    which makes it exact for equal A whatever the weights.
    """
    if len(stack.values) == 1 or not isinstance(stack.values[0], Lora):
        return exact(stack)
    total = sum(abs(weight) for weight in stack.weights)
    if total == 0:
        return exact(stack)
    share = [abs(weight) / total if normalize else abs(weight) for weight in stack.weights]

    def merged(blocks: tuple[LowRank, ...]) -> LowRank:
        parts = [block.joined() for block in blocks]
        a = weighted_sum([(c, part.a) for c, part in zip(share, parts, strict=True)])
        b = weighted_sum(
            [(c * part.scale, part.b) for c, part in zip(stack.weights, parts, strict=True)]
        )
        return LowRank(blocks[0].shape, (Part(a, b),))

    first = stack.values[0]
    columns = zip(*(value.blocks for value in stack.values), strict=True)
    return Lora(first.geometry, tuple(map(merged, columns)), exact(stack).bias)
