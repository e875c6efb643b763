"""Random damage, found by hypothesis: pemath refuses on purpose or works, and does nothing else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pemath
from pemath.composition.plan import make_plan
from pemath.composition.request import ComposeRequest
from pemath.errors import FileFormatError
from pemath.expression.parser import parse
from pemath.formats.floats import FLOAT_TYPES
from pemath.formats.safetensors import TensorFile

from . import attacks
from .attacks import CONFIG, WEIGHTS
from .judge import leftovers, outcome

FEW = settings(max_examples=100)
MANY = settings(max_examples=300)

HEADER_END = 8 + int.from_bytes(attacks.VALID[:8], "little")
NUMBERS = st.sampled_from(
    [
        0,
        1,
        2,
        3,
        4,
        -1,
        7,
        1 << 31,
        1 << 32,
        (1 << 53) + 1,
        1 << 62,
        1 << 63,
        1 << 64,
        0.5,
        1e308,
        -0.0,
    ]
)
WORDS = st.sampled_from(
    [
        "",
        "F32",
        "BF16",
        "I8",
        "a",
        "LORA",
        "query",
        "classifier",
        "(.*)+",
        "\u0000",
        "\u202e",
        "pissa",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=3)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """One folder for all examples: made once, since making folders is what takes time."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, end: int) -> bytes:
    """`data` after a few random changes in its first `end` bytes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(end, len(changed) - 1)))
        length = draw(st.integers(1, 12))
        match draw(st.sampled_from(["flip", "set", "cut", "repeat", "insert", "swap"])):
            case "flip":
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                changed[at] = draw(st.sampled_from(b'\x00\xff"{}[],:0129-.eE\\ uN'))
            case "cut":
                del changed[at : at + length]
            case "repeat":
                changed[at:at] = changed[at : at + length]
            case "insert":
                changed[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "swap":
                other = draw(st.integers(0, min(end, len(changed) - 1)))
                changed[at], changed[other] = changed[other], changed[at]
        if not changed:
            return b""
    return bytes(changed)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value there is something."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [here, *(path for key, inner in items for path in paths(inner, (*here, key)))]


@st.composite
def rewritten(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with a few of its parts replaced, removed, renamed or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(value)[1:] or [()]))
        if not path:
            return draw(JSON)
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "double"])):
            case "remove":
                del owner[path[-1]]
            case "rename" if isinstance(owner, dict):
                renamed = draw(st.sampled_from([*sorted(owner), "", "a", "r", "__metadata__"]))
                owner[renamed] = owner.pop(path[-1])
            case "double" if isinstance(owner, dict):
                owner[draw(WORDS)] = owner[path[-1]]
            case _:
                owner[path[-1]] = draw(JSON)
    return value


def check_reader(path: Path, data: bytes) -> None:
    """Refused as malformed, or read: and then the format's own implementation reads the same."""
    path.write_bytes(data)
    opened: list[TensorFile] = []
    error = outcome(lambda: opened.append(TensorFile.open(path)))
    if error is not None:
        assert isinstance(error, FileFormatError)
        return
    reference = dict(safetensors.deserialize(data))
    assert reference.keys() == opened[0].entries.keys()
    for name, entry in opened[0].entries.items():
        assert (entry.dtype, list(entry.shape)) == (
            reference[name]["dtype"],
            reference[name]["shape"],
        )
        assert bytes(opened[0].raw_bytes(name)) == bytes(reference[name]["data"])
        if entry.dtype in FLOAT_TYPES:
            assert opened[0].stored(name).shape == entry.shape


@MANY
@given(data=damaged(attacks.VALID, HEADER_END))
def test_headers_with_bytes_changed(data: bytes, place: Path) -> None:
    check_reader(place / "header", data)


@MANY
@given(header=rewritten(json.loads(attacks.VALID[8:HEADER_END])))
def test_headers_with_parts_changed(header: Any, place: Path) -> None:
    check_reader(place / "header", attacks.pack(json.dumps(header), attacks.VALID[HEADER_END:]))


@FEW
@given(data=damaged(attacks.VALID, len(attacks.VALID)))
def test_composing_with_bytes_changed(data: bytes, place: Path) -> None:
    """Whatever the damage is: a refusal without traces, or a certificate that is a number."""
    check_composing(place / "bytes", json.dumps(attacks.LORA).encode(), data)


