"""The folder of attacks: one entry is a name, the bytes, and the error that must refuse them.

To add an attack, add an entry: the tests run over these lists.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pemath.errors import (
    BadHeader,
    BadOffsets,
    BadShape,
    BadTensorName,
    ConfigError,
    DuplicateTensor,
    ExpressionError,
    FileFormatError,
    InputError,
    LayoutError,
    NonFiniteValue,
    PemathError,
    RequestError,
    TruncatedFile,
    UnknownDtype,
    UnsupportedFeature,
    UnsupportedKind,
    UsageError,
)
from pemath.limits import LIMITS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Attack:
    """`error` None: harmless if it is accepted, and if it is refused then on purpose."""

    name: str
    data: bytes
    error: type[PemathError] | None


# ------------------------------------------------------------------------------------- builders

Tensor = tuple[str, Sequence[int], bytes]
CARRIER = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<f4"}


def encode(values: Any, dtype: str = "F32") -> bytes:
    """Values as a tensor's bytes; bfloat16 by cutting float32, exact for the values used here."""
    array = np.asarray(values, CARRIER[dtype])
    return (array.view("<u4") >> 16).astype("<u2").tobytes() if dtype == "BF16" else array.tobytes()


def tensor(shape: Sequence[int], dtype: str = "F32", seed: int = 0) -> Tensor:
    """Small values that every floating-point type holds exactly."""
    count = int(np.prod(shape, dtype=int))
    values = np.random.default_rng(seed).integers(-8, 8, count) / 8 + 1 / 16
    return dtype, tuple(shape), encode(values, dtype)


def pack(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, and with a length field that may lie."""
    text = header.encode("utf-8") if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors(tensors: Mapping[str, Tensor], metadata: Any = None) -> bytes:
    """A well-formed file."""
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return pack(json.dumps(header), data)


SITES = ("encoder.0.query", "encoder.0.value")


def lora_tensors(dtype: str = "F32", rank: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Two sites with a bias each, 3 inputs and 4 outputs, and a head."""
    found = {}
    for index, site in enumerate(SITES):
        start = 10 * seed + 3 * index
        found[f"{PREFIX}{site}.lora_A.weight"] = tensor((rank, 3), dtype, start)
        found[f"{PREFIX}{site}.lora_B.weight"] = tensor((4, rank), dtype, start + 1)
        found[f"{PREFIX}{site}.lora_B.bias"] = tensor((4,), dtype, start + 2)
    found[f"{PREFIX}classifier.weight"] = tensor((2, 4), dtype, 10 * seed + 8)
    found[f"{PREFIX}classifier.bias"] = tensor((2,), dtype, 10 * seed + 9)
    return found


LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "someone/base",
    "r": 2,
    "lora_alpha": 4,
    "lora_bias": True,
    "target_modules": ["query", "value"],
    "modules_to_save": ["classifier"],
    "bias": "none",
}
IA3: dict[str, Any] = {
    "peft_type": "IA3",
    "base_model_name_or_path": "someone/base",
    "target_modules": ["key", "dense"],
    "feedforward_modules": ["dense"],
}


def ia3_tensors(dtype: str = "F32", seed: int = 0) -> dict[str, Tensor]:
    """One output-side and one input-side vector."""
    return {
        f"{PREFIX}encoder.0.key.ia3_l": tensor((4, 1), dtype, seed),
        f"{PREFIX}encoder.0.dense.ia3_l": tensor((1, 3), dtype, seed + 1),
    }


