"""GGUF adapters: what lies in the file, by the `gguf` package; names, rows and refusals."""

import contextlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.conversion.run import convert
from pemath.errors import (
    BadHeader,
    BadShape,
    BaseMismatch,
    ConfigError,
    DuplicateTensor,
    FileFormatError,
    NonFiniteValue,
    OutOfRange,
    PemathError,
    RequestError,
    ShapeMismatch,
    StorageError,
    TruncatedFile,
    UnsupportedFeature,
)
from pemath.formats import gguf as layout

from . import pipeline_files as files

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

HEADS, KEY_HEADS, WIDTH, INNER = 4, 2, 16, 24
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH * KEY_HEADS // HEADS, WIDTH),
    "self_attn.v_proj": (WIDTH * KEY_HEADS // HEADS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
SITES = {f"model.layers.{n}.{name}": shape for n in (0, 11) for name, shape in SHAPES.items()}


def adapter(
    folder: Path,
    sites: Mapping[str, tuple[int, int]] = SITES,
    dtype: str = "f4",
    rank: int = 3,
    **config: Any,
) -> Path:
    """A LoRA with random factors on these weights [out, in]."""
    random, tensors = np.random.default_rng(0), {}
    for site, (rows, columns) in sites.items():
        r = config.get("rank_pattern", {}).get(site, rank)
        tensors[f"base_model.model.{site}.lora_A.weight"] = random.standard_normal((r, columns))
        tensors[f"base_model.model.{site}.lora_B.weight"] = random.standard_normal((rows, r))
    stated = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_modules": list(sites)}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(stated | config), encoding="utf-8")
    return files.saved(
        folder / "adapter_model.safetensors", {n: t.astype(dtype) for n, t in tensors.items()}
    ).parent


def base_folder(folder: Path, **config: Any) -> Path:
    """A base model's folder with its config."""
    folder.mkdir()
    stated = {"model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS}
    (folder / "config.json").write_text(json.dumps(stated | config), encoding="utf-8")
    files.saved(folder / "model.safetensors", {"x.weight": np.zeros((2, 2), "f4")})
    return folder


def base_file(path: Path, architecture: str = "llama", **skipped: Any) -> Path:
    """A base model's GGUF file, written by the `gguf` package."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_token_list(["a", "b" * 3000, "ü"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_bool("a.switch", val=True)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    for site, shape in SITES.items():
        last = site.rsplit(".", 1)[1]
        name = names.get(last, f"ffn_{last.removesuffix('_proj')}")
        writer.add_tensor(f"blk.{site.split('.')[2]}.{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_back(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and tensors by the peer's reader."""
    reader = gguf.GGUFReader(path)
    keys = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF")}
    return keys, {t.name: np.array(t.data) for t in reader.tensors}


def interleaved(rows: Any, heads: int) -> Any:
    """Row by row: head h's row i of the first half goes to 2 i, of the second to 2 i + 1."""
    size = len(rows) // heads
    result = np.empty_like(rows)
    for head in range(heads):
        for i in range(size // 2):
            result[head * size + 2 * i] = rows[head * size + i]
            result[head * size + 2 * i + 1] = rows[head * size + size // 2 + i]
    return result


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_a_file_as_the_peer_reads_it(tmp_path: Path, dtype: str) -> None:
    folder = adapter(tmp_path / "a", dtype=dtype)
    done = convert(folder, "gguf", tmp_path / "a.gguf", base_gguf=base_file(tmp_path / "base.gguf"))
    keys, found = read_back(tmp_path / "a.gguf")
    assert keys == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,
    }
    tensors = files.tensors_of(folder)
    assert len(found) == len(tensors)
    assert {tensor.dtype for tensor in found.values()} == {np.dtype(dtype)}
    for layer in (0, 11):
        for module, heads in (("q", HEADS), ("k", KEY_HEADS)):
            site = f"model.layers.{layer}.self_attn.{module}_proj"
            stored = found[f"blk.{layer}.attn_{module}.weight.lora_b"]
            assert np.array_equal(stored, interleaved(tensors[f"{site}.lora_B.weight"], heads))
            a = found[f"blk.{layer}.attn_{module}.weight.lora_a"]
            assert np.array_equal(a, tensors[f"{site}.lora_A.weight"])
        for name, site in (("attn_v", "self_attn.v_proj"), ("ffn_down", "mlp.down_proj")):
            stored = found[f"blk.{layer}.{name}.weight.lora_b"]
            whole = f"model.layers.{layer}.{site}.lora_B.weight"
            assert np.array_equal(stored, tensors[whole])
    assert done.outcome.certificate is not None
    assert done.outcome.certificate.deviation == 0


def test_the_same_from_the_bases_config(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    convert(folder, "gguf", tmp_path / "x.gguf", base_gguf=base_file(tmp_path / "base.gguf"))
    convert(folder, "gguf", tmp_path / "y.gguf", base_weights=base_folder(tmp_path / "base"))
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()


def test_every_site_has_its_scale(tmp_path: Path) -> None:
    """llama.cpp acts with alpha / rank at each tensor; one alpha for all."""
    sites = list(SITES)
    settings = {
        "rank_pattern": {sites[2]: 5, sites[6]: 1},
        "alpha_pattern": {sites[3]: 2, sites[4]: 0, sites[5]: -7.3},
    }
    folder = adapter(tmp_path / "a", **settings)
    done = convert(folder, "gguf", tmp_path / "a.gguf", base_weights=base_folder(tmp_path / "b"))
    keys, found = read_back(tmp_path / "a.gguf")
    tensors, off, size = files.tensors_of(folder), 0.0, 0.0
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 12)
    for site in sites:
        name = names.get_name(f"{site}.weight", try_suffixes=(".weight",))
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        stored = keys["adapter.lora.alpha"] / a.shape[0] * files.product(a, b)
        rank = settings["rank_pattern"].get(site, 3)
        scale = settings["alpha_pattern"].get(site, 6) / rank
        exact = scale * files.product(
            tensors[f"{site}.lora_A.weight"], tensors[f"{site}.lora_B.weight"]
        )
        heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(site.rsplit(".", 1)[1])
        exact = interleaved(exact, heads) if heads else exact
        assert np.allclose(stored, exact, rtol=1e-6, atol=1e-6), site
        off, size = off + np.sum((stored - exact) ** 2), size + np.sum(exact**2)
    assert done.outcome.certificate is not None
    assert np.isclose(done.outcome.certificate.error, np.sqrt(off / size), rtol=1e-3)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("llama", "LLAMA"),
        ("mistral", "LLAMA"),
        ("qwen2", "QWEN2"),
        ("qwen3", "QWEN3"),
        ("gemma", "GEMMA"),
        ("gemma2", "GEMMA2"),
    ],
)
def test_names_are_the_peers(tmp_path: Path, model_type: str, architecture: str) -> None:
    kind = gguf.MODEL_ARCH[architecture]
    sites = SITES | ({"lm_head": (40, WIDTH)} if "gemma" not in model_type else {})
    folder = adapter(tmp_path / "a", sites)
    base = base_folder(tmp_path / "base", model_type=model_type)
    convert(folder, "gguf", tmp_path / "a.gguf", base_weights=base)
    keys, found = read_back(tmp_path / "a.gguf")
    assert keys["general.architecture"] == gguf.MODEL_ARCH_NAMES[kind]
    names = gguf.get_tensor_name_map(kind, 12)
    expected = {names.get_name(f"{site}.weight", try_suffixes=(".weight",)) for site in sites}
    assert set(found) == {f"{name}.lora_{part}" for name in expected for part in "ab"}
    if kind is not gguf.MODEL_ARCH.LLAMA:  # no other one reorders its rows
        site = "model.layers.0.self_attn.q_proj.lora_B.weight"
        assert np.array_equal(found["blk.0.attn_q.weight.lora_b"], files.tensors_of(folder)[site])


def test_types(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    folder = adapter(tmp_path / "a", dtype="f8")
    done = convert(folder, "gguf", tmp_path / "a.gguf", base_weights=base)
    _, found = read_back(tmp_path / "a.gguf")
    assert {t.dtype for t in found.values()} == {np.dtype("f4")}
    assert done.outcome.certificate is not None
    assert 0 < done.outcome.certificate.error < 2**-23
    convert(folder, "gguf", tmp_path / "b.gguf", base_weights=base, dtype="float16")
    _, found = read_back(tmp_path / "b.gguf")
    assert {t.dtype for t in found.values()} == {np.dtype("f2")}
    with pytest.raises(RequestError, match="float32 or float16"):
        convert(folder, "gguf", tmp_path / "c.gguf", base_weights=base, dtype="bfloat16")
    huge = adapter(tmp_path / "huge", lora_alpha=1, alpha_pattern={next(iter(SITES)): 1e9})
    with pytest.raises(OutOfRange):
        convert(huge, "gguf", tmp_path / "c.gguf", base_weights=base, dtype="float16")
    convert(huge, "gguf", tmp_path / "c.gguf", base_weights=base)


@pytest.mark.parametrize(
    ("sites", "config", "error", "words"),
    [
        ({"model.layers.0.mlp.experts": (8, 8)}, {}, UnsupportedFeature, "no place"),
        ({"model.embed_tokens": (8, 8)}, {}, UnsupportedFeature, "no place"),
        ({"model.layers.99999.mlp.up_proj": (8, 8)}, {}, UnsupportedFeature, "no place"),
        ({"model.layers.٣.mlp.up_proj": (8, 8)}, {}, UnsupportedFeature, "no place"),
        ({"model.layers.0.self_attn.q_proj": (12, 16)}, {}, ShapeMismatch, "divide"),
        (
            {"model.layers.0.mlp.up_proj": (8, 8), "layers.0.mlp.up_proj": (8, 8)},
            {},
            UnsupportedFeature,
            "two sites",
        ),
        (
            {"model.layers.1.mlp.up_proj": (8, 8), "model.layers.01.mlp.up_proj": (8, 8)},
            {},
            UnsupportedFeature,
            "two sites",
        ),
        (SITES, {"use_dora": True}, UnsupportedFeature, "DoRA"),
        (SITES, {"peft_type": "IA3"}, PemathError, "IA3|ia3"),
    ],
)
def test_adapters_that_have_no_place(
    tmp_path: Path, sites: Any, config: Any, error: type[PemathError], words: str
) -> None:
    folder, base = adapter(tmp_path / "a", sites, **config), base_folder(tmp_path / "base")
    with pytest.raises(error, match=words):
        convert(folder, "gguf", tmp_path / "a.gguf", base_weights=base)
    assert not (tmp_path / "a.gguf").exists()


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    folder, base = adapter(tmp_path / "a"), base_folder(tmp_path / "base")
    tensors = files.load_file(folder / "adapter_model.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name] * np.nan
    files.saved(folder / "adapter_model.safetensors", tensors)
    with pytest.raises(NonFiniteValue):
        convert(folder, "gguf", tmp_path / "a.gguf", base_weights=base)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"model_type": "gpt2"}, UnsupportedFeature),
        ({"model_type": ["llama"]}, UnsupportedFeature),
        ({"num_attention_heads": None}, ConfigError),
        ({"num_attention_heads": 0}, ConfigError),
        ({"num_attention_heads": True}, ConfigError),
        ({"num_key_value_heads": [2, 2]}, ConfigError),
        ({"num_key_value_heads": 1 << 40}, ConfigError),
    ],
)
def test_bases_that_are_refused(tmp_path: Path, config: Any, error: type[PemathError]) -> None:
    folder, base = adapter(tmp_path / "a"), base_folder(tmp_path / "base", **config)
    with pytest.raises(error):
        convert(folder, "gguf", tmp_path / "a.gguf", base_weights=base)


