"""Dense changes brought to low rank, with how far that is from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pemath.composition.certificate import SiteReport
from pemath.conversion._deltas import Delta, low_rank_rows
from pemath.conversion._streaming import measured, not_finite
from pemath.errors import ErrorTooLarge
from pemath.formats.floats import FloatType, Stored, narrow
from pemath.lowrank import LowRank, Part
from pemath.methods._dense import factored
from pemath.names import display

_FIRST_RANK = 16


@dataclass(frozen=True)
class Limit:
    """The type to store, and the rank or the largest relative error (one of the two)."""

    dtype: FloatType
    rank: int | None
    max_error: float | None


def compressed(delta: Delta, limit: Limit) -> tuple[LowRank, SiteReport]:
    """B A [out, in] of the limit's rank, or of the smallest that is found within its error, rounded
    to its type, and the report of that.

    The factors come from a randomised decomposition, so that another rank might do as well; how far
    they are from the change is measured row by row. Raises: ErrorTooLarge, NonFiniteValue.
    """
    dtype, max_error = limit.dtype, limit.max_error
    if limit.rank is not None:
        found, _ = _factors(delta, limit.rank)
    else:
        found = _within(delta, dtype, max_error or 0.0)
    stored = LowRank(
        found.shape, tuple(Part(_rounded(p.a, dtype), _rounded(p.b, dtype)) for p in found.parts)
    )
    report = measured(delta, low_rank_rows(stored, transposed=delta.transposed))
    report = SiteReport(stored.rank, report.deviation, report.norm)
    if max_error is not None and report.error > max_error:
        raise ErrorTooLarge(
            f"the change stored in {dtype.name} is further from the exact one than allowed",
            where=f"parameter `{display(delta.parameter)}`",
            found=f"{100 * report.error:.4g} %",
            expected=f"at most {100 * max_error:.4g} %",
            hint="allow a larger error, or a wider --dtype",
        )
    return stored, report


def _within(delta: Delta, dtype: FloatType, allowed: float) -> LowRank:
    """The smallest rank within `allowed`, what rounding takes of that left aside."""
    rounding = (2 + dtype.roundoff) * dtype.roundoff
    budget = math.sqrt(max(allowed**2 - rounding**2, 0.0))
    full = min(delta.matrix_shape)
    rank = _FIRST_RANK
    while True:
        # From about an eighth of the full rank on, the whole decomposition costs no more.
        rank = full if 8 * rank > full else rank
        found, error = _factors(delta, rank)
        if error <= budget or rank == full:
            return _shortened(found, error, budget)
        rank *= 2


def _shortened(found: LowRank, error: float, budget: float) -> LowRank:
    """The leading terms that keep to the budget; they are in the order of their singular values."""
    if not found.parts:
        return found
    (part,) = found.parts
    values = (part.b.widen() ** 2).sum(0)  # the root of each singular value is on either factor
    lost = error**2
    total = float(values @ values) / (1 - lost) if lost < 1 else math.inf
    tails = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0) + lost * total
    rank = int(np.count_nonzero(tails > budget**2 * total)) if math.isfinite(total) else len(values)
    rank = max(1, min(rank, len(values)))
    short = Part(Stored.of(part.a.widen()[:rank]), Stored.of(part.b.widen()[:, :rank]))
    return LowRank(found.shape, (short,))


def _factors(delta: Delta, rank: int) -> tuple[LowRank, float]:
    """B A [out, in] within `rank`, and the share of the norm that it leaves out."""
    shape = delta.matrix_shape
    try:
        found, error = factored(shape, delta.read(), min(rank, *shape), delta.parameter)
    except np.linalg.LinAlgError:  # NaN or infinity went into it
        raise not_finite(delta.parameter) from None
    if not delta.transposed:
        return found, error
    turned = tuple(
        Part(Stored(p.b.raw.T, p.b.kind), Stored(p.a.raw.T, p.a.kind)) for p in found.parts
    )
    return LowRank(shape[::-1], turned), error


def _rounded(stored: Stored, dtype: FloatType) -> Stored:
    return Stored(np.ascontiguousarray(narrow(stored.widen(), dtype)), dtype)