@FEW
@given(
    values=st.lists(
        st.floats(width=32) | st.sampled_from([1e38, -1e38, 1e-45, 1e19]), min_size=6, max_size=6
    ),
    dtype=st.sampled_from(list(attacks.CARRIER)),
)
def test_composing_any_values(values: list[float], dtype: str, place: Path) -> None:
    name = f"{attacks.QUERY}lora_A.weight"
    with np.errstate(over="ignore"):
        tensors = attacks.lora_tensors(dtype) | {
            name: (dtype, (2, 3), attacks.encode(values, dtype))
        }
    check_composing(
        place / "values", json.dumps(attacks.LORA).encode(), attacks.safetensors(tensors)
    )


@FEW
@given(config=rewritten(attacks.LORA | {"rank_pattern": {"query": 2}, "alpha_pattern": {}}))
def test_composing_with_a_config_changed(config: Any, place: Path) -> None:
    check_composing(place / "config", json.dumps(config).encode(), attacks.VALID)


def check_composing(place: Path, config: bytes, weights: bytes) -> None:
    place.mkdir(exist_ok=True)
    operand = attacks.write(place / "a", config, weights)
    done = []
    error = outcome(
        lambda: done.append(
            pemath.compose(
                "0.5*a", place / "out", operands={"a": str(operand)}, heads="drop", force=True
            )
        )
    )
    assert leftovers(place, "a", "out") == []
    if error is None:
        assert 0 <= done[0].certificate.error < 1e-2
        TensorFile.open(place / "out" / WEIGHTS)
        again = outcome(lambda: plan("a", a=place / "out"))
        assert again is None, again


def plan(expression: str, **bound: Path) -> object:
    return make_plan(
        ComposeRequest(
            expression=expression, operands={n: str(p) for n, p in bound.items()}, heads="drop"
        )
    )


@MANY
@given(config=rewritten(attacks.LORA | {"rank_pattern": {"query": 2}, "alpha_pattern": {}}))
def test_planning_with_a_config_changed(config: Any, place: Path) -> None:
    a = attacks.write(place / "planned" / "a", json.dumps(config).encode(), attacks.VALID)
    b = place / "planned" / "b"
    if not b.exists():
        attacks.lora(b, seed=3)
    outcome(lambda: plan("0.5*a + 0.5*b", a=a, b=b))
    outcome(lambda: plan("0.5*b + 0.5*a", a=a, b=b))


@MANY
@given(config=rewritten(attacks.IA3))
def test_planning_with_a_config_of_ia3_changed(config: Any, place: Path) -> None:
    tensors = attacks.ia3_tensors()
    a = attacks.write(place / "ia3" / "a", json.dumps(config).encode(), tensors)
    b = place / "ia3" / "b"
    if not b.exists():
        attacks.ia3(b, seed=3)
    outcome(lambda: plan("0.5*a + 0.5*b", a=a, b=b))


@FEW
@given(config=damaged(json.dumps(attacks.LORA).encode(), 10_000))
def test_planning_with_bytes_of_a_config_changed(config: bytes, place: Path) -> None:
    operand = attacks.write(place / "raw" / "a", config, attacks.VALID)
    outcome(lambda: plan("a", a=operand))
    assert (operand / CONFIG).read_bytes() == config


SIGNS = tuple("+-*/()[],=\"' \n")
WORDS_OF_IT = (
    "a",
    "b",
    "c",
    "paper",
    "exact",
    "weights",
    "true",
    '"x"',
    "'y'",
    "\x00",
    "\u202e",
    "é",
)
PIECES = st.sampled_from((*SIGNS, *WORDS_OF_IT, "1", "0", "0.5", "1e30", "1e-30", "1e999", "٣"))


@settings(max_examples=1000)
@given(text=st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=20))
def test_any_text_as_an_expression(text: str) -> None:
    """Parsed, and then printing and parsing give the same tree; or an error with its place."""
    found = []
    if outcome(lambda: found.append(parse(text, a="x", b="y"))) is None:
        assert parse(str(found[0]), a="x", b="y") == found[0]
