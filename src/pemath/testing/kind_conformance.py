"""`check_kind`: what every kind of PEM has to hold to, whoever wrote it."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pemath.errors import NonFiniteValue, PemathError, ShapeMismatch
from pemath.formats.floats import FLOAT_TYPES, Array, Raw
from pemath.kinds import Kind, kinds
from pemath.references import CONFIG, WEIGHTS
from pemath.testing import _arrays as arrays
from pemath.testing import _conformance as conformance
from pemath.testing._kind_folders import Written, has_folders, read, spoil, write
from pemath.testing.strategies import Family, families

_DRAWS = 48
_STORED = 8
_SCALARS = (2.0, -0.7, 1 / 3, 1e-4, -3e3)
# Of the sum of the norms of all that is added up.
_CLOSE = 1e-10
# What float32 products may cost a norm, and what is lost where a difference nearly cancels.
_MEASURED = 1e-5
_METHODS = ("__add__", "__mul__", "delta_weight", "is_finite", "norm", "inner", "distance", "gap",
            "describe")  # fmt: skip


def check_kind(kind: str | Kind, *, known_failures: Mapping[str, str] | None = None) -> None:
    """Check a kind of PEM, and report everything that is wrong with it at once.

    `kind` is a registered one by name, or a `Kind`. Its values are drawn from `families(name, 3)`,
    so a kind of one's own needs `register_families` first; the dense arrays of the family are what
    the kind is judged by. `known_failures` names checks that the kind cannot pass, each with the
    reason: these must fail, so that the list stays true.

    Raises: ConformanceError, an AssertionError whose `failures` say which check, what was found and
    what is expected; LookupError if there is no such kind or no strategy for it.
    """
    found = kinds()[kind] if isinstance(kind, str) else kind
    drawn = conformance.drawn(families(found.name, 3), _DRAWS)
    with tempfile.TemporaryDirectory() as scratch:
        subject = Subject(found, drawn, Path(scratch))
        conformance.run_checks(f"kind `{found.name}`", CHECKS, subject, known_failures or {})


@dataclass(frozen=True, eq=False)
class Subject:
    """A kind, families of three values at one site, and a folder to write in."""

    kind: Kind
    families: Sequence[Family]
    scratch: Path

    def sums(self, family: Family) -> float:
        """The norms of a family's deltas, added up."""
        return sum(float(np.linalg.norm(family.delta(value))) for value in family.values)

    @cached_property
    def written(self) -> list[Written]:
        """Values in every storage type; none of a kind that no folder holds by itself."""
        found = []
        for index, family in enumerate(self.families[:: max(1, len(self.families) // _STORED)]):
            for dtype in FLOAT_TYPES.values() if has_folders(self.kind) else ():
                folder = self.scratch / f"{index}-{dtype.name}"
                a, b, _ = family.values
                value = a if index % 2 == 0 else a + b * -0.5
                kept = write(self.kind, value, dtype, folder)
                found.append(Written(family, value, dtype, folder, kept))
        return found


def _shown(family: Family, *indices: int) -> str:
    return "; ".join(family.values[index].describe() for index in indices or range(3))


# ----------------------------------------------------------------------------------- what it is


def says_what_it_is(subject: Subject) -> Iterator[str]:
    """A name that is an identifier, a summary of one line, a value class with all operations."""
    kind = subject.kind
    if not kind.name.isidentifier():
        yield f"name `{kind.name}`"
    if not kind.summary or "\n" in kind.summary or len(kind.summary) > 120:
        yield f"summary `{kind.summary}`"
    for name in _METHODS:
        if not callable(getattr(kind.value, name, None)):
            yield f"no `{name}` in {kind.value.__name__}"


def values_are_frozen(subject: Subject) -> Iterator[str]:
    """A frozen dataclass: no attribute can be assigned."""
    value = subject.families[0].values[0]
    if not isinstance(value, subject.kind.value):
        yield f"the strategy draws a {type(value).__name__}"
    if not dataclasses.is_dataclass(value):
        yield f"{type(value).__name__} is no dataclass"
        return
    for field in dataclasses.fields(value):
        try:
            setattr(value, field.name, getattr(value, field.name))
        except AttributeError:
            continue
        yield f"`{field.name}` can be assigned"


def describes_itself(subject: Subject) -> Iterator[str]:
    """describe() is one short line, and reads no tensor."""
    for family in subject.families:
        text = arrays.sealed(family.values[0]).describe()
        if not text or "\n" in text or len(text) > 80:
            yield repr(text)


# -------------------------------------------------------------------------------- vector space


def sum_is_the_sum_of_deltas(subject: Subject) -> Iterator[str]:
    """a + b changes what a and b change together."""
    for family in subject.families:
        a, b, _ = family.values
        wanted = family.delta(a) + family.delta(b)
        yield from _equal(subject, family, a + b, wanted)


def addition_is_commutative(subject: Subject) -> Iterator[str]:
    """a + b = b + a."""
    for family in subject.families:
        a, b, _ = family.values
        yield from _equal(subject, family, a + b, family.delta(b + a))


def addition_is_associative(subject: Subject) -> Iterator[str]:
    """(a + b) + c = a + (b + c)."""
    for family in subject.families:
        a, b, c = family.values
        yield from _equal(subject, family, (a + b) + c, family.delta(a + (b + c)))


def zero_changes_nothing(subject: Subject) -> Iterator[str]:
    """zero_like(a) has delta 0 and norm 0, and a + zero = zero + a = a; 0 a is zero as well."""
    for family in subject.families:
        a = family.values[0]
        for name, zero in (("zero_like", subject.kind.zero_like(a)), ("a * 0", a * 0.0)):
            if family.delta(zero).any() or zero.norm() != 0.0:
                yield f"{name} of {a.describe()} has norm {zero.norm():.3g}"
                continue
            for total in (a + zero, zero + a):
                yield from _equal(subject, family, total, family.delta(a))


def negative_cancels(subject: Subject) -> Iterator[str]:
    """a + (-1) a = 0."""
    for family in subject.families:
        a = family.values[0]
        for total in (a + a * -1.0, a * -1.0 + a):
            yield from _equal(subject, family, total, np.zeros_like(family.delta(a)))


def scaling_scales_the_delta(subject: Subject) -> Iterator[str]:
    """c a changes c times what a changes, and 1 a = a."""
    for family in subject.families:
        a = family.values[0]
        for c in (1.0, *_SCALARS):
            yield from _equal(subject, family, a * c, c * family.delta(a), abs(c))


def scaling_is_associative(subject: Subject) -> Iterator[str]:
    """c (d a) = (c d) a."""
    for family in subject.families:
        a = family.values[0]
        for c, d in pairwise(_SCALARS):
            yield from _equal(subject, family, a * d * c, family.delta(a * (c * d)), abs(c * d))


def scaling_distributes(subject: Subject) -> Iterator[str]:
    """c (a + b) = c a + c b, and (c + d) a = c a + d a."""
    for family in subject.families:
        a, b, _ = family.values
        for c, d in pairwise(_SCALARS):
            size = abs(c) + abs(d)
            yield from _equal(subject, family, (a + b) * c, family.delta(a * c + b * c), size)
            yield from _equal(subject, family, a * (c + d), family.delta(a * c + a * d), size)


def _equal(
    subject: Subject, family: Family, found: Any, wanted: Array, factor: float = 1.0
) -> Iterator[str]:
    size = subject.sums(family) * max(factor, 1.0)
    if not isinstance(found, subject.kind.value):
        yield f"a {type(found).__name__} for {_shown(family)}"
    elif wrong := arrays.off(family.delta(found), wanted, size, _CLOSE):
        yield f"{wrong}: {_shown(family)}"


def operands_stay_as_they_are(subject: Subject) -> Iterator[str]:
    """No operation changes a tensor of its operands, nor gives one away to be changed."""
    for family in subject.families:
        values = arrays.copied(family.values)
        before = [array.tobytes() for array in arrays.arrays_of(values)]
        a, b, _ = values
        total = (a * 2.0 + b) * -0.5 + b
        total.norm(), a.inner(b), a.distance(b), a.gap(b), total.distance(a), a.is_finite()
        family.delta(total).fill(7.0)
        family.delta(a).fill(7.0)
        if before != [array.tobytes() for array in arrays.arrays_of(values)]:
            yield f"changed: {_shown(family)}"


def arithmetic_reads_no_tensor(subject: Subject) -> Iterator[str]:
    """+, * and zero_like are lazy."""
    for family in subject.families:
        a, b, _ = arrays.sealed(family.values)
        try:
            subject.kind.zero_like(a) + a * 2.0 + b * 0.0 + b
        except arrays.TensorRead:
            yield f"a tensor was read: {_shown(family, 0, 1)}"


def other_shapes_are_refused(subject: Subject) -> Iterator[str]:
    """The sum of values of different sites is a ShapeMismatch."""
    first = subject.families[0]
    size = first.deviation(first.values[0]).shape
    for family in subject.families:
        if family.deviation(family.values[0]).shape == size:
            continue
        try:
            first.values[0] + family.values[0]
        except ShapeMismatch:
            continue
        yield f"{first.values[0].describe()} + {family.values[0].describe()} is taken"


# --------------------------------------------------------------------------------- measurements


def norm_is_that_of_the_deviation(subject: Subject) -> Iterator[str]:
    """norm() is the Frobenius norm of the difference from "no change"."""
    for family in subject.families:
        a, b, _ = family.values
        for value in (a, b, a * -3.0):
            wanted = float(np.linalg.norm(family.deviation(value)))
            if not math.isclose(value.norm(), wanted, rel_tol=_MEASURED, abs_tol=0.0):
                yield f"{value.norm():.6g} for {wanted:.6g}: {value.describe()}"


def inner_is_that_of_the_deviations(subject: Subject) -> Iterator[str]:
    """inner(a, b) is the sum of elementwise products, and symmetric."""
    for family in subject.families:
        a, b, _ = family.values
        x, y = family.deviation(a), family.deviation(b)
        allowed = _CLOSE * float(np.linalg.norm(x) * np.linalg.norm(y))
        for found in (a.inner(b), b.inner(a)):
            if not abs(found - float(x @ y)) <= allowed:
                yield f"{found:.6g} for {float(x @ y):.6g}: {_shown(family, 0, 1)}"


def distance_is_that_of_the_difference(subject: Subject) -> Iterator[str]:
    """distance(a, b) is the norm of a - b; zero for a itself."""
    for family in subject.families:
        a, b, _ = family.values
        yield from _distance(family, a, b, a.distance(b))
        if a.distance(a) != 0.0:
            yield f"{a.distance(a):.3g} from itself: {a.describe()}"


def gap_measures_distance_and_norm(subject: Subject) -> Iterator[str]:
    """gap(a, b) is the distance and the norm of b, which may be NaN where both are the same."""
    for family in subject.families:
        a, b, _ = family.values
        distance, norm = a.gap(b)
        yield from _distance(family, a, b, distance)
        wanted = float(np.linalg.norm(family.deviation(b)))
        same = math.isnan(norm) and distance == 0.0
        if not same and not math.isclose(norm, wanted, rel_tol=_MEASURED, abs_tol=0.0):
            yield f"norm {norm:.6g} for {wanted:.6g}: {_shown(family, 0, 1)}"


def _distance(family: Family, a: Any, b: Any, found: float) -> Iterator[str]:
    x, y = family.deviation(a), family.deviation(b)
    wanted = float(np.linalg.norm(x - y))
    # Of values that nearly cancel float64 leaves this much.
    rounding = 1e-13 * float(np.linalg.norm(x) + np.linalg.norm(y))
    if not math.isclose(found, wanted, rel_tol=_MEASURED, abs_tol=rounding):
        yield f"{found:.6g} for {wanted:.6g}: {_shown(family, 0, 1)}"


def finds_what_is_not_finite(subject: Subject) -> Iterator[str]:
    """is_finite() is true of finite numbers, and false where any tensor holds NaN or infinity."""
    for family in subject.families:
        a = family.values[0]
        if not a.is_finite():
            yield f"false of {a.describe()}"
        for index, array in enumerate(arrays.arrays_of(a)):
            for bad in (math.nan, math.inf) if _holds_floats(array) else ():
                if _spoilt(a, index, bad).is_finite():
                    yield f"true with {bad} in tensor {index} of {a.describe()}"


def _holds_floats(array: Raw) -> bool:
    """The carrier of bfloat16 is uint16."""
    return array.size > 0 and (array.dtype.kind == "f" or array.dtype == np.uint16)


def _spoilt(value: Any, which: int, bad: float) -> Any:
    """The value with `bad` in the first place of one of its arrays."""
    seen = iter(range(1 << 30))

    def change(array: Raw) -> Raw:
        if next(seen) != which:
            return array
        bits = 0x7FC0 if math.isnan(bad) else 0x7F80
        new = array.copy()
        new.reshape(-1)[0] = bits if new.dtype == np.uint16 else bad
        return new

    return arrays.with_arrays(value, change)


# -------------------------------------------------------------------------------------- folders


def folder_gives_back_what_was_stored(subject: Subject) -> Iterator[str]:
    """What is read from a folder is what store() said, and the value up to rounding."""
    for written in subject.written:
        found = read(subject.kind, written.folder)
        opened = found.sites.get(conformance.site_of(written.value))
        if len(found.sites) != 1 or not isinstance(opened, subject.kind.value):
            yield f"sites {list(found.sites)} of {written}"
            continue
        delta, size = written.family.delta, subject.sums(written.family)
        if wrong := arrays.off(delta(opened), delta(written.kept), size, 1e-14):
            yield f"store() promised another value, {wrong}: {written}"
        # What is stored may be larger than what it changes, as the ones of (IA)³ are.
        allowed = 16 * written.dtype.roundoff
        if wrong := arrays.off(delta(opened), delta(written.value), size + 8, allowed):
            yield f"{wrong}: {written}"


def stored_values_are_stored_alike(subject: Subject) -> Iterator[str]:
    """What was read from a folder goes out as it came in: the same bytes and the same config."""
    for written in subject.written:
        first = read(subject.kind, written.folder)
        again = written.folder.with_name(f"{written.folder.name}-again")
        value = next(iter(first.sites.values()))
        write(subject.kind, value, written.dtype, again, operand=first)
        for name in (WEIGHTS, CONFIG):
            if (written.folder / name).read_bytes() != (again / name).read_bytes():
                yield f"another {name}: {written}"


def opening_reads_no_tensor(subject: Subject) -> Iterator[str]:
    """A folder with NaN opens; its values say that they are not finite, and its file which one."""
    for written in subject.written:
        folder = written.folder.with_name(f"{written.folder.name}-nan")
        shutil.copytree(written.folder, folder)
        name = spoil(folder / WEIGHTS, written.dtype)
        opened = read(subject.kind, folder)
        if next(iter(opened.sites.values())).is_finite():
            yield f"NaN in {name} is taken for a number: {written}"
        try:
            opened.folder.tensors.refuse_non_finite(name)
        except NonFiniteValue:
            continue
        yield f"NaN in {name} is not refused"


def strange_tensors_are_refused(subject: Subject) -> Iterator[str]:
    """A tensor that belongs to no site is a PemathError, not ignored."""
    for written in subject.written[::4]:
        folder = written.folder.with_name(f"{written.folder.name}-strange")
        strange = "base_model.model.x.lora_Z"
        write(subject.kind, written.value, written.dtype, folder, strange=strange)
        try:
            found = read(subject.kind, folder)
        except PemathError:
            continue
        if not found.obstacles and "x.lora_Z" not in found.sites:
            yield f"a tensor `x.lora_Z` beside {written} is ignored"


CHECKS: tuple[conformance.Check[Subject], ...] = (
    says_what_it_is,
    values_are_frozen,
    describes_itself,
    sum_is_the_sum_of_deltas,
    addition_is_commutative,
    addition_is_associative,
    zero_changes_nothing,
    negative_cancels,
    scaling_scales_the_delta,
    scaling_is_associative,
    scaling_distributes,
    operands_stay_as_they_are,
    arithmetic_reads_no_tensor,
    other_shapes_are_refused,
    norm_is_that_of_the_deviation,
    inner_is_that_of_the_deviations,
    distance_is_that_of_the_difference,
    gap_measures_distance_and_norm,
    finds_what_is_not_finite,
    folder_gives_back_what_was_stored,
    stored_values_are_stored_alike,
    opening_reads_no_tensor,
    strange_tensors_are_refused,
)
