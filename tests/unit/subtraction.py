"""What the methods of subtraction compute, written from their formulas on dense float64 arrays."""

from __future__ import annotations

import numpy as np

from pemath.formats.floats import Array


def deficient(w: Array, v: Array) -> Array:
    """The authors' way: less the projection on the bisector of the two directions, row by row."""
    result = w.copy()
    for row, (own, other) in enumerate(zip(w, v, strict=True)):
        sizes = np.linalg.norm(own), np.linalg.norm(other)
        if 0.0 in sizes:
            continue  # nothing is common, or there is nothing
        bisector = own / sizes[0] + other / sizes[1]
        if np.linalg.norm(bisector) > 1e-7:
            bisector /= np.linalg.norm(bisector)
            result[row] = own - (own @ bisector) * bisector
    return result


def orthonormal(columns: Array) -> Array:
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, values > 1e-9 * max(values.max(initial=0), 1e-300)]


def unshared(d: Array, *others: Array) -> Array:
    u = orthonormal(np.concatenate(others, axis=1))
    v = orthonormal(np.concatenate(others).T)
    return d - u @ u.T @ d @ v @ v.T


def agreed(*terms: Array) -> Array:
    positive = np.all([term > 0 for term in terms], axis=0)
    negative = np.all([term < 0 for term in terms], axis=0)
    return np.where(positive | negative, sum(terms), 0.0)


def best(matrix: Array, rank: int) -> Array:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]
