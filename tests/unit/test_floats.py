"""Storage types: widening is exact, rounding is to nearest with ties to even, from float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from pemath.formats.floats import (
    BY_NAME,
    FLOAT_TYPES,
    FloatType,
    Stored,
    common_type,
    narrow,
    widen,
)

F64, F32, F16, BF16 = (FLOAT_TYPES[code] for code in ("F64", "F32", "F16", "BF16"))
SMALL = (F16, BF16)
every_type = pytest.mark.parametrize("kind", FLOAT_TYPES.values(), ids=lambda kind: kind.name)
half_types = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.name)


def all_values(kind: FloatType) -> np.ndarray:
    """Every finite value of a 16-bit type in order."""
    raw = np.arange(1 << 16, dtype=np.uint32)
    exponent = 0x7C00 if kind is F16 else 0x7F80
    raw = raw[raw & exponent != exponent]
    if kind is BF16:
        return np.unique((raw << 16).view(np.float32).astype(np.float64))
    return np.unique(raw.astype(np.uint16).view(np.float16).astype(np.float64))


VALUES = {kind.code: all_values(kind) for kind in SMALL}


def nearest(value: float, kind: FloatType) -> float:
    """Rounding by definition, in rational arithmetic."""
    values = VALUES[kind.code]
    position = int(np.searchsorted(values, value))
    below, above = values[max(position - 1, 0)], values[min(position, len(values) - 1)]
    if value == above:
        return float(above)
    if value > values[-1] or value < values[0]:
        return overflowed(value, kind)
    down, up = Fraction(value) - Fraction(float(below)), Fraction(float(above)) - Fraction(value)
    if down != up:
        return float(below if down < up else above)
    return float(below if is_even(float(below), kind) else above)


def overflowed(value: float, kind: FloatType) -> float:
    """Beyond the last value, at least half a step gives infinity."""
    last, before = Fraction(float(VALUES[kind.code][-1])), Fraction(float(VALUES[kind.code][-2]))
    bound = last + (last - before) / 2
    if abs(Fraction(value)) >= bound:
        return float("inf") if value > 0 else float("-inf")
    return float(last) if value > 0 else -float(last)


def is_even(value: float, kind: FloatType) -> bool:
    if kind is BF16:
        return not int(np.float32(value).view(np.uint32)) >> 16 & 1
    return not int(np.float16(value).view(np.uint16)) & 1


def rounded(values: np.ndarray, kind: FloatType) -> np.ndarray:
    return widen(narrow(values, kind), kind)


def test_names_and_sizes() -> None:
    assert {kind.name: kind.size for kind in FLOAT_TYPES.values()} == {
        "float64": 8,
        "float32": 4,
        "float16": 2,
        "bfloat16": 2,
    }
    assert {name: kind.code for name, kind in BY_NAME.items()} == {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
    }


@half_types
def test_every_16_bit_value_survives(kind: FloatType) -> None:
    raw = np.arange(1 << 16, dtype=np.uint16).view(kind.carrier)
    values = widen(raw, kind)
    again = narrow(values, kind)
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(again.view(np.uint16)[finite], raw.view(np.uint16)[finite])
    assert np.isnan(widen(again, kind)[~finite]).all()
    assert values.dtype == np.float64


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    raw = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        wanted = (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    np.testing.assert_array_equal(widen(raw, BF16), wanted)


@half_types
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_halfway_points_go_to_even(kind: FloatType, shift: int) -> None:
    """Every tie between neighbours, and the float64 numbers next to it."""
    values = VALUES[kind.code]
    below, above = values[:-1], values[1:]
    middle = below + (above - below) / 2
    if shift:
        middle = np.nextafter(middle, np.inf * shift)
        wanted = above if shift > 0 else below
    else:
        even = np.array([is_even(float(value), kind) for value in below])
        wanted = np.where(even, below, above)
    np.testing.assert_array_equal(rounded(middle, kind), wanted)


@half_types
@given(st.data())
def test_rounding_by_definition(kind: FloatType, data: DataObject) -> None:
    largest = float(VALUES[kind.code][-1])
    value = data.draw(st.floats(-4, 4) | st.floats(-1.01 * largest, 1.01 * largest))
    assert rounded(np.array([value]), kind)[0] == nearest(value, kind)


@half_types
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_roundoff_bounds_the_relative_error(kind: FloatType, dtype: type) -> None:
    values = np.random.default_rng(0).standard_normal(20_000).astype(dtype)
    error = np.abs(rounded(values, kind) - values) / np.abs(values)
    assert error.max() <= kind.roundoff
    assert error.max() > 0.9 * kind.roundoff


@every_type
def test_what_is_not_finite_stays_so(kind: FloatType) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -np.nan])
    found = rounded(values, kind)
    assert np.isnan(found[[0, 3]]).all()
    assert found[1] == np.inf
    assert found[2] == -np.inf


@pytest.mark.parametrize("payload", [1, 0x3FFF, 0x7FFF, 0x8000, 0xFFFF, 0x10001, 0x7FFFFF])
def test_no_nan_becomes_a_number(payload: int) -> None:
    bits = np.array([0x7F800000 | payload, 0xFF800000 | payload], dtype=np.uint32)
    assert np.isnan(widen(narrow(bits.view(np.float32), BF16), BF16)).all()


@every_type
def test_overflow_is_infinite(kind: FloatType) -> None:
    largest = {"F64": 1.7e308, "F32": 3.5e38, "F16": 65520.0, "BF16": 3.4e38}[kind.code]
    found = rounded(np.array([largest, -largest]), kind)
    if kind is F64:
        assert np.isfinite(found).all()
    else:
        assert found.tolist() == [np.inf, -np.inf]
    if kind is not F64:
        assert rounded(np.array([1e300]), kind)[0] == np.inf


@every_type
def test_signed_zeros_and_the_smallest_numbers(kind: FloatType) -> None:
    assert np.signbit(rounded(np.array([-0.0, 0.0]), kind)).tolist() == [True, False]
    if kind is not F64:
        assert rounded(np.array([1e-300]), kind)[0] == 0.0
    if kind in SMALL:
        smallest = VALUES[kind.code][VALUES[kind.code] > 0][0]
        assert rounded(np.array([smallest]), kind)[0] == smallest
        assert rounded(np.array([0.51 * smallest]), kind)[0] == smallest
        assert rounded(np.array([0.49 * smallest, 0.5 * smallest]), kind).tolist() == [0.0, 0.0]


@every_type
def test_shape_and_memory_layout_do_not_matter(kind: FloatType) -> None:
    values = np.random.default_rng(1).standard_normal((6, 4))
    plain = rounded(values, kind)
    np.testing.assert_array_equal(rounded(np.asfortranarray(values), kind), plain)
    np.testing.assert_array_equal(rounded(values[::2, ::-1], kind), plain[::2, ::-1])
    np.testing.assert_array_equal(widen(narrow(values, kind)[:, 1:3], kind), plain[:, 1:3])
    assert rounded(np.empty((0, 4)), kind).shape == (0, 4)
    assert rounded(np.array(1.0), kind).shape == ()


@every_type
def test_the_source_is_not_written_to(kind: FloatType) -> None:
    values = np.random.default_rng(2).standard_normal(50)
    kept = values.copy()
    raw = narrow(values, kind)
    bits = raw.tobytes()
    widened = widen(raw, kind)
    widened += 1.0
    np.testing.assert_array_equal(values, kept)
    assert raw.tobytes() == bits


@every_type
def test_read_only_memory(kind: FloatType) -> None:
    raw = np.frombuffer(narrow(np.ones(4), kind).tobytes(), kind.carrier)
    assert widen(raw, kind).tolist() == [1.0] * 4
    assert Stored(raw, kind).widen().flags.writeable


def test_common_type_holds_every_value() -> None:
    assert common_type([F16, F16]) is F16
    assert common_type([BF16]) is BF16
    assert common_type([F16, BF16]) is F32
    assert common_type([BF16, F32]) is F32
    assert common_type([F16, F64]) is F64
    for one in FLOAT_TYPES.values():
        for other in FLOAT_TYPES.values():
            both = common_type([one, other])
            assert both is common_type([other, one])
            for kind in (one, other):
                values = VALUES.get(kind.code, np.array([1.0, 1 + 2.0**-20]))
                np.testing.assert_array_equal(rounded(values, both), values)


def test_stored() -> None:
    stored = Stored.of(np.array([[1, 2], [3, 4]], dtype=np.float32))
    assert stored.kind is F64
    assert stored.shape == (2, 2)
    np.testing.assert_array_equal(stored.widen(), [[1.0, 2.0], [3.0, 4.0]])