def test_a_base_is_needed_and_must_fit(tmp_path: Path) -> None:
    folder, out = adapter(tmp_path / "a"), tmp_path / "a.gguf"
    with pytest.raises(RequestError, match="--base-gguf"):
        convert(folder, "gguf", out)
    base = base_file(tmp_path / "base.gguf")
    other = adapter(tmp_path / "b", {"model.layers.0.mlp.up_proj": (INNER, WIDTH + 1)})
    with pytest.raises(BaseMismatch, match="this shape"):
        convert(other, "gguf", out, base_gguf=base)
    tied = adapter(tmp_path / "c", {"lm_head": (40, WIDTH)})
    with pytest.raises(BaseMismatch, match="no such tensor"):
        convert(tied, "gguf", out, base_gguf=base)
    bare = tmp_path / "bare.gguf"  # as files are that hold a vocabulary only
    writer = gguf.GGUFWriter(bare, "llama")
    writer.add_head_count(HEADS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BaseMismatch, match="no such tensor"):
        convert(folder, "gguf", out, base_gguf=bare)
    convert(folder, "gguf", out, base_gguf=base)
    with pytest.raises(ConfigError, match="no model"):  # an adapter is not a base
        convert(folder, "gguf", tmp_path / "again.gguf", base_gguf=out)
    unknown = base_file(tmp_path / "unknown.gguf", "falcon")
    with pytest.raises(UnsupportedFeature, match="falcon"):
        convert(folder, "gguf", tmp_path / "again.gguf", base_gguf=unknown)
    with pytest.raises(StorageError):
        convert(folder, "gguf", tmp_path / "again.gguf", base_gguf=tmp_path / "none.gguf")