def write(
    folder: Path, config: Mapping[str, Any] | bytes, tensors: Mapping[str, Tensor] | bytes
) -> Path:
    """An adapter folder with this config and these tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / CONFIG).write_bytes(text)
    raw = tensors if isinstance(tensors, bytes) else safetensors(tensors)
    (folder / WEIGHTS).write_bytes(raw)
    return folder


def lora(folder: Path, *, dtype: str = "F32", seed: int = 0, **fields: Any) -> Path:
    """A harmless LoRA."""
    return write(folder, LORA | fields, lora_tensors(dtype, seed=seed))


def ia3(folder: Path, *, dtype: str = "F32", seed: int = 0, **fields: Any) -> Path:
    """A harmless (IA)³."""
    return write(folder, IA3 | fields, ia3_tensors(dtype, seed))


VALID = safetensors(lora_tensors())

# ------------------------------------------------------------------------- headers of weight files


def entry(
    *,
    name: str = '"a"',
    dtype: str = '"F32"',
    shape: str = "[1]",
    offsets: str = "[0,4]",
) -> str:
    """One tensor of a header, from raw JSON."""
    return f'{name}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def header(*entries: str) -> str:
    return "{" + ",".join(entries) + "}"


def named(name: str) -> bytes:
    """A file whose one tensor has this name."""
    return pack(header(entry(name=json.dumps(name))), b"\0" * 4)


def shaped(shape: str, data: bytes = b"\0" * 4) -> bytes:
    return pack(header(entry(shape=shape, offsets=f"[0,{len(data)}]")), data)


def placed(offsets: str, data: bytes = b"\0" * 4) -> bytes:
    return pack(header(entry(offsets=offsets)), data)


def pair(first: str, second: str, size: int) -> bytes:
    """Two float32 pairs at these offsets in `size` bytes."""
    return pack(
        header(
            entry(shape="[2]", offsets=first),
            entry(name='"b"', shape="[2]", offsets=second),
        ),
        b"\0" * size,
    )


ONE = header(entry())
FOUR = b"\0" * 4
NINES = "9" * 4300  # the most digits that Python's json reads
# Every character of Unicode's Bidi_Control, and others that are not seen.
UNSEEN = {
    "NUL": "\0",
    "BEL": "\a",
    "newline": "\n",
    "carriage return": "\r",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "CSI": "\x9b",
    "next line": "\x85",
    "line separator": "\u2028",
    "soft hyphen": "\u00ad",
    "zero-width space": "\u200b",
    "word joiner": "\u2060",
    "invisible times": "\u2062",
    "byte order mark": "\ufeff",
    "annotation anchor": "\ufff9",
    "tag": "\U000e0041",
    "Mongolian vowel separator": "\u180e",
    **{f"bidi U+{c:04X}": chr(c) for c in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F))},
    **{f"bidi U+{c:04X}": chr(c) for c in range(0x2066, 0x206A)},
}

HEADERS = [
    # The length field.
    Attack("empty file", b"", TruncatedFile),
    Attack("seven bytes", b"\x02\0\0\0\0\0\0", TruncatedFile),
    Attack("length only", pack("", length=2), TruncatedFile),
    Attack("length zero", pack("", length=0), BadHeader),
    Attack("length one", pack("{", length=1), BadHeader),
    Attack("length one byte short", pack(ONE, FOUR, len(ONE) - 1), BadHeader),
    Attack("length one byte long", pack(ONE, FOUR, len(ONE) + 1), BadHeader),
    Attack("length eats a space of the data", pack(ONE, b" \0\0\0", len(ONE) + 1), TruncatedFile),
    Attack("length past the end", pack(ONE, FOUR, len(ONE) + 5), TruncatedFile),
    Attack("length over the limit", pack(ONE, FOUR, LIMITS.header_bytes + 1), BadHeader),
    Attack("length 2**63", pack(ONE, FOUR, 1 << 63), BadHeader),
    Attack("length 2**64 - 1", pack(ONE, FOUR, (1 << 64) - 1), BadHeader),
    Attack("length big-endian", struct.pack(">Q", len(ONE)) + ONE.encode() + FOUR, BadHeader),
    # Other files under this name.
    Attack("a pickle", b"\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94.", BadHeader),
    Attack("a zip, as torch.save writes", b"PK\x03\x04" + b"\0" * 60, BadHeader),
    Attack("a web page", b"<!DOCTYPE html><html><body>Not found</body></html>", BadHeader),
    Attack("a pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", BadHeader),
    Attack("zeros", b"\0" * 4096, BadHeader),
    # The JSON.
    Attack("an array", pack("[1]"), BadHeader),
    Attack("a string", pack('"abc"'), BadHeader),
    Attack("a number", pack("12"), BadHeader),
    Attack("null", pack("null"), BadHeader),
    Attack("spaces", pack("    "), BadHeader),
    Attack("a space in front", pack(" " + ONE, FOUR), BadHeader),
    Attack("a byte order mark in front", pack(b"\xef\xbb\xbf" + ONE.encode(), FOUR), BadHeader),
    Attack("UTF-16", pack(ONE.encode("utf-16-le"), FOUR), BadHeader),
    Attack("invalid UTF-8", pack(ONE.encode().replace(b'"a"', b'"\xff"'), FOUR), BadHeader),
    Attack("overlong UTF-8", pack(ONE.encode().replace(b'"a"', b'"\xc1\xa1"'), FOUR), BadHeader),
    Attack(
        "CESU surrogate", pack(ONE.encode().replace(b'"a"', b'"\xed\xa0\x80"'), FOUR), BadHeader
    ),
    Attack("text behind", pack(ONE + "x", FOUR), BadHeader),
    Attack("a second object behind", pack(ONE + ONE, FOUR), BadHeader),
    Attack("zeros behind", pack(ONE + "\0\0", FOUR), BadHeader),
    Attack("a trailing comma", pack("{" + entry() + ",}", FOUR), BadHeader),
    Attack("a comment", pack("{/**/" + entry() + "}", FOUR), BadHeader),
    Attack("single quotes", pack(ONE.replace('"', "'"), FOUR), BadHeader),
    Attack("a raw newline in a name", pack(header(entry(name='"\n"')), FOUR), BadHeader),
    Attack("never closed", pack("{" + entry(), FOUR), BadHeader),
    Attack("deep arrays", pack('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), BadHeader),
    Attack("deep objects", pack('{"a":' * 50_000 + "1" + "}" * 50_000), BadHeader),
    Attack("deep and never closed", pack('{"a":' * 200_000), BadHeader),
    Attack("too many digits", shaped("[" + "9" * 5000 + "]"), BadHeader),
    Attack("NaN in a shape", shaped("[NaN]"), BadHeader),
    Attack("Infinity in a shape", shaped("[Infinity]"), BadHeader),
    Attack("-Infinity in offsets", placed("[-Infinity,4]"), BadHeader),
    Attack("NaN in the metadata", pack(header('"__metadata__":{"a":NaN}')), BadHeader),
    # Metadata.
    Attack("metadata null", pack(header('"__metadata__":null', entry()), FOUR), BadHeader),
    Attack("metadata list", pack(header('"__metadata__":[]', entry()), FOUR), BadHeader),
    Attack("metadata text", pack(header('"__metadata__":"pt"', entry()), FOUR), BadHeader),
    Attack("metadata number", pack(header('"__metadata__":{"a":1}', entry()), FOUR), BadHeader),
    Attack("metadata nested", pack(header('"__metadata__":{"a":{}}', entry()), FOUR), BadHeader),
    Attack("metadata a tensor", pack(header(entry(name='"__metadata__"')), FOUR), BadHeader),
    # One name twice.
    Attack("one name twice", pack(header(entry(), entry()), FOUR), DuplicateTensor),
    Attack(
        "one name twice, with offsets that fit",
        pack(header(entry(), entry(offsets="[4,8]")), b"\0" * 8),
        DuplicateTensor,
    ),
    Attack(
        "one name twice by an escape",
        pack(header(entry(), entry(name='"\\u0061"', offsets="[4,8]")), b"\0" * 8),
        DuplicateTensor,
    ),
    Attack(
        "one name twice by a surrogate pair",
        pack(header(entry(name='"😀"'), entry(name='"\\ud83d\\ude00"')), FOUR),
        DuplicateTensor,
    ),
    Attack("an empty name twice", pack(header(*[entry(name='""')] * 2), FOUR), DuplicateTensor),
    Attack(
        "metadata twice",
        pack(header('"__metadata__":{}', '"__metadata__":{}', entry()), FOUR),
        DuplicateTensor,
    ),
    Attack(
        "a key of an entry twice",
        pack(ONE.replace('"dtype":"F32"', '"dtype":"F16","dtype":"F32"'), FOUR),
        FileFormatError,
    ),
    # Names.
    Attack("name empty", named(""), BadTensorName),
    Attack("name too long", named("a" * (LIMITS.tensor_name_length + 1)), BadTensorName),
    Attack("name a megabyte", named("a" * (1 << 20)), BadTensorName),
    Attack("name a lone surrogate", named("a\ud800"), BadTensorName),
    *(Attack(f"name with {what}", named(f"a{c}b"), BadTensorName) for what, c in UNSEEN.items()),
    # Entries.
    Attack("entry null", pack('{"a":null}'), BadHeader),
    Attack("entry a list", pack('{"a":["F32",[1],[0,4]]}', FOUR), BadHeader),
    Attack("entry empty", pack('{"a":{}}', FOUR), BadHeader),
    Attack(
        "entry without dtype", pack('{"a":{"shape":[1],"data_offsets":[0,4]}}', FOUR), BadHeader
    ),
    Attack(
        "entry without shape", pack('{"a":{"dtype":"F32","data_offsets":[0,4]}}', FOUR), BadHeader
    ),
    Attack("entry without offsets", pack('{"a":{"dtype":"F32","shape":[1]}}', FOUR), BadHeader),
    Attack("entry with more", pack(ONE.replace('"dtype"', '"x":1,"dtype"'), FOUR), BadHeader),
    # Data types.
    Attack("dtype null", pack(header(entry(dtype="null")), FOUR), UnknownDtype),
    Attack("dtype number", pack(header(entry(dtype="32")), FOUR), UnknownDtype),
    Attack("dtype list", pack(header(entry(dtype='["F32"]')), FOUR), UnknownDtype),
    Attack("dtype object", pack(header(entry(dtype="{}")), FOUR), UnknownDtype),
    Attack("dtype lower case", pack(header(entry(dtype='"f32"')), FOUR), UnknownDtype),
    Attack("dtype with a space", pack(header(entry(dtype='"F32 "')), FOUR), UnknownDtype),
    Attack("dtype empty", pack(header(entry(dtype='""')), FOUR), UnknownDtype),
    Attack("dtype unheard of", pack(header(entry(dtype='"F128"')), FOUR), UnknownDtype),
    Attack("dtype with ESC", pack(header(entry(dtype='"\\u001b[31mF32"')), FOUR), UnknownDtype),
    Attack(
        "dtype a megabyte", pack(header(entry(dtype=f'"{"F" * (1 << 20)}"')), FOUR), UnknownDtype
    ),
    # Shapes.
    *(
        Attack(f"shape {shape}", shaped(shape), BadShape)
        for shape in (
            *("null", "1", '"1"', "{}", "[1.0]", "[1e0]", "[true]", '["1"]', "[null]", "[[1]]"),
            *("[-1]", "[-1,-1]", "[1,-0.0]"),
        )
    ),
    Attack("shape of seven dimensions", shaped("[1,1,1,1,1,1,1]"), BadShape),
    Attack("shape of 100,000 dimensions", shaped(json.dumps([1] * 100_000)), BadShape),
    Attack("shape of 100,000 zeros", shaped(json.dumps([0] * 100_000), b""), BadShape),
    Attack("shape [0, 2**62]", shaped(f"[0,{1 << 62}]", b""), BadShape),
    Attack("shape [2**62, 0]", shaped(f"[{1 << 62},0]", b""), BadShape),
    Attack("shape [0, 2**30, 2**30]", shaped(f"[0,{1 << 30},{1 << 30}]", b""), BadShape),
    Attack("shape 2**62", shaped(f"[{1 << 62}]"), BadShape),
    Attack("shape 2**63", shaped(f"[{1 << 63}]"), BadShape),
    Attack("shape 2**64", shaped(f"[{1 << 64}]"), BadShape),
    Attack("shape 2**64 + 1", shaped(f"[{(1 << 64) + 1}]"), BadShape),
    Attack("shape of 4300 digits", shaped(f"[{NINES}]"), BadShape),
    Attack("product wraps to 0 in 64 bits", shaped("[4294967296,4294967296]", b""), BadShape),
    Attack("product wraps to 1 in 64 bits", shaped("[274177,67280421310721]"), BadShape),
    Attack("product over the limit", shaped("[1048576,1048576,2]"), BadShape),
    Attack("product within the limit, data absent", shaped("[1048576,1048576]"), BadOffsets),
    # Offsets.
    *(
        Attack(f"offsets {offsets}", placed(offsets), BadOffsets)
        for offsets in (
            *("null", "0", '"0,4"', "{}", "[]", "[0]", "[0,2,4]", "[[0,4]]", "[null,4]"),
            *("[0.0,4.0]", "[0,4e0]", '["0","4"]', "[false,4]", "[0,true]", "[-4,0]", "[-4,-8]"),
            *("[4,0]", "[0,3]", "[0,5]", "[0,0]", "[4,4]", "[0,8]"),
            *(f"[0,{1 << 63}]", f"[0,{1 << 64}]", f"[0,{(1 << 64) + 4}]", f"[{1 << 64},4]"),
        )
    ),
    Attack("a stop of 4300 digits", placed(f"[0,{NINES}]"), BadOffsets),
    Attack("a start of 4300 digits", placed(f"[{NINES},0]"), BadOffsets),
    Attack("offsets far away", placed(f"[{1 << 63},{(1 << 63) + 4}]"), FileFormatError),
    Attack("offsets that wrap", placed(f"[{(1 << 64) - 4},{1 << 64}]"), FileFormatError),
    Attack("both offsets of 4300 digits", placed(f"[{NINES[:-1]}5,{NINES}]"), FileFormatError),
    Attack("offsets one byte late", placed("[1,5]"), FileFormatError),
    Attack("offsets one byte late, in the file", placed("[1,5]", b"\0" * 5), BadOffsets),
    Attack("two tensors on one place", pair("[0,8]", "[0,8]", 8), BadOffsets),
    Attack("two tensors on one place, with a rest", pair("[0,8]", "[0,8]", 16), BadOffsets),
    Attack("overlap by one byte", pair("[0,8]", "[7,15]", 15), BadOffsets),
    Attack("overlap, listed backwards", pair("[7,15]", "[0,8]", 15), BadOffsets),
    Attack("gap of one byte", pair("[0,8]", "[9,17]", 17), BadOffsets),
    Attack("gap at the start", pair("[8,16]", "[16,24]", 24), BadOffsets),
    Attack("last tensor past the end", pair("[0,8]", "[8,16]", 15), TruncatedFile),
    Attack("one byte behind", pack(ONE, FOUR + b"\0"), BadOffsets),
    Attack("a second file behind", pack(ONE, FOUR + pack(ONE, FOUR)), BadOffsets),
    Attack("no tensors but data", pack("{}", b"\0"), BadOffsets),
    Attack(
        "an empty tensor inside another",
        pack(header(entry(), entry(name='"b"', shape="[0]", offsets="[2,2]")), FOUR),
        BadOffsets,
    ),
    Attack(
        "an empty tensor behind the end",
        pack(header(entry(), entry(name='"b"', shape="[0]", offsets="[9,9]")), FOUR),
        FileFormatError,
    ),
]

ACCEPTED = {
    "one tensor": pack(ONE, FOUR),
    "spaces behind the header": pack(ONE + "   \n", FOUR),
    "no tensors": pack("{}"),
    "metadata only": pack(header('"__metadata__":{"format":"pt"}')),
    "a scalar": shaped("[]"),
    "an empty tensor": pack(header(entry(shape="[3,0]", offsets="[0,0]"))),
    "an empty tensor between two": pack(
        header(
            entry(),
            entry(name='"b"', shape="[0]", offsets="[4,4]"),
            entry(name='"c"', offsets="[4,8]"),
        ),
        b"\0" * 8,
    ),
    "listed in another order than laid": pair("[8,16]", "[0,8]", 16),
    "six dimensions": shaped("[1,1,1,1,1,1]"),
    "a name in another script": named("层.κ.слой"),
    "a name that looks like a path": named("../../etc/passwd"),
    "the longest name": named("a" * LIMITS.tensor_name_length),
    "an integer dtype": pack(header(entry(dtype='"I32"')), FOUR),
}

# ------------------------------------------------------------------------ adapter_config.json


def config(**fields: Any) -> bytes:
    """The LoRA's config with `fields` changed; json.dumps writes NaN where it is told to."""
    return json.dumps(LORA | fields).encode()


