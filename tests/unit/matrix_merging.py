"""What methods compute that merge matrices by their singular vectors, on dense matrices alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pemath.formats.floats import Array


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Without what is zero."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(values > 1e-12 * max(values.max(initial=0.0), 1e-300)))
    return left[:, :rank], values[:rank], right[:rank]


def ties(arrays: Sequence[Array], density: float) -> Array:
    """Entry by entry, in plain loops; what is rounding error beside the largest of all is zero."""
    floor = 1e-13 * max(float(np.linalg.norm(array)) for array in arrays)
    trimmed = []
    for array in arrays:
        flat = array.ravel()
        order = sorted(range(flat.size), key=lambda i: -abs(flat[i]))
        kept = np.zeros_like(flat)
        for i in order[: max(1, round(density * flat.size))]:
            kept[i] = flat[i] if abs(flat[i]) > floor else 0.0
        trimmed.append(kept)
    merged = np.zeros(arrays[0].size)
    for i in range(merged.size):
        entries = [kept[i] for kept in trimmed]
        total = sum(entries)
        agreeing = [e for e in entries if e * total > 0]
        if agreeing:
            merged[i] = sum(agreeing) / len(agreeing)
    return merged.reshape(arrays[0].shape)


def knots(deltas: Sequence[Array], density: float) -> Array:
    left, values, right = svd(np.concatenate(deltas, axis=1))
    parts = np.split(values[:, None] * right, len(deltas), axis=1)
    return left @ ties(parts, density)


def core(factors: Sequence[tuple[Array, Array]], deltas: Sequence[Array], density: float) -> Array:
    """`factors` are A and B, without scales."""
    left = np.linalg.svd(np.concatenate([b for _, b in factors], axis=1), full_matrices=False)[0]
    right = np.linalg.svd(np.concatenate([a for a, _ in factors]), full_matrices=False)[2]
    merged = ties([left.T @ delta @ right.T for delta in deltas], density)
    return left @ merged @ right


def orthonormal(columns: Array) -> Array:
    """X (XᵀX)^(−1/2): the nearest orthonormal columns, where they are independent."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return columns @ (vectors / np.sqrt(values)) @ vectors.T


def tsv(deltas: Sequence[Array], each: int) -> Array:
    found = [svd(delta) for delta in deltas]
    left = orthonormal(np.concatenate([u[:, :each] for u, _, _ in found], axis=1))
    right = orthonormal(np.concatenate([v[:each] for _, _, v in found]).T)
    values = np.concatenate([s[:each] for _, s, _ in found])
    return left @ np.diag(values) @ right.T


def iso_c(deltas: Sequence[Array]) -> Array:
    left, values, right = svd(sum(deltas))
    return values.mean() * left @ right


def iso_cts(deltas: Sequence[Array], common: float) -> Array:
    count = len(deltas)
    size = min(
        np.linalg.matrix_rank(np.concatenate(deltas, axis=1)),
        np.linalg.matrix_rank(np.concatenate(deltas)),
    )
    each = round((size - int(size * common)) / count)
    left, values, right = svd(sum(deltas))
    kept = size - count * each
    columns, rows, spectrum = [left[:, :kept]], [right[:kept]], [*values[:kept]]
    for delta in deltas:
        own = delta - left[:, :kept] @ (left[:, :kept].T @ delta)
        u, s, v = svd(own)
        columns.append(u[:, :each])
        rows.append(v[:each])
        spectrum += [*s[:each]]
    u = orthonormal(np.concatenate(columns, axis=1))
    v = orthonormal(np.concatenate(rows).T)
    return float(np.mean(spectrum)) * u @ v.T


def lego(
    clusters: Sequence[Sequence[tuple[Array, Array, float]]], total: float, rank: int
) -> Array:
    """From the clusters: units (a, b), and their weights."""
    merged = 0.0
    for cluster in clusters:
        weight = sum(w for _, _, w in cluster)
        a = sum(w * a for a, _, w in cluster) / weight
        b = sum(w * b for _, b, w in cluster) / weight
        lengths = [math.hypot(np.linalg.norm(a), np.linalg.norm(b)) for a, b, _ in cluster]
        wanted = sum(w * n for (_, _, w), n in zip(cluster, lengths, strict=True)) / weight
        stretch = wanted / math.hypot(np.linalg.norm(a), np.linalg.norm(b))
        merged = merged + np.outer(stretch * b, stretch * a)
    return total * math.sqrt(rank / len(clusters)) * np.asarray(merged)
