"""Cutting rows: held-out parts, and the two skewed halves of the paper's first experiment."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain

from pemath.errors import RequestError
from pemath.lab.data.rows import Row, Task, order_key
from pemath.names import display

Rows = tuple[Row, ...]


def skewed_split(
    rows: Sequence[Row], task: Task, seed: int, share: float = 0.8
) -> tuple[Rows, Rows]:
    """Two halves of different distributions (arXiv 2306.14870): every row is in exactly one.

    Of n rows, n₀ are in group 0 (`in_group_zero`: label 0, or a score below the median). The
    first half has floor(n/2) rows: the first floor(share·n₀) rows of group 0, filled up with the
    first rows of all other labels, in the given order. The second half has the rest.

    Where floor(share·n₀) is floor(n/2) or more (group 0 above 62.5 % at share 0.8, as in QQP), that
    rule has no solution, or one with a half of a single label. There it is mirrored: the second
    half takes the last ceil(share·n₁) of the n₁ other rows and is filled up with group 0. Either
    way the first half leans to group 0, and both hold both groups if each has five rows.

    Each half is then shuffled, keyed by `seed`, so that `head` of it keeps its distribution.
    """
    if not 0.5 <= share <= 1:
        raise RequestError("the share must lie between 0.5 and 1", found=share)
    rows = tuple(rows)
    belongs = in_group_zero(rows, task)
    zero = [row for row in rows if belongs(row)]
    other = [row for row in rows if not belongs(row)]
    half, exact = len(rows) // 2, Fraction(str(share))
    take = int(exact * len(zero))
    if take >= half:
        take = half - int((1 - exact) * len(other))
    fill = half - take
    first = zero[:take] + other[:fill]
    second = zero[take:] + other[fill:]
    return _shuffled(first, seed), _shuffled(second, seed)


def in_group_zero(rows: Sequence[Row], task: Task) -> Callable[[Row], bool]:
    """Which rows the first half collects: label 0, or in a regression scores under the median of
    `rows` (up to the median where nothing is under it).
    """
    if not task.is_regression:
        return lambda row: row.label == 0
    if not rows:
        return lambda row: False
    scores = [row.label for row in rows]
    cut = statistics.median(scores)
    if min(scores) == cut:
        return lambda row: row.label <= cut
    return lambda row: row.label < cut


def share_of(rows: Sequence[Row], belongs: Callable[[Row], bool]) -> float:
    """The share of `rows` that belong; 0 for no rows."""
    return sum(map(belongs, rows)) / len(rows) if rows else 0.0


def head(rows: Sequence[Row], count: int | None) -> Rows:
    """The first `count` rows, or all: of a shuffled half they have the half's distribution."""
    return tuple(rows if count is None else rows[:count])


def without(rows: Iterable[Row], held_out: Iterable[Row]) -> Rows:
    """The rows whose texts do not occur in `held_out`, in order."""
    taken = {row.identity for row in held_out}
    return tuple(row for row in rows if row.identity not in taken)


def sample(rows: Sequence[Row], count: int | None) -> Rows:
    """At most `count` rows, chosen by the fixed hash, in the given order."""
    if count is None or count >= len(rows):
        return tuple(rows)
    return _kept(rows, sorted(range(len(rows)), key=lambda i: order_key(rows[i]))[:count])


def cut_off(rows: Sequence[Row], task: Task, share: float) -> tuple[Rows, Rows]:
    """Rows and held-out rows: `share` of every label (of all rows in a regression)."""
    chosen = [
        i
        for group in _groups(rows, task)
        for i in group[: round(Fraction(str(share)) * len(group))]
    ]
    held_out = _kept(rows, chosen)
    return without(rows, held_out), held_out


def hold_out(rows: Sequence[Row], task: Task, count: int) -> tuple[Rows, Rows]:
    """Rows and `count` held-out rows of different texts, as many of each label as can be.

    No label gives more than half of its rows. Raises RequestError where `rows` are too few.
    """
    groups = [_distinct(rows, group) for group in _groups(rows, task)]
    room = [len(group) // 2 for group in groups]
    if count > sum(room):
        raise RequestError(
            f"task `{display(task.name)}` has too few rows to hold out {count} for validation",
            found=f"{len(rows)} rows to train on",
            expected=f"at most {sum(room)} for validation",
            hint="lower rows.validation, or give a validation file",
        )
    quota = _even(room, count)
    held_out = _kept(
        rows, list(chain.from_iterable(g[:n] for g, n in zip(groups, quota, strict=True)))
    )
    return without(rows, held_out), held_out


def _groups(rows: Sequence[Row], task: Task) -> list[list[int]]:
    """The positions of every label's rows, in the fixed order."""
    found: dict[int | float, list[int]] = defaultdict(list)
    for i in sorted(range(len(rows)), key=lambda i: order_key(rows[i])):
        found[0 if task.is_regression else rows[i].label].append(i)
    return [found[label] for label in sorted(found)]


def _distinct(rows: Sequence[Row], positions: list[int]) -> list[int]:
    first = {rows[i].identity: i for i in reversed(positions)}
    return [i for i in positions if first[rows[i].identity] == i]


def _even(room: list[int], count: int) -> list[int]:
    """`count` shared out evenly, with at most `room` for each; what is left over goes to the
    first ones.
    """
    quota = [0] * len(room)
    while count > 0:
        open_ = [k for k, limit in enumerate(room) if quota[k] < limit]
        each = max(1, count // len(open_))
        for k in open_:
            step = min(each, room[k] - quota[k], count)
            quota[k] += step
            count -= step
    return quota


def _kept(rows: Sequence[Row], positions: list[int]) -> Rows:
    return tuple(rows[i] for i in sorted(positions))


def _shuffled(rows: Sequence[Row], seed: int) -> Rows:
    return tuple(sorted(rows, key=lambda row: order_key(row, f"split:{seed}")))
