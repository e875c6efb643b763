"""How a LoRA's factors A and B lie in their tensors, and which weight they change.

A site has one block for a linear or embedding weight, one per group for a grouped convolution and
one per expert for a 3-D expert parameter. Each block is an ordinary product B A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pemath.formats.floats import Array, Raw, Stored
from pemath.lowrank import LowRank, Part

Layout = Literal["linear", "embedding", "conv", "experts"]


@dataclass(frozen=True)
class Geometry:
    """`outputs` and `inputs` of the base weight (`inputs` includes a convolution's kernel), and the
    number of blocks.
    """

    layout: Layout
    outputs: int
    inputs: tuple[int, ...]
    blocks: int = 1

    @property
    def block_shape(self) -> tuple[int, int]:
        """Shape (out, in) of each block's product."""
        rows = self.outputs // self.blocks if self.layout == "conv" else self.outputs
        return rows, math.prod(self.inputs)

    def block_rank(self, rank: int) -> int:
        """The rank of each block where the site has `rank`."""
        return rank // self.blocks if self.layout == "conv" else rank

    def site_rank(self, block_rank: int) -> int:
        """The rank of the site where its blocks have `block_rank`."""
        return block_rank * self.blocks if self.layout == "conv" else block_rank

    def shape_a(self, rank: int) -> tuple[int, ...]:
        """Shape of the tensor A."""
        return (rank * self.blocks if self.layout == "experts" else rank, *self.inputs)

    def shape_b(self, rank: int) -> tuple[int, ...]:
        """Shape of the tensor B."""
        if self.layout == "conv":
            return (self.outputs, rank // self.blocks, *(1 for _ in self.inputs[1:]))
        return (self.outputs, rank * self.blocks if self.layout == "experts" else rank)

    def split_a(self, a: Raw) -> list[Raw]:
        """The blocks of a tensor A, each [rank, in], as views."""
        rows = a.shape[0] // self.blocks
        return list(a.reshape(self.blocks, rows, -1))

    def split_b(self, b: Raw) -> list[Raw]:
        """The blocks of a tensor B, each [out, rank], as views (experts are the last axis)."""
        if self.layout == "experts":
            columns = b.reshape(self.outputs, -1, self.blocks)
            return [columns[:, :, expert] for expert in range(self.blocks)]
        return list(b.reshape(self.blocks, self.outputs // self.blocks, -1))

    def products(self, a: Stored, b: Stored, scale: float) -> tuple[LowRank, ...]:
        """The blocks of scale * B A, from the two tensors."""
        return tuple(
            LowRank(
                self.block_shape,
                (Part(Stored(block_a, a.kind), Stored(block_b, b.kind), scale),),
            )
            for block_a, block_b in zip(self.split_a(a.raw), self.split_b(b.raw), strict=True)
        )

    def delta_weight(self, blocks: Sequence[LowRank]) -> Array:
        """The dense delta: [out, in], [out, in, kernel…], [embeddings, dim] or [experts, out, in].

        A weight that the base stores transposed (Conv1D of GPT-2) is given as [out, in] too.
        """
        dense = [block.dense() for block in blocks]
        if self.layout == "experts":
            return np.stack(dense)
        if self.layout == "embedding":
            return dense[0].T
        return np.concatenate(dense).reshape(self.outputs, *self.inputs)

    def describe(self) -> str:
        """The base weight's shape."""
        text = "×".join(map(str, (self.outputs, *self.inputs)))
        if self.blocks > 1:
            text += f", {self.blocks} {'groups' if self.layout == 'conv' else 'experts'}"
        return text if self.layout == "linear" else f"{self.layout} {text}"
