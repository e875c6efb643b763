"""What methods on single entries compute, written from their formulas on dense float64 arrays.

Arrays are those of one tensor of each operand, weights applied. Nothing here is shared with pemath,
but for the random numbers: a mask is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pemath.formats.floats import Array

Mask = NDArray[np.bool_]


def largest(sizes: Array, share: float) -> Mask:
    """As many as the share says, and those that equal the last of them."""
    descending = sorted(sizes.ravel().tolist(), reverse=True)
    return sizes >= descending[max(1, round(share * sizes.size)) - 1]


def trim(x: Array, density: float) -> Array:
    return np.where(largest(np.abs(x), density), x, 0.0)


def magnitude_prune(xs: Sequence[Array], density: float = 0.2) -> Array:
    return sum((trim(x, density) for x in xs), np.zeros(xs[0].shape))


def elect(xs: Sequence[Array], method: str = "total", merge: str = "mean") -> Array:
    """Entry by entry."""
    found = np.zeros(xs[0].shape)
    for index in np.ndindex(*xs[0].shape):
        entries = [float(x[index]) for x in xs]
        votes = entries if method == "total" else [float(np.sign(e)) for e in entries]
        sign = np.sign(sum(votes))
        agreeing = [e for e in entries if sign and np.sign(e) == sign]
        if agreeing:
            found[index] = sum(agreeing) / (len(agreeing) if merge == "mean" else 1)
    return found


def ties(
    xs: Sequence[Array], density: float = 0.2, method: str = "total", merge: str = "mean"
) -> Array:
    return elect([trim(x, density) for x in xs], method, merge)


def breadcrumbs(xs: Sequence[Array], density: float = 0.143, gamma: float = 0.007) -> Array:
    total = np.zeros(xs[0].shape)
    for x in xs:
        descending = sorted(np.abs(x).ravel().tolist(), reverse=True)
        dropped = round(gamma * x.size)
        kept = min(max(1, round(density * x.size)), x.size - dropped)
        between = descending[dropped : dropped + kept]
        total += np.where((np.abs(x) <= between[0]) & (np.abs(x) >= between[-1]), x, 0.0)
    return total


def consensus(xs: Sequence[Array], k: int = 2, tall_mask_lambda: float = 0.4) -> Array:
    tau = sum(xs, np.zeros(xs[0].shape))
    wanted = sum((np.abs(x) >= tall_mask_lambda * np.abs(tau - x)).astype(int) for x in xs)
    return np.where(wanted >= k, tau, 0.0)


def sce(xs: Sequence[Array], select_topk: float = 1.0) -> Array:
    kept = largest(np.var(np.stack(xs), axis=0), select_topk)
    chosen = [np.where(kept, x, 0.0) for x in xs]
    energies = [float((x**2).sum()) for x in chosen]
    found = np.zeros(xs[0].shape)
    for index in np.ndindex(*found.shape):
        entries = [float(x[index]) for x in chosen]
        sign = np.sign(sum(entries))
        agreeing = [(e, w) for e, w in zip(entries, energies, strict=True) if e * sign > 0]
        if agreeing:
            found[index] = sum(e * w for e, w in agreeing) / sum(w for _, w in agreeing)
    return found


def chances(x: Array, density: float, epsilon: float) -> Array:
    """MAGPRUNE's probability of keeping each entry of the rows of x, in steps of 1/65536."""
    found = np.empty(x.shape)
    for row, values in enumerate(np.abs(x)):
        for column, value in enumerate(values):
            share = (np.sum(values < value) + 0.5 * np.sum(values == value)) / len(values)
            found[row, column] = density + epsilon * (share - 0.5)
    return np.maximum(np.rint(found * 65536), 1) / 65536
