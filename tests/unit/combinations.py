"""What methods compute that weigh whole deltas, written from their formulas on dense vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pemath.formats.floats import Array

OPPOSITE = math.acos(0.9995)


def norm(x: Array) -> float:
    return math.sqrt(float(np.sum(x * x)))


def slerp(x: Array, y: Array, t: float) -> Array:
    """Along the great circle, by turning the first direction towards the second."""
    if norm(x) == 0 or norm(y) == 0:
        return (1 - t) * x + t * y
    u, v = x / norm(x), y / norm(y)
    # The half angle, from the chord: as exact for small angles as for large ones.
    angle = 2 * math.atan2(norm(u - v), norm(u + v))
    if angle < 1e-7 or angle > math.pi - OPPOSITE:
        return (1 - t) * x + t * y
    return (math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)


def slerp_rows(x: Array, y: Array, t: float) -> Array:
    return np.array([slerp(own, other, t) for own, other in zip(x, y, strict=True)])


def logarithm(m: Array, u: Array) -> Array:
    """The tangent at m that leads to u; none to what lies opposite."""
    across = u - float(np.sum(u * m)) * m
    angle = math.atan2(norm(across), float(np.sum(u * m)))
    if angle < 1e-7 or angle > math.pi - OPPOSITE:
        return 0 * u
    return angle * across / norm(across)


def exponential(m: Array, step: Array) -> Array:
    length = norm(step)
    return m if length == 0 else math.cos(length) * m + math.sin(length) * step / length


def directions(
    deltas: Sequence[Array], weights: Sequence[float]
) -> tuple[list[Array], list[float]]:
    """Unit vectors and shares of those that have a direction."""
    kept = [(d, w) for d, w in zip(deltas, weights, strict=True) if norm(d) > 0 and w]
    total = sum(abs(w) for _, w in kept)
    return [math.copysign(1, w) * d / norm(d) for d, w in kept], [abs(w) / total for _, w in kept]


def mean_norm(deltas: Sequence[Array], weights: Sequence[float]) -> float:
    return sum(abs(w) * norm(d) for d, w in zip(deltas, weights, strict=True))


def multislerp(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    units, shares = directions(deltas, weights)
    mean = sum(s * u for s, u in zip(shares, units, strict=True))
    if norm(mean) < OPPOSITE / 2:
        return sum(w * d for w, d in zip(weights, deltas, strict=True))
    mean = mean / norm(mean)
    step = sum(s * logarithm(mean, u) for s, u in zip(shares, units, strict=True))
    return mean_norm(deltas, weights) * exponential(mean, step)


def karcher(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    """By small steps down the gradient of the sum of squared angles."""
    units, shares = directions(deltas, weights)
    mean = sum(s * u for s, u in zip(shares, units, strict=True))
    mean = mean / norm(mean)
    for _ in range(2_000):
        step = sum(s * logarithm(mean, u) for s, u in zip(shares, units, strict=True))
        if norm(step) < 1e-14:
            break
        mean = exponential(mean, 0.7 * step)
    return mean_norm(deltas, weights) * mean


def model_stock(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    count, total = len(deltas), 0.0
    for i in range(count):
        for j in range(i + 1, count):
            lengths = norm(deltas[i]) * norm(deltas[j])
            inner = float(np.sum(deltas[i] * deltas[j])) * np.sign(weights[i] * weights[j])
            total += inner / lengths if lengths else 0.0
    cosine = max(total / (count * (count - 1) / 2), 0.0)
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * sum(w * d for w, d in zip(weights, deltas, strict=True))


def metagpt(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    squares = [norm(d) ** 2 for d in deltas]
    if not any(squares):
        return 0 * deltas[0]
    return sum(s / sum(squares) * w * d for s, w, d in zip(squares, weights, deltas, strict=True))
