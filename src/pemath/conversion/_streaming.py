"""Parameters streamed into a file by rows, and what rounding them costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from pemath.composition.certificate import Certificate, SiteReport
from pemath.conversion._deltas import Delta, Rows
from pemath.errors import NonFiniteValue, OutOfRange
from pemath.formats.floats import FLOAT_TYPES, FloatType, Stored, narrow, widen
from pemath.formats.safetensors import TensorWriter
from pemath.names import display
from pemath.threads import Progress, on_threads


def write_delta(
    writer: TensorWriter, tensor: str, delta: Delta, dtype: FloatType, onto: Stored | None = None
) -> SiteReport:
    """Write the delta into `tensor`, or the weight `onto` with the delta added to it.

    The report has the norms of the delta and of (stored - exact).
    Raises: NonFiniteValue, OutOfRange.
    """
    width = delta.matrix_shape[1]
    off = size = 0.0
    flat = None if onto is None else onto.flat()
    for place, rows in delta.blocks():
        size += float(np.vdot(rows, rows))
        if flat is not None:
            exact = flat[place.start * width : place.stop * width].widen().reshape(rows.shape)
            exact += rows
        else:
            exact = rows
        raw = narrow(exact, dtype)
        lost = widen(raw, dtype)
        lost -= exact
        off += float(np.vdot(lost, lost))
        writer.write(tensor, raw, place.start * width * dtype.size)
    _check(delta.parameter, off, size, dtype)
    return SiteReport(0, math.sqrt(off), math.sqrt(size))


def measured(delta: Delta, stored: Rows) -> SiteReport:
    """How far `stored` is from the delta, by rows; the rank is left to the caller."""
    off = size = 0.0
    for place, rows in delta.blocks():
        size += float(np.vdot(rows, rows))
        lost = rows - stored(place.start, place.stop)
        off += float(np.vdot(lost, lost))
    _check(delta.parameter, off, size, FLOAT_TYPES["F64"])
    return SiteReport(0, math.sqrt(off), math.sqrt(size))


def _check(parameter: str, off: float, size: float, dtype: FloatType) -> None:
    if not math.isfinite(size):
        raise not_finite(parameter)
    if not math.isfinite(off):
        raise OutOfRange(
            f"the result does not fit into {dtype.name}",
            where=f"parameter `{display(parameter)}`",
            hint="a wider type holds it: --dtype, or for a merge a base that is stored in one",
        )


def norm(delta: Delta) -> float:
    """Frobenius norm of the delta, by rows."""
    size = 0.0
    for _, rows in delta.blocks():
        size += float(np.vdot(rows, rows))
    return math.sqrt(size)


def not_finite(parameter: str) -> NonFiniteValue:
    """The error for a change that is NaN or infinite."""
    return NonFiniteValue(
        "the change is not finite",
        where=f"parameter `{display(parameter)}`",
        hint="an adapter or base weight holds NaN or infinity, or values too large to multiply",
    )


def certified(
    names: Iterable[str], one: Callable[[str], SiteReport], progress: Progress
) -> Certificate:
    """The reports of all names, made on threads and given in their order."""
    ordered = list(names)
    reports: dict[str, SiteReport] = {}

    def work(name: str) -> None:
        reports[name] = one(name)

    on_threads(work, ordered, what="converting", progress=progress)
    return Certificate({name: reports[name] for name in ordered})
