"""Whole deltas as directions: their inner products, arcs between them, and means on the sphere.

A value is one long vector here, all that it changes at its site, bias included. What comes of two
or more is always Σ cᵢ Δᵢ, and the cᵢ follow from the Gram matrix of the operands, [T, T], which
costs rank × rank products for LoRAs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from pemath.formats.floats import Array, Stored
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods._registry import Stack
from pemath.methods.exact import exact

# Squares of rank-one terms that cancel to less than this share have lost too many digits.
_CANCELLATION = 1e-4
# An angle below this is none: the formula for arcs and that for lines give the same number.
_SAME = 1e-7
# Directions this close to opposite, 1.8°, leave open which way round to go: mergekit's limit.
_OPPOSITE = math.acos(0.9995)


def combined(stack: Stack, coefficients: Sequence[float] | Array) -> Any:
    """Σ cᵢ wᵢ Δᵢ."""
    weights = [float(c) * w for c, w in zip(coefficients, stack.weights, strict=True)]
    return exact(replace(stack, weights=weights))


def gram(values: Sequence[Any]) -> Array:
    """Inner products of the values' differences from "no change", [T, T]."""
    total: Array = np.zeros((len(values), len(values)))
    if isinstance(values[0], Lora):
        columns = [list(column) for column in zip(*(v.blocks for v in values), strict=True)]
        if any(value.bias is not None for value in values):
            none = LowRank((values[0].geometry.outputs, 1))
            columns.append([value.bias or none for value in values])
        for column in columns:
            total += _inner_products(column)
        return total
    if isinstance(values[0], FullDelta):
        for pieces in zip(*(value.slabs() for value in values), strict=True):
            rows = np.stack([part for _, part in pieces])
            total += rows @ rows.T
        return total
    for i, first in enumerate(values):
        total[i, i:] = total[i:, i] = [first.inner(second) for second in values[i:]]
    return total


def _inner_products(products: Sequence[LowRank]) -> Array:
    whole = reduce(add, products)
    if not whole.rank:
        return np.zeros((len(products), len(products)))
    terms = whole.grams.weighted()
    owner = np.repeat(np.eye(len(products)), [product.rank for product in products], axis=0)
    found: Array = owner.T @ terms @ owner
    if (np.diagonal(found) < _CANCELLATION * (owner.T @ np.diagonal(terms))).any():
        return _inner_products([_orthogonal(product) for product in products])
    return found


def _orthogonal(product: LowRank) -> LowRank:
    """The same matrix as a sum of orthogonal terms, in which nothing cancels."""
    found = product.decomposed()
    rank = int(np.count_nonzero(found.values))
    part = Part(Stored.of(found.factor_a(rank)), Stored.of(found.factor_b(rank)))
    return LowRank(product.shape, (part,) if rank else ())


def cosines(products: Array) -> tuple[Array, Array]:
    """The norms, [T], and the cosines between the vectors with these inner products, [T, T]; zero
    where one of them is zero.
    """
    norms = np.sqrt(np.maximum(np.diagonal(products), 0.0))
    lengths = np.outer(norms, norms)
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return norms, np.clip(found, -1.0, 1.0)


def arc(cosine: Array, t: float) -> tuple[Array, Array]:
    """sin((1 − t)θ) / sin θ and sin(tθ) / sin θ; 1 − t and t where the directions are the same or
    opposite.
    """
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    line = (angle < _SAME) | (angle > np.pi - _OPPOSITE)
    sine = np.where(line, 1.0, np.sin(angle))
    return (
        np.where(line, 1 - t, np.sin((1 - t) * angle) / sine),
        np.where(line, t, np.sin(t * angle) / sine),
    )


def mean_on_sphere(stack: Stack, steps: int, tolerance: float) -> Any:
    """The weighted Fréchet mean of the directions wᵢ/|wᵢ| Δᵢ/‖Δᵢ‖ after `steps`, of norm
    Σ|wᵢ|‖Δᵢ‖; Σ wᵢ Δᵢ where the directions cancel. A zero has no direction and no part in the mean.

    It starts from the normalised mean of the unit vectors, and each step goes to the mean of the
    logarithms there (Karcher 1977), until that is shorter than `tolerance`.
    """
    weights = np.asarray(stack.weights)
    signs = np.sign(weights)
    norms, cosine = cosines(gram(stack.values) * np.outer(signs, signs))
    sizes = np.abs(weights) * norms
    shares = np.where(sizes > 0, np.abs(weights), 0.0)
    if not sizes.any():
        return exact(stack)
    shares /= shares.sum()
    length = _length(shares, cosine)
    if length < _OPPOSITE / 2:
        return exact(stack)
    mean: Array = shares / length  # in coordinates of the unit vectors
    for _ in range(steps):
        step = _logarithms(mean, cosine, shares)
        length = _length(step, cosine)
        if length <= tolerance:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * step
        mean /= _length(mean, cosine)
    of_unit = np.divide(mean, sizes, out=np.zeros_like(mean), where=sizes > 0)
    return combined(stack, sizes.sum() * of_unit)


def _logarithms(mean: Array, cosine: Array, shares: Array) -> Array:
    """Σ sᵢ log uᵢ at the mean, in coordinates of the u: what is opposite to it has no logarithm."""
    along = np.clip(cosine @ mean, -1.0, 1.0)
    angle = np.arccos(along)
    far = angle > np.pi - _OPPOSITE
    flat = far | (angle < _SAME)
    factor = np.where(flat, 1.0, angle) / np.where(flat, 1.0, np.sin(angle))
    factor = np.where(far, 0.0, factor) * shares
    step: Array = factor - (factor @ along) * mean
    return step


def _length(coordinates: Array, cosine: Array) -> float:
    return math.sqrt(max(float(coordinates @ cosine @ coordinates), 0.0))


def rows_scaled(block: LowRank, factors: Array) -> LowRank:
    """diag(factors) B A: rows of B are scaled, and each part keeps its A."""
    parts = (
        Part(part.a, Stored.of(factors[:, None] * part.b.widen()), part.scale)
        for part in block.parts
    )
    return LowRank(block.shape, tuple(parts))