# ------------------------------------------------------------------------------------- hostile


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(
    keys: bytes = b"", tensors: bytes = b"", counts: tuple[int, int] = (0, 0), version: int = 3
) -> bytes:
    """`counts` are of tensors and keys."""
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + keys + tensors


def tensor(name: bytes, *shape: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", TruncatedFile),
        (b"GGUF", TruncatedFile),
        (b"GGJT" + bytes(60), BadHeader),
        (header(version=1), BadHeader),
        (header(version=0x03000000), BadHeader),  # the other byte order
        (header(counts=(1 << 60, 0)), BadHeader),
        (header(counts=(0, 1 << 60)), BadHeader),
        (header(counts=(1, 0)), TruncatedFile),
        (header(text(b"k")[:-1], counts=(0, 1)), TruncatedFile),
        (header(struct.pack("<Q", 1 << 63) + b"k", counts=(0, 1)), BadHeader),
        (header(text(b""), counts=(0, 1)), BadHeader),
        (header(text(b"\xff") + bytes(12), counts=(0, 1)), BadHeader),
        (header(text(b"a\x1bb") + bytes(12), counts=(0, 1)), BadHeader),
        (header(text(b"k") + struct.pack("<I", 13), counts=(0, 1)), BadHeader),
        (header(text(b"k") + struct.pack("<IQ", 8, 1 << 62), counts=(0, 1)), BadHeader),
        (header(text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 62), counts=(0, 1)), TruncatedFile),
        (header(text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 62), counts=(0, 1)), TruncatedFile),
        (header(text(b"k") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)), BadHeader),
        (header(2 * (text(b"k") + struct.pack("<IB", 0, 1)), counts=(0, 2)), BadHeader),
        (header(tensors=2 * tensor(b"t", 1), counts=(2, 0)), DuplicateTensor),
        (header(tensors=tensor(b"t", 1, 1, 1, 1, 1), counts=(1, 0)), BadShape),
        (header(tensors=tensor(b"t", 1 << 62, 1 << 62), counts=(1, 0)), BadShape),
    ],
)
def test_hostile_bases(tmp_path: Path, data: bytes, error: type[PemathError]) -> None:
    base, folder = tmp_path / "base.gguf", adapter(tmp_path / "a")
    base.write_bytes(data)
    with pytest.raises(error):
        layout.read_header(base)
    with pytest.raises(error):
        convert(folder, "gguf", tmp_path / "a.gguf", base_gguf=base)
    assert not (tmp_path / "a.gguf").exists()


