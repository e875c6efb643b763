"""The magnitude that keeps a given number of a tensor's entries, found while they stream by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pemath.formats.floats import Array
from pemath.methods._dense import ALL, Entries

Magnitude = Callable[[slice, slice], Array]
"""magnitude(rows, columns): non-negative numbers, in an array that is the caller's."""

# So many entries are looked at all together.
_FEW = 1 << 18
# Rows and columns that a sample takes, and how many of their crossings are sorted.
_LINES = 2048
_SORTED = 1 << 17
# Half the width of the bracket, in standard errors of a share that rows and columns vary in.
_MARGINS = (1.5, 4.0, math.inf)


def kept_count(share: float, size: int) -> int:
    """How many of `size` entries the share is: the nearest whole number, but at least one."""
    return min(size, max(1, round(share * size)))


def thresholds(entries: Entries, density: float) -> list[float]:
    """For each operand the magnitude that the share `density` of its entries has at least."""
    count = kept_count(density, entries.shape[0] * entries.shape[1])
    operands = range(len(entries.readers))
    return [nth_largest(entries, magnitudes(entries, i), [count])[0] for i in operands]


def magnitudes(entries: Entries, operand: int) -> Magnitude:
    """The absolute values of one operand's entries."""
    read = entries.readers[operand]

    def magnitude(rows: slice, columns: slice) -> Array:
        block = read(rows, columns)
        return np.abs(block, out=block)

    return magnitude


def nth_largest(entries: Entries, magnitude: Magnitude, places: Sequence[int]) -> list[float]:
    """The magnitudes at `places` of all in descending order, the first being 1.

    Exact, so that `magnitude >= found` is true of as many entries as the place says, and of those
    besides that equal the last of them. A sample gives a bracket for each place, one pass counts
    what lies above it and sorts what lies inside; where the sample has misled, wider ones follow.
    """
    outputs, inputs = entries.shape
    if outputs * inputs == 0:
        return [0.0] * len(places)
    if outputs * inputs <= _FEW:
        whole = np.concatenate([magnitude(rows, ALL).ravel() for rows in entries.blocks()])
        return [_nth(whole, place) for place in places]
    sample = _sample(entries, magnitude)
    found: dict[int, float] = {}
    for margin in _MARGINS:
        missing = [place for place in dict.fromkeys(places) if place not in found]
        if missing:
            brackets = [_bracket(sample, entries, place, margin) for place in missing]
            found |= _within(entries, magnitude, dict(zip(missing, brackets, strict=True)))
    return [found[place] for place in places]


def _sample(entries: Entries, magnitude: Magnitude) -> Array:
    """Sorted magnitudes at the crossings of evenly spaced rows and columns."""
    down, across = (-(-length // _LINES) for length in entries.shape)
    columns = slice(across // 2, None, across)
    crossings = -(-entries.shape[0] // down) * (entries.shape[1] // across)
    thinning = max(1, -(-crossings // _SORTED))
    found = []
    for rows in entries.blocks():
        first = -(-rows.start // down) * down
        if first < rows.stop:
            crossing = magnitude(slice(first, rows.stop, down), columns).ravel()
            found.append(crossing[::thinning].copy())
    return np.sort(np.concatenate(found))


def _bracket(sample: Array, entries: Entries, place: int, margin: float) -> tuple[float, float]:
    outputs, inputs = entries.shape
    share = place / (outputs * inputs)
    spread = 1 / min(outputs, _LINES) + 1 / min(inputs, _LINES)
    error = margin * math.sqrt(share * (1 - share) * spread) + 4 / len(sample)
    low, high = (len(sample) * (1 - share - shift) for shift in (error, -error))
    return (
        float(sample[int(low)]) if low >= 0 else -1.0,
        float(sample[math.ceil(high)]) if high < len(sample) - 1 else math.inf,
    )


def _within(
    entries: Entries, magnitude: Magnitude, brackets: dict[int, tuple[float, float]]
) -> dict[int, float]:
    """The magnitudes at those places that lie in their brackets."""
    above, among = dict.fromkeys(brackets, 0), dict.fromkeys(brackets, 0)
    inside: dict[int, list[Array]] = {place: [] for place in brackets}
    for rows in entries.blocks():
        block = magnitude(rows, ALL)
        for place, (low, high) in brackets.items():
            over, within = block > high, block >= low
            np.not_equal(within, over, out=within)
            above[place] += int(np.count_nonzero(over))
            among[place] += int(np.count_nonzero(within))
            if low < high:  # else all of them are equal, and may be many
                inside[place].append(block[within])
    return {
        place: _nth(np.concatenate(inside[place]), place - above[place]) if low < high else low
        for place, (low, high) in brackets.items()
        if above[place] < place <= above[place] + among[place]
    }


def _nth(values: Array, place: int) -> float:
    """The `place`-th largest."""
    return float(np.partition(values, len(values) - place)[len(values) - place])
