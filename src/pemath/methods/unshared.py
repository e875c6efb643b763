"""What a module changes outside the subspaces that others change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pemath.errors import PemathError, RequestError
from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.lowrank import LOSSLESS, LowRank, Part, svd
from pemath.methods._registry import Operands, Stack, method
from pemath.methods._subtraction import (
    as_bias,
    bias_of,
    check_finite,
    fitting,
    operand_count,
    refuse_number,
    steering_only,
)
from pemath.methods.exact import exact

_NAME = "unshared"
# A direction this close to the span of others is one of theirs: float32 factors know no better.
_SAME = 1e-6


def _first_beside_others(stack: Stack) -> PemathError | None:
    if operand_count(stack) < 2:
        return refuse_number(stack, _NAME, "a module, and one or more that it is held against")
    return steering_only(stack, _NAME) or fitting(stack)


def _two_terms(ranks: Sequence[int], operands: Operands, **options: Any) -> int:
    first, *others = ranks or [0]
    return first + min(first, sum(others))


@method(
    space="core",
    source="our own: the orthogonal projection off a subspace, as in Uppaal et al. 2024 (arXiv "
    "2405.13967), here the one that other modules span",
    check=_first_beside_others,
    rank=_two_terms,
    weights="first",
)
def unshared(stack: Stack, *, energy: float = 1.0) -> Any:
    """The first operand outside what the others change: ΔW − P ΔW Q.

    P projects on the columns and Q on the rows of the others' deltas, all of them together, so
    what goes is what lies in both. Subtract it: `useful - 0.6*unshared(toxic, useful)`. `energy` is
    the share of each other's squared norm that is kept clear, in its leading directions; 1 takes
    all. LoRAs trained from one initialisation have nearly equal rows, so their columns decide. Of
    (IA)³ vectors, full deltas and biases, what is taken off is the projection on the span of the
    others, each one long vector; `energy` has no part in that.
    """
    if not 0 < energy <= 1:
        raise RequestError("`energy` is a share above 0, up to 1", found=energy)
    if len(stack.values) == 1 or stack.weights[0] == 0:
        return exact(stack) if len(stack.values) == 1 else stack.values[0] * 0.0
    check_finite(stack)
    first, *others = stack.values
    if not isinstance(first, Lora):
        return _off_span(first, others) * stack.weights[0]
    columns = zip(*(value.blocks for value in others), strict=True)
    blocks = tuple(
        _off_subspaces(block, beside, math.sqrt(1 - energy))
        for block, beside in zip(first.blocks, columns, strict=True)
    )
    bias = None
    if first.bias is not None:
        bias = as_bias(_off_span(bias_of(first), [bias_of(value) for value in others]))
    return Lora(first.geometry, blocks, bias) * stack.weights[0]


def _off_subspaces(block: LowRank, others: Sequence[LowRank], error: float) -> LowRank:
    """D − P D Q as D(1 − Q) + (1 − P)DQ: each term is small where it should be, so that rounding
    the factors costs no more than it must.
    """
    spaces = [_subspaces(other, error) for other in others]
    left, right = (_joint([space[side] for space in spaces]) for side in (0, 1))
    if 0 in (left.shape[1], right.shape[1], block.rank):
        return block
    part = block.joined()
    a, b = part.a.widen(), part.b.widen()
    beside, inside = _split(a.T, right)
    clear, _ = _split(b, left)
    outer = Part(Stored.of(np.ascontiguousarray(beside.T)), part.b, part.scale)
    # The second term, by the smaller of its two inner dimensions.
    inner_a, inner_b = inside.T @ right.T, clear
    if right.shape[1] < part.rank:
        inner_a, inner_b = np.ascontiguousarray(right.T), clear @ inside.T
    return LowRank(block.shape, (outer, Part(Stored.of(inner_a), Stored.of(inner_b), part.scale)))


def _subspaces(block: LowRank, error: float) -> tuple[Array, Array]:
    """Orthonormal columns that span the leading columns and rows of B A: all but `error`, relative
    to its norm.
    """
    found = block.decomposed()
    rank = found.rank_within(max(error, LOSSLESS))
    root = np.sqrt(found.values[:rank])
    return found.factor_b(rank) / root, found.factor_a(rank).T / root


def _joint(bases: Sequence[Array]) -> Array:
    """An orthonormal basis of what all span together, [n, k]."""
    left, values, _ = svd(np.concatenate(bases, axis=1))
    return np.asarray(left[:, values > _SAME])


def _split(columns: Array, basis: Array) -> tuple[Array, Array]:
    """What of the columns lies outside the basis, and the coordinates of what lies inside."""
    inside = basis.T @ columns
    outside = columns - basis @ inside
    again = (
        basis.T @ outside
    )  # once more: of a small remainder the first projection leaves rounding
    return outside - basis @ again, inside + again


def _off_span(first: Any, others: Sequence[Any]) -> Any:
    """`first` less its projection on the span of the others: a combination of all of them."""
    basis: list[Any] = []
    for other in others:
        rest = _off_basis(other, basis)
        size = rest.norm()
        if size > _SAME * other.norm():
            basis.append(rest * (1 / size))
    return _off_basis(first, basis)


def _off_basis(value: Any, basis: Sequence[Any]) -> Any:
    for direction in [*basis, *basis]:
        value = _gathered(value + direction * -value.inner(direction))
    return value


def _gathered(value: Ia3 | FullDelta) -> Ia3 | FullDelta:
    """The same with one term for each stored array."""
    scales: dict[int, float] = {}
    arrays: dict[int, Stored] = {}
    for scale, stored in value.terms:
        scales[id(stored)] = scales.get(id(stored), 0.0) + scale
        arrays[id(stored)] = stored
    terms = tuple((scale, arrays[key]) for key, scale in scales.items() if scale)
    return replace(value, terms=terms)