@settings(max_examples=300)
@given(st.data())
def test_no_damage_to_a_base_gives_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "intact.gguf"
    whole = (path if path.exists() else base_file(path)).read_bytes()
    start = data.draw(st.integers(0, min(len(whole), 4500)))
    stop = data.draw(st.integers(start, start + 12))
    damaged = whole[:start] + data.draw(st.binary(max_size=12)) + whole[stop:]
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if start % 2 else damaged
    other = path.with_name("damaged.gguf")
    other.write_bytes(damaged)
    with contextlib.suppress(FileFormatError):
        layout.read_header(other)


@pytest.mark.parametrize("count", [0, 1, 7, 32, 33])
def test_data_is_aligned(tmp_path: Path, count: int) -> None:
    tensors = {"a": np.arange(count, dtype="f4"), "b": np.ones((2, 3), "f2")}
    specs = {name: (values.shape, values.dtype) for name, values in tensors.items()}
    keys = {"general.architecture": "llama", "n": 0.5}
    layout.write(tmp_path / "x.gguf", keys, specs, tensors.values())
    found = layout.read_header(tmp_path / "x.gguf")
    assert found.metadata == {"general.architecture": "llama", "n": 0.5}
    assert found.shapes == {"a": (count,), "b": (2, 3)}
    _, peer = read_back(tmp_path / "x.gguf")
    for name, values in tensors.items():
        assert np.array_equal(peer[name].reshape(values.shape), values)
