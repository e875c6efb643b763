"""Deltas merged in the basis of all their factors."""

from __future__ import annotations

from typing import Any

from pemath.errors import PemathError
from pemath.kinds.full import FullDelta
from pemath.lowrank import LowRank
from pemath.methods._core import Small, core_of
from pemath.methods._entrywise import check_choice, check_share
from pemath.methods._matrices import by_block, lora_only, ties, ties_of_vectors
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import operand_count
from pemath.methods.exact import exact
from pemath.methods.tsv import averaged, orthogonalized


def _loras(stack: Stack) -> PemathError | None:
    return lora_only(stack, "core", "its bases are those of the factors A and B")


@method(
    space="factor",
    source="Panariello et al. 2025 (arXiv 2509.17786), as in the authors' task_merger.py",
    check=_loras,
)
def core(stack: Stack, *, inner: str = "ties", density: float = 0.2) -> Any:
    """Core Space: U_B merge(M₁, …, M_T) V_Aᵀ, with Mᵢ = U_Bᵀ wᵢΔᵢ V_A of size Σr × Σr.

    U_B are the left singular vectors of all B side by side, V_A the right ones of all A stacked, as
    they lie in the files: scales and weights are in the Mᵢ, which hold all of the Δᵢ. `inner` "ties"
    keeps the share `density` of the largest entries of each, and takes the mean of those that have
    the sign of their sum; "linear" is the sum, the exact one; "tsv" is `tsv` with k the size of the
    Mᵢ, so that each operand gives as many directions as they have on average. How an operand is split
    into A and B matters to the bases, so to "ties". Terms that are zero, such as a file's padding, do
    not count; they do for the authors. Each site is trimmed by itself, as in their code. Biases are
    merged entry by entry, or averaged by "tsv".
    """
    check_choice("inner", inner, ("ties", "linear", "tsv"))
    check_share("density", density)
    count = operand_count(stack)
    if count == 1 or inner == "linear":
        return exact(stack)

    def of_products(blocks: list[LowRank]) -> LowRank:
        found = core_of(blocks, aligned=True)
        if inner == "tsv":
            each = max(1, min(found.matrices[0].matrix.shape) // count)
            return found.lifted(orthogonalized(found.matrices, each))
        merged = ties(found.matrices, density)
        floor = sum(small.rounding for small in found.matrices)
        left, values, right = Small(merged, floor).singular()
        return found.lifted((left * values, right))

    def of_vectors(vectors: list[FullDelta]) -> FullDelta:
        return averaged(vectors, count) if inner == "tsv" else ties_of_vectors(vectors, density)

    return by_block(stack, of_products, of_vectors)