def raw(field: str, value: str) -> bytes:
    """The LoRA's config with one more field, last, as raw JSON."""
    return json.dumps(LORA)[:-1].encode() + f',"{field}":{value}}}'.encode()


def without(field: str) -> bytes:
    return json.dumps({k: v for k, v in LORA.items() if k != field}).encode()


# Patterns that a backtracking matcher takes for ever with, or that break the compiler.
BOMBS = {
    "nested plus": "(e+)+$",
    "nested star": "(.*)*x",
    "alternation in a star": "(a|a)*$",
    "counted": "(e{1,30}){1,30}x",
    "many stars": ".*" * 30 + "x",
    "four stars": ".*.*.*.*x",
    "three stars": ".*.*.*x",
    "three classes": "[a-z.]+[a-z.]+[a-z.]+x",
    "optional letters": ".?" * 40 + "." * 40 + "x",
    "optional groups": "(.)?" * 40 + "x",
    "alternations in a row": "(.|..)" * 40 + "x",
    "equal alternatives in a row": "(?:.|.)" * 40 + "x",
    "a star behind an escaped backslash": "(.+\\\\?)+x",
    "escaped backslashes": "(\\\\+\\\\)+x",
    "lazy": "(.+?)+?x",
    "possessive look-alike": "(?:(?:.+)+)x",
    "look-ahead": "(?=(.+)+x)query",
    "look-behind": "(?<=(a))+x",
    "back-reference": r"(.*)(.*)\1\2\1\2x",
    "conditional": "(.+)(?(1).+|.+)(.+)x",
    "a count of a billion": "e{1000000000}",
    "a count of counts": "(?:(?:e{1000}){1000}){1000}",
    "parentheses": "(" * 2000 + ")" * 2000,
    "long": "a" * 100_000,
    "a class": "[" + "a-z" * 1000 + "]" + "+" * 1,
}
BROKEN = {
    "open": "(",
    "closed": "a)|(b",
    "nothing to repeat": "*query",
    "bad escape": "\\q",
    "bad count": "a{2,1}",
    "bad class": "[z-a]",
    "unknown group": "(?P=x)",
    "unknown extension": "(?~a)",
    "flags inside": "(?i)query",
    "verbose comment": "(?x)query#",
    "a reference to the second group": "(qu)(ery)\\2",
    "a group name twice": "(?P<a>q)(?P<a>u)",
}
# Names on which a backtracking matcher is slow.
LONG_SITES = ("e." * 225 + "e", "encoder." + "e" * 450, "encoder." + "\\" * 60)

