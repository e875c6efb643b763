"""The mean of parameters, each weighted by how much the operand's predictions depend on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pemath.errors import RequestError
from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Stack, method
from pemath.methods.exact import exact
from pemath.methods.paper import equal_ranks, kept_rank


@method(
    space="factor",
    source="Matena and Raffel 2022 (arXiv 2111.09832), section 3; the code is our own",
    check=equal_ranks,
    rank=kept_rank,
    needs="fisher",
)
def fisher(stack: Stack, *, normalize: bool = True, floor: float = 1e-6) -> Any:
    """Fisher-weighted mean: ΣwFθ / ΣwF elementwise, F the diagonal Fisher information.

    θ are a LoRA's factors A and sB, an (IA)³ vector or a full delta. Of factors it is no mean of
    the updates: with equal F it is `paper(normalize=true)`. `normalize` divides each operand's F by
    its Euclidean norm over the whole adapter, so that none counts more for being less certain.
    `floor` is the least F: parameters that matter to no operand get the plain mean.
    """
    if not 0 < floor < math.inf:
        raise RequestError("`floor` must be positive", found=floor)
    total = sum(abs(weight) for weight in stack.weights)
    if len(stack.values) == 1 or total == 0:
        return exact(stack)
    ones = [1.0] * len(stack.values)
    signed = [math.copysign(total, weight) for weight in stack.weights]

    def mean(
        parameters: Callable[[Any], Array],
        information: Callable[[Any], Array],
        factors: Sequence[float],
    ) -> Array:
        """The weighted mean of what `parameters` takes from each value, times its factor."""
        above, below = np.zeros(()), np.zeros(())
        for value, known, weight, factor in zip(
            stack.values, stack.statistics, stack.weights, factors, strict=True
        ):
            found = known.fisher(information, normalize=normalize)
            share = abs(weight) * np.maximum(found, floor)
            above = above + share * (factor * parameters(value))
            below = below + share
        return above / below

    first = stack.values[0]
    if isinstance(first, Lora):
        blocks = []
        for index, block in enumerate(first.blocks):

            def part(value: Lora, index: int = index) -> Part:
                return value.blocks[index].joined()

            a = mean(lambda v: part(v).a.widen(), lambda f: part(f).a.widen(), ones)
            # The Fisher information of sB is that of B over s².
            b = mean(
                lambda v: part(v).b.widen() * part(v).scale,
                lambda f: part(f).b.widen() / (part(f).scale ** 2 or 1.0),
                signed,
            )
            blocks.append(LowRank(block.shape, (Part(Stored.of(a), Stored.of(b)),)))
        return Lora(first.geometry, tuple(blocks), exact(stack).bias)

    def stored(information: Ia3 | FullDelta) -> Array:
        return information.terms[0][1].widen()

    if isinstance(first, Ia3):
        deviation = mean(lambda v: v.deviation().reshape(v.shape), stored, signed)
        return Ia3(first.side, first.shape, ((1.0, Stored.of(1.0 + deviation)),))
    delta = mean(FullDelta.delta_weight, stored, signed)
    return FullDelta(first.shape, ((1.0, Stored.of(delta)),))