CONFIGS = [
    # The file.
    Attack("empty", b"", ConfigError),
    Attack("cut off", json.dumps(LORA).encode()[:-1], ConfigError),
    Attack("null", b"null", ConfigError),
    Attack("a list", b"[]", ConfigError),
    Attack("a string", b'"LORA"', ConfigError),
    Attack("a number", b"1", ConfigError),
    Attack("YAML", b"peft_type: LORA\nr: 2\n", ConfigError),
    Attack("zeros", b"\0" * 100, ConfigError),
    Attack("invalid UTF-8", json.dumps(LORA).encode().replace(b"base", b"\xff\xfe"), ConfigError),
    Attack("UTF-16", json.dumps(LORA).encode("utf-16"), ConfigError),
    Attack("two objects", json.dumps(LORA).encode() * 2, ConfigError),
    Attack("too large", json.dumps(LORA).encode() + b" " * LIMITS.config_bytes, ConfigError),
    Attack("deep", raw("x", "[" * 100 + "]" * 100), ConfigError),
    Attack("very deep", raw("x", "[" * 100_000 + "]" * 100_000), ConfigError),
    Attack("deep objects", raw("x", '{"x":' * 100_000 + "1" + "}" * 100_000), ConfigError),
    Attack("too many digits", raw("x", "9" * 5000), ConfigError),
    Attack("one field twice", raw("r", "2"), ConfigError),
    Attack("one field twice, by an escape", raw("\\u0072", "2"), ConfigError),
    Attack("one nested field twice", raw("rank_pattern", '{"query":2,"query":2}'), ConfigError),
    Attack("NaN in an unknown field", raw("x", "NaN"), ConfigError),
    Attack("Infinity in an unknown field", raw("x", "-Infinity"), ConfigError),
    Attack("a number that overflows in an unknown field", raw("x", "1e400"), ConfigError),
    Attack("a lone surrogate in an unknown field", raw("x", '"\\ud800"'), None),
    Attack("a lone surrogate in an unknown field's name", raw("\\ud800", "1"), None),
    Attack(
        "a lone surrogate in the base model's name",
        config(base_model_name_or_path="some\ud800one/base"),
        None,
    ),
    # What is said to be in the file.
    Attack("kind missing", without("peft_type"), UnsupportedKind),
    Attack("kind null", config(peft_type=None), UnsupportedKind),
    Attack("kind number", config(peft_type=5), UnsupportedKind),
    Attack("kind list", config(peft_type=["LORA"]), UnsupportedKind),
    Attack("kind object", config(peft_type={"LORA": 1}), UnsupportedKind),
    Attack("kind empty", config(peft_type=""), UnsupportedKind),
    Attack("kind with ESC", config(peft_type="LORA\x1b]0;x\a\x1b[31m"), UnsupportedKind),
    Attack("kind with bidi", config(peft_type="\u202eAROL"), UnsupportedKind),
    Attack("kind with newlines", config(peft_type="LORA\nWhat to do: run this"), UnsupportedKind),
    Attack("kind a lone surrogate", config(peft_type="\ud800"), InputError),
    Attack("kind a megabyte", config(peft_type="LORA" * (1 << 18)), UnsupportedKind),
    Attack("kind another", config(peft_type="PROMPT_TUNING"), UnsupportedKind),
    # Rank.
    Attack("r missing", without("r"), InputError),
    Attack("r NaN", config(r=float("nan")), InputError),
    *(
        Attack(f"r = {json.dumps(value)}", config(r=value), InputError)
        for value in (None, 0, -1, 1, 3, 10**9, 1 << 64, "2", True, [2], {"r": 2}, 2.5, 1e300)
    ),
    Attack("r of 4300 digits", raw("r", NINES).replace(b'"r": 2, ', b""), InputError),
    # Alpha.
    Attack("alpha missing", without("lora_alpha"), ConfigError),
    Attack("alpha NaN", config(lora_alpha=float("nan")), ConfigError),
    Attack("alpha infinite", config(lora_alpha=float("inf")), ConfigError),
    Attack(
        "alpha 1e400", json.dumps(LORA).replace('alpha": 4', 'alpha": 1e400').encode(), ConfigError
    ),
    Attack(
        "alpha of 4300 digits",
        json.dumps(LORA).replace('alpha": 4', f'alpha": {NINES}').encode(),
        ConfigError,
    ),
    *(
        Attack(f"alpha = {json.dumps(value)}", config(lora_alpha=value), ConfigError)
        for value in (None, "4", True, [4], {}, 1e31, -1e31, 10**40)
    ),
    # Patterns.
    *(
        Attack(f"{table} = {json.dumps(value)}", config(**{table: value}), ConfigError)
        for table in ("rank_pattern", "alpha_pattern")
        for value in (["query"], "query", 5, True)
    ),
    *(
        Attack(
            f"rank_pattern says {json.dumps(value)}",
            config(rank_pattern={"query": value}),
            InputError,
        )
        for value in (0, -1, 3, 10**9, "2", True, None, [2])
    ),
    *(
        Attack(
            f"alpha_pattern says {json.dumps(value)}",
            config(alpha_pattern={"query": value}),
            InputError,
        )
        for value in ("4", True, None, [4], 1e31, float("nan"), float("inf"))
    ),
    *(
        Attack(f"{table} bomb: {what}", config(**{table: {bomb: 2}}), None)
        for table in ("rank_pattern", "alpha_pattern")
        for what, bomb in BOMBS.items()
    ),
    *(
        Attack(f"{table} broken: {what}", config(**{table: {pattern: 2}}), InputError)
        for table in ("rank_pattern", "alpha_pattern")
        for what, pattern in BROKEN.items()
        if what not in ("a reference to the second group", "flags inside", "verbose comment")
    ),
    *(
        Attack(f"{table} valid by itself: {what}", config(**{table: {BROKEN[what]: 2}}), None)
        for table in ("rank_pattern", "alpha_pattern")
        for what in ("a reference to the second group", "flags inside", "verbose comment")
    ),
    Attack(
        "100,000 rank patterns",
        config(rank_pattern={f"layer.{i}.x": 2 for i in range(100_000)}),
        None,
    ),
    Attack(
        "60,000 different expressions",
        config(rank_pattern={f"layer.{i}.[x]": 2 for i in range(60_000)}),
        None,
    ),
    # Lists of modules.
    *(
        Attack(f"{field} = {json.dumps(value)}", config(**{field: value}), error)
        for field, error in (
            ("modules_to_save", InputError),
            ("target_parameters", InputError),
            ("target_modules", None),
            ("exclude_modules", None),
            ("layers_to_transform", None),
            ("layers_pattern", None),
        )
        for value in (5, 0.5, True)
    ),
    *(
        Attack(f"modules_to_save = {json.dumps(value)}", config(modules_to_save=value), InputError)
        for value in (None, [], {}, "classifier", [5], [None], [["classifier"]], [""])
    ),
    Attack("500,000 heads", config(modules_to_save=[f"h{i}" for i in range(500_000)]), InputError),
    Attack(
        "500,000 heads and the right one",
        config(modules_to_save=[*(f"h{i}" for i in range(500_000)), "classifier"]),
        None,
    ),
    Attack("500,000 targets", config(target_modules=[f"t{i}" for i in range(500_000)]), None),
    Attack("a bomb of a target", config(target_modules="(e+)+$"), None),
    Attack("a bomb of an exclusion", config(exclude_modules="(e+)+$"), None),
    Attack("a bomb of a layer pattern", config(layers_pattern="(e+)+$"), None),
    Attack("bias = 5", config(bias=5), None),
    Attack("bias = []", config(bias=[]), None),
    Attack("task_type = []", config(task_type=[]), None),
    Attack("base model = 5", config(base_model_name_or_path=5), None),
    Attack("base model = []", config(base_model_name_or_path=["x"]), None),
    # What changes the meaning of the weights.
    *(
        Attack(f"{field} is set", config(**{field: value}), UnsupportedFeature)
        for field, value in {
            "use_dora": True,
            "use_qalora": True,
            "kasa_config": {"x": 1},
            "use_bdlora": {"nblocks": 2},
            "arrow_config": {"top_k": 2},
            "alora_invocation_tokens": [1],
            "layer_replication": [[0, 1]],
            "megatron_config": {"x": 1},
            "trainable_token_indices": [1],
            "ensure_weight_tying": True,
        }.items()
    ),
    *(
        Attack(f"initialised by {start}", config(init_lora_weights=start), UnsupportedFeature)
        for start in ("pissa", "PISSA", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq")
    ),
    Attack(
        "patterns with target_parameters",
        config(target_parameters=["encoder.0.query.weight"], rank_pattern={"query": 2}),
        None,
    ),
]

IA3_CONFIGS = [
    *(
        Attack(
            f"feedforward_modules = {json.dumps(value)}",
            json.dumps(IA3 | {"feedforward_modules": value}).encode(),
            InputError,
        )
        for value in (5, 0.5, True)
    ),
    *(
        Attack(
            f"feedforward_modules bomb: {what}",
            json.dumps(IA3 | {"feedforward_modules": bomb}).encode(),
            None,
        )
        for what, bomb in BOMBS.items()
    ),
    *(
        Attack(
            f"feedforward_modules broken: {what}",
            json.dumps(IA3 | {"feedforward_modules": pattern}).encode(),
            None,
        )
        for what, pattern in BROKEN.items()
    ),
    Attack(
        "500,000 feedforward modules",
        json.dumps(IA3 | {"feedforward_modules": [f"m{i}" for i in range(500_000)]}).encode(),
        None,
    ),
    Attack(
        "feedforward modules that are no names",
        json.dumps(IA3 | {"feedforward_modules": [5, None, ["dense"], {}]}).encode(),
        None,
    ),
]

# ------------------------------------------------------------------ tensors that fit no layout

QUERY = f"{PREFIX}{SITES[0]}."


def edited(**changes: Tensor | None) -> bytes:
    """The LoRA's tensors with those of the first site changed; None takes one away.

    `A`, `B` and `bias` are the factors' names; any other name stands behind the prefix.
    """
    roles = {"A": "lora_A.weight", "B": "lora_B.weight", "bias": "lora_B.bias"}
    tensors = lora_tensors()
    for name, value in changes.items():
        full = QUERY + roles[name] if name in roles else PREFIX + name
        tensors.pop(full, None)
        if value is not None:
            tensors[full] = value
    return safetensors(tensors)


def integers(shape: Sequence[int], dtype: str, size: int) -> Tensor:
    return dtype, tuple(shape), bytes(int(np.prod(shape)) * size)


LAYOUTS = [
    Attack("no tensors", safetensors({}), LayoutError),
    Attack("only a head", safetensors({f"{PREFIX}classifier.weight": tensor((2, 4))}), LayoutError),
    Attack("A alone", edited(B=None), LayoutError),
    Attack("B alone", edited(A=None), LayoutError),
    Attack("a bias alone", edited(A=None, B=None), LayoutError),
    Attack("A of another rank", edited(A=tensor((3, 3))), LayoutError),
    Attack("B of another rank", edited(B=tensor((4, 3))), LayoutError),
    Attack("both of another rank", edited(A=tensor((3, 3)), B=tensor((4, 3))), LayoutError),
    Attack("A a scalar", edited(A=tensor(())), LayoutError),
    Attack("A a vector", edited(A=tensor((6,))), LayoutError),
    Attack("both vectors", edited(A=tensor((2,)), B=tensor((2,))), LayoutError),
    Attack("A of rank zero", edited(A=tensor((0, 3)), B=tensor((4, 0)), bias=None), LayoutError),
    Attack("A without inputs", edited(A=tensor((2, 0))), LayoutError),
    Attack("B without outputs", edited(B=tensor((0, 2)), bias=None), LayoutError),
    Attack("A transposed", edited(A=tensor((3, 2))), LayoutError),
    Attack("A with three dimensions", edited(A=tensor((2, 3, 1))), LayoutError),
    Attack("B's kernel is not one", edited(A=tensor((2, 3, 1)), B=tensor((4, 2, 2))), LayoutError),
    Attack("B wider than A is high", edited(A=tensor((2, 3, 1)), B=tensor((4, 3, 1))), LayoutError),
    Attack(
        "groups that do not divide", edited(A=tensor((2, 3, 1)), B=tensor((3, 1, 1))), LayoutError
    ),
    Attack("a bias of another length", edited(bias=tensor((5,))), LayoutError),
    Attack("a bias that is a matrix", edited(bias=tensor((4, 1))), LayoutError),
    Attack(
        "a bias of A", edited(bias=None, **{f"{SITES[0]}.lora_A.bias": tensor((4,))}), LayoutError
    ),
    Attack(
        "A of a layer, B of an embedding",
        edited(B=None, bias=None, **{f"{SITES[0]}.lora_embedding_B": tensor((4, 2))}),
        LayoutError,
    ),
    Attack(
        "two adapters", edited(**{f"{SITES[0]}.lora_A.other.weight": tensor((2, 3))}), LayoutError
    ),
    Attack(
        "one factor with and without the prefix",
        safetensors(lora_tensors() | {f"{SITES[0]}.lora_A.weight": tensor((2, 3))}),
        LayoutError,
    ),
    Attack(
        "one head in two spellings",
        edited(**{"classifier.modules_to_save.weight": tensor((2, 4))}),
        LayoutError,
    ),
    Attack(
        "one head with and without the prefix",
        safetensors(lora_tensors() | {"classifier.weight": tensor((2, 4))}),
        LayoutError,
    ),
    Attack("a tensor of no site", edited(**{"encoder.0.norm.weight": tensor((4,))}), LayoutError),
    Attack(
        "a tensor named like a path", edited(**{"../../../etc/passwd": tensor((4,))}), LayoutError
    ),
    Attack(
        "a factor of nothing",
        safetensors(lora_tensors() | {"lora_A.weight": tensor((2, 3))}),
        LayoutError,
    ),
    Attack(
        "a magnitude", edited(**{f"{SITES[0]}.lora_magnitude_vector": tensor((4,))}), InputError
    ),
    Attack(
        "AdaLoRA's singular values", edited(**{f"{SITES[0]}.lora_E": tensor((2, 1))}), LayoutError
    ),
    *(
        Attack(f"{role} of {dtype}", edited(**{role: integers(shape, dtype, size)}), UnknownDtype)
        for role, shape in {"A": (2, 3), "B": (4, 2), "bias": (4,)}.items()
        for dtype, size in {
            "I8": 1,
            "U8": 1,
            "BOOL": 1,
            "F8_E4M3": 1,
            "I32": 4,
            "I64": 8,
            "C64": 8,
        }.items()
    ),
]

IA3_LAYOUTS = [
    *(
        Attack(
            f"a vector of shape {shape}",
            safetensors(ia3_tensors() | {f"{PREFIX}encoder.0.key.ia3_l": tensor(shape)}),
            LayoutError,
        )
        for shape in (
            (),
            (4,),
            (4, 4),
            (0,),
            (0, 1),
            (1, 0),
            (0, 0),
            (4, 1, 1),
            (2, 2, 1, 1),
            (1,) * 6,
        )
    ),
    Attack(
        "two vectors",
        safetensors(ia3_tensors() | {f"{PREFIX}encoder.0.key.ia3_l.other": tensor((4, 1))}),
        LayoutError,
    ),
    Attack(
        "a vector of integers",
        safetensors(ia3_tensors() | {f"{PREFIX}encoder.0.key.ia3_l": integers((4, 1), "I32", 4)}),
        UnknownDtype,
    ),
    Attack(
        "a vector and a factor",
        safetensors(ia3_tensors() | {f"{PREFIX}encoder.0.key.lora_A.weight": tensor((2, 3))}),
        LayoutError,
    ),
]

# ---------------------------------------------------------------------- values that are no numbers

NOT_FINITE = {"NaN": float("nan"), "infinity": float("inf"), "-infinity": float("-inf")}


def poisoned(
    tensors: Mapping[str, Tensor], name: str, value: float, index: int
) -> dict[str, Tensor]:
    """`tensors` with one element of tensor `name` replaced."""
    dtype, shape, data = tensors[name]
    one = encode([value], dtype)
    at = index % (len(data) // len(one)) * len(one)
    return {**tensors, name: (dtype, shape, data[:at] + one + data[at + len(one) :])}


VALUES = [
    Attack(
        f"{what} in {name.removeprefix(PREFIX)} ({dtype}), element {index}",
        safetensors(poisoned(lora_tensors(dtype), name, value, index)),
        NonFiniteValue,
    )
    for dtype in CARRIER
    for name in (f"{QUERY}lora_A.weight", f"{QUERY}lora_B.weight", f"{QUERY}lora_B.bias",
                 f"{PREFIX}classifier.weight")
    for what, value in NOT_FINITE.items()
    for index in (0, -1)
]  # fmt: skip

# ------------------------------------------------------------------------------------ expressions

# `a` and `b` are bound to harmless LoRAs.
EXPRESSIONS = [
    Attack("nothing", b"", ExpressionError),
    Attack("spaces", b" \t\n ", ExpressionError),
    Attack("a number", b"2", ExpressionError),
    Attack("an operator", b"+", ExpressionError),
    Attack("no operator", b"a b", ExpressionError),
    Attack("no right side", b"a +", ExpressionError),
    Attack("no left side", b"* a", ExpressionError),
    Attack("an open parenthesis", b"(a", ExpressionError),
    Attack("a closed parenthesis", b"a)", ExpressionError),
    Attack("empty parentheses", b"()", ExpressionError),
    Attack("a product", b"a * b", ExpressionError),
    Attack("a quotient", b"a / b", ExpressionError),
    Attack("a number over an adapter", b"2 / a", ExpressionError),
    Attack("an adapter and a number", b"a + 1", ExpressionError),
    Attack("a power", b"a ** 2", ExpressionError),
    Attack("whole division", b"a // 2", ExpressionError),
    Attack("a division by zero", b"a / 0", ExpressionError),
    Attack("a division by nothing", b"a / (1 - 1)", ExpressionError),
    Attack("zero over zero", b"0 / 0 * a", ExpressionError),
    Attack("an unknown name", b"a + c", ExpressionError),
    Attack("an open quotation", b'"a', ExpressionError),
    Attack("a bad escape", b'"\\q"', ExpressionError),
    Attack("Python", b"__import__('os').system('true')", ExpressionError),
    Attack("a call of Python", b"eval(a)", RequestError),
    Attack("an attribute", b"a.__class__", ExpressionError),
    Attack("an index", b"a[0]", ExpressionError),
    Attack("a lambda", b"lambda: a", ExpressionError),
    Attack("a comprehension", b"[a for a in b]", ExpressionError),
    Attack("a statement", b"a; b", ExpressionError),
    Attack("a comment", b"a # + b", ExpressionError),
    Attack("a format", b"{a}", ExpressionError),
    Attack("a set", b'a * {"x", "y"}', ExpressionError),
    Attack("a dictionary of adapters", b'a * {"x": b}', ExpressionError),
    Attack("a dictionary of dictionaries", b'a * {"x": {"y": 1}}', ExpressionError),
    Attack("open braces", b'a * {"x": ' * 9_000, UsageError),
    Attack("braces alone", b"{" * 99_000, UsageError),
    Attack(
        "too many keys", b"a * {" + b",".join(b'"k%d": 1' % n for n in range(4_000)), UsageError
    ),
    Attack("a long key", b'a * {"' + b"x." * 40_000 + b'x": 1}', ExpressionError),
    Attack("a key of numbers", b'a * {"x.' + b"9" * 190 + b'": 1}', RequestError),
    Attack("a wide range", b'a * {"x.0-' + b"9" * 190 + b'": 1}', RequestError),
    Attack("a pattern for a key", b'a * {"(x+x+)+y": 1, "*": 1}', RequestError),
    Attack("a path for a key", b'a * {"../../etc/passwd": 1, "*": 1}', ExpressionError),
    Attack("a key with ESC", b'a * {"\\u001b[31m": 1, "*": 1}', RequestError),
    Attack("other digits in a key", 'a * {"x.٣": 1, "*": 1}'.encode(), RequestError),
    Attack(
        "weights that overflow by layer", b'a * {"*": 1e30}' + b' * {"*": 1e30}' * 20, UsageError
    ),
    Attack("a shell", b"$(a) + `b`", ExpressionError),
    Attack("hexadecimal", b"0x10 * a", ExpressionError),
    Attack("underscores", b"1_000 * a", ExpressionError),
    Attack("a complex number", b"2j * a", ExpressionError),
    Attack("two points", b"1.2.3 * a", ExpressionError),
    Attack("other digits", "٣ * a".encode(), ExpressionError),
    Attack("wide digits", "３ * a".encode(), ExpressionError),
    Attack("another minus", "a \u2212 b".encode(), ExpressionError),
    Attack("infinity", b"inf * a", ExpressionError),
    Attack("not a number", b"nan * a", ExpressionError),
    Attack("too large", b"1e31 * a", ExpressionError),
    Attack("far too large", b"1e999999999 * a", ExpressionError),
    Attack("too small", b"1e-31 * a", ExpressionError),
    Attack("far too small", b"1e-999999999 * a", ExpressionError),
    Attack("too large as a product", b"1e30 * 1e30 * a", ExpressionError),
    Attack("too large by 200 factors", b"*".join([b"1e30"] * 200) + b" * a", UsageError),
    Attack("too large by 20,000 factors", b"*".join([b"1e30"] * 19_000) + b" * a", UsageError),
    Attack("too large from the right", b"a" + b" * 1e30" * 20, UsageError),
    Attack("too large in steps", b"1e30 * (" * 20 + b"a" + b")" * 20, UsageError),
    Attack("too small in steps", b"a" + b" / 1e30" * 20, UsageError),
    Attack("5,000 decimals", b"1." + b"0" * 5000 + b"1 * a", None),
    Attack("10,000 digits", b"1" * 10_000 + b" * a", ExpressionError),
    Attack("90,000 digits behind zeros", b"0" * 90_000 + b"1 * a", None),
    Attack("two long numbers", b"1." + b"1" * 3000 + b" * 1." + b"3" * 3000 + b" * a", None),
    Attack("too long", b"a" + b" " * LIMITS.expression_length, UsageError),
    Attack("parentheses", b"(" * 50_000 + b"a" + b")" * 49_000, UsageError),
    Attack("open parentheses", b"(" * 99_000, UsageError),
    Attack("minuses", b"-" * 99_000 + b"a", UsageError),
    Attack("pluses", b"+" * 99_000 + b"a", UsageError),
    Attack("calls", b"exact(" * 16_000, UsageError),
    Attack("lists", b"paper(a, weights=" + b"[" * 90_000, UsageError),
    Attack("closed lists", b"paper(a, weights=" + b"[" * 40_000 + b"]" * 40_000 + b")", UsageError),
    Attack("quotations", b'"' * 99_999, UsageError),
    Attack("backslashes in a quotation", b'"' + b"\\" * 99_000, UsageError),
    Attack("names", b"c" * 99_999, ExpressionError),
    Attack("NUL", b"a + \0b", ExpressionError),
    Attack("ESC", b"a + \x1b[31mb", ExpressionError),
    Attack("ESC far from the mistake", b'"\x1b]0;title\x07" + c', ExpressionError),
    Attack("bidi", "a + \u202eb".encode(), ExpressionError),
    Attack("bidi in a name's place", 'c + "\u202e\u2066x"'.encode(), ExpressionError),
    # Calls.
    Attack("an unknown method", b"average(a, b)", RequestError),
    Attack("a call of nothing", b"paper()", UsageError),
    Attack("a call with weights of nothing", b"exact(weights=[])", UsageError),
    Attack("an unknown option", b"paper(a, b, normalise=true)", RequestError),
    Attack("an option twice", b"paper(a, normalize=true, normalize=false)", ExpressionError),
    Attack("an option first", b"paper(normalize=true, a)", ExpressionError),
    Attack("an option of another type", b'paper(a, normalize="yes")', RequestError),
    Attack("an option that is an adapter", b"paper(a, normalize=(a))", ExpressionError),
    Attack("an option that is a name", b"paper(a, normalize=b)", ExpressionError),
    Attack("a number as an operand", b"paper(a, 2)", ExpressionError),
    Attack("too few weights", b"paper(a, b, weights=[1])", RequestError),
    Attack("too many weights", b"paper(a, weights=[1, 2])", RequestError),
    Attack("weights of text", b"paper(a, b, weights='ab')", RequestError),
    Attack("weights of lists", b"paper(a, b, weights=[[1], [2]])", RequestError),
    Attack("weights of booleans", b"paper(a, b, weights=[true, false])", RequestError),
    Attack("weights out of range", b"paper(a, weights=[1e30*1e30])", UsageError),
    Attack(
        "weights out of float64",
        b"paper(a, weights=[" + b"*".join([b"1e30"] * 20) + b"])",
        UsageError,
    ),
    Attack(
        "an option out of float64",
        b"peft_svd(a, b, svd_rank=" + b"*".join([b"1e30"] * 20) + b")",
        UsageError,
    ),
    Attack("rank zero", b"peft_svd(a, b, svd_rank=0)", RequestError),
    Attack("a negative rank", b"peft_svd(a, b, svd_rank=-3)", RequestError),
    Attack("a huge rank", b"peft_svd(a, b, svd_rank=1e30)", None),
    Attack("a clamp of two", b"peft_svd(a, b, svd_clamp=2)", RequestError),
    # Long, and right: these may be refused, but must not take for ever.
    Attack("50,000 terms", b"+".join([b"a"] * 50_000), None),
    Attack("25,000 scaled terms", b"+".join([b"2*a"] * 25_000), None),
    Attack("50,000 numbers", b"(" + b"+".join([b"1"] * 49_000) + b")*a", None),
    Attack("2,000 factors from the right", b"a" + b"*1" * 2_000, None),
    Attack("49,000 factors from the right", b"a" + b"*1" * 49_000, None),
    Attack("2,000 quotients", b"a" + b"/1" * 2_000, None),
    Attack(
        "12,000 fractions", b"(" + b"+".join(b"1/%d" % n for n in range(1, 12_000)) + b")*a", None
    ),
    Attack("190 parentheses", b"(" * 190 + b"a" + b")" * 190, None),
    Attack("150 calls", b"exact(" * 150 + b"a" + b")" * 150, None),
    Attack("calls that branch", b"exact(" * 12 + b"a,a" + b"),a" * 11 + b")", None),
    Attack("30,000 arguments", b"exact(" + b",".join([b"a"] * 30_000) + b")", None),
]
