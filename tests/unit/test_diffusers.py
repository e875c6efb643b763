"""diffusers' layout: its spellings, its config in the header, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.conversion.run import convert
from pemath.errors import (
    ConfigError,
    KindMismatch,
    LayoutError,
    NonFiniteValue,
    OutOfRange,
    PemathError,
    RequestError,
    UnsupportedFeature,
)

from . import pipeline_files as files

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
LAYER = "text_model.encoder.layers.0"
_A, _B = files.factors("a", 0, 4)


def pair(a: str, b: str) -> dict[str, Any]:
    return {a: _A, b: _B}


@pytest.mark.parametrize(
    ("stem", "down", "up", "site"),
    [
        (f"unet.{ATTENTION}.to_q", ".lora_A.weight", ".lora_B.weight", f"{ATTENTION}.to_q"),
        (f"unet.{ATTENTION}.to_q", ".lora.down.weight", ".lora.up.weight", f"{ATTENTION}.to_q"),
        (
            f"unet.{ATTENTION}.processor.to_q_lora",
            ".down.weight",
            ".up.weight",
            f"{ATTENTION}.to_q",
        ),
        (
            f"unet.{ATTENTION}.processor.to_out_lora",
            ".down.weight",
            ".up.weight",
            f"{ATTENTION}.to_out.0",
        ),
        (
            f"{ATTENTION}.processor.to_v_lora",
            ".down.weight",
            ".up.weight",
            f"{ATTENTION}.to_v",
        ),
        (
            f"text_encoder.{LAYER}.self_attn.to_out_lora",
            ".down.weight",
            ".up.weight",
            f"{LAYER}.self_attn.out_proj",
        ),
        (
            f"text_encoder_2.{LAYER}.self_attn.k_proj.lora_linear_layer",
            ".down.weight",
            ".up.weight",
            f"{LAYER}.self_attn.k_proj",
        ),
        (
            "transformer.single_transformer_blocks.3.proj_mlp",
            ".lora_A.weight",
            ".lora_B.weight",
            "single_transformer_blocks.3.proj_mlp",
        ),
    ],
)
def test_spellings(tmp_path: Path, stem: str, down: str, up: str, site: str) -> None:
    path = files.saved(tmp_path / "x.safetensors", pair(stem + down, stem + up))
    convert(path, "peft", tmp_path / "out")
    tensors = files.tensors_of(tmp_path / "out")
    assert set(tensors) == {f"{site}.lora_A.weight", f"{site}.lora_B.weight"}
    assert np.array_equal(tensors[f"{site}.lora_A.weight"], _A)
    assert np.array_equal(tensors[f"{site}.lora_B.weight"], _B)
    config = files.config_of(tmp_path / "out")
    assert config["r"] == config["lora_alpha"] == 4


def file_with(tmp_path: Path, metadata: Any = None, **more: Any) -> Path:
    """A file with one site of a UNet. `metadata` is the config in its header."""
    tensors = pair(f"unet.{ATTENTION}.to_q.lora_A.weight", f"unet.{ATTENTION}.to_q.lora_B.weight")
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    header = {"format": "pt"} | ({} if metadata is None else {"lora_adapter_metadata": text})
    path = tmp_path / "pytorch_lora_weights.safetensors"
    return files.saved(path, tensors | {k.replace("__", "."): v for k, v in more.items()}, header)


def test_alpha_in_a_tensor(tmp_path: Path) -> None:
    path = file_with(tmp_path, **{f"unet.{ATTENTION}.to_q.alpha": np.float16(1)})
    convert(path, "peft", tmp_path / "out", base_model="the/base")
    config = files.config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (4, 1)
    assert config["base_model_name_or_path"] == "the/base"


def test_two_sites_of_one_name(tmp_path: Path) -> None:
    """CLIP's text encoders with and without their wrapper, in one file."""
    tensors = {
        f"lora_te_{start}encoder_layers_0_self_attn_q_proj.lora_{x}.weight": factor
        for start in ("text_model_", "")
        for x, factor in (("down", _A), ("up", _B))
    }
    path = files.saved(tmp_path / "a.safetensors", tensors)
    with pytest.raises(LayoutError, match="two sites"):
        convert(path, "diffusers", tmp_path / "out.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_config_in_the_header(tmp_path: Path) -> None:
    metadata = {
        "unet.r": 8,
        "unet.lora_alpha": 3,
        "unet.rank_pattern": {f"^{ATTENTION}.to_q": 4},
        "unet.alpha_pattern": {"to_q": 5},
        "unet.use_rslora": True,
        "unet.target_modules": ["to_q", "to_k"],
        "unet.exclude_modules": ["to_q"],
        "unet.something_new": {"a": 1},
        "text_encoder.use_dora": True,
    }
    file_with(tmp_path, metadata)
    folder = tmp_path / "out"
    convert(tmp_path, "peft", folder)  # the folder with the file, as save_lora_weights leaves it
    config = files.config_of(folder)
    assert config["use_rslora"] is True
    assert config["something_new"] == {"a": 1}
    assert config["target_modules"] == [f"{ATTENTION}.to_q"]
    assert config["exclude_modules"] is None
    done = convert(folder, "diffusers", tmp_path / "again.safetensors", dtype="float64")
    stored = files.load_file(tmp_path / "again.safetensors")[f"unet.{ATTENTION}.to_q.lora_B.weight"]
    assert np.allclose(stored, 5 / np.sqrt(4) * _B.astype("f8"), rtol=1e-15)
    assert done.outcome.certificate is not None
    assert done.outcome.certificate.error < 1e-15


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ("[1]", ConfigError, "not a JSON object"),
        ("{", ConfigError, "not valid JSON"),
        ('{"unet.r": 4, "unet.r": 4}', ConfigError, "twice"),
        ('{"unet.r": NaN}', ConfigError, "not valid JSON"),
        ('{"unet.r": 1e999}', ConfigError, "not valid JSON"),
        ("[" * 100_000, ConfigError, "not valid JSON"),
        ('{"unet.x": ' + "[" * 100 + "]" * 100 + "}", ConfigError, "too deeply"),
        ('{"r": 4}', ConfigError, "no field of a component"),
        ({"unet.r": 5, "unet.lora_alpha": 1}, LayoutError, "disagree on the rank"),
        ({"unet.r": 4}, ConfigError, "lora_alpha"),
        ({"unet.r": 4, "unet.lora_alpha": "x"}, ConfigError, "lora_alpha"),
        ({"unet.r": 4, "unet.lora_alpha": 1, "unet.use_dora": True}, UnsupportedFeature, "DoRA"),
        ({"unet.r": 4, "unet.lora_alpha": 1, "unet.alpha_pattern": 3}, ConfigError, "pattern"),
        (
            {"unet.r": 4, "unet.lora_alpha": 1, "unet.rank_pattern": {"(a+)+$": 3}},
            UnsupportedFeature,
            "too complex",
        ),
    ],
)
def test_a_hostile_config(
    tmp_path: Path, metadata: Any, error: type[PemathError], words: str
) -> None:
    path = file_with(tmp_path, metadata)
    for target in ("peft", "kohya"):
        with pytest.raises(error, match=words):
            convert(path, target, tmp_path / "out")
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({f"unet.{ATTENTION}.to_q.lora_magnitude_vector": _A}, UnsupportedFeature, "DoRA"),
        ({f"unet.{ATTENTION}.to_q.lora_B.bias": _A[0]}, UnsupportedFeature, "bias"),
        ({f"unet.{ATTENTION}.norm_q.weight": _A[0]}, UnsupportedFeature, "norm"),
        ({f"unet.{ATTENTION}.to_q.weight": _A}, LayoutError, "no part of a LoRA"),
        ({"diffusion_model.x.lora_A.weight": _A}, LayoutError, "no tensor of diffusers'"),
        ({f"{ATTENTION}.to_q.lora_A.weight": _A}, LayoutError, "two tensors"),
        ({"unet.conv_in.lora_A.weight": _A}, LayoutError, "lacks one"),
        ({f"unet.{ATTENTION}.to_q.alpha": np.float32(np.nan)}, NonFiniteValue, "alpha"),
        ({f"unet.{ATTENTION}.to_q.lora_A.weight": _A + np.inf}, NonFiniteValue, "NaN or inf"),
    ],
)
def test_refused_by_name(
    tmp_path: Path, more: Mapping[str, Any], error: type[PemathError], words: str
) -> None:
    path = file_with(tmp_path, **more)
    for target in ("peft", "kohya"):
        with pytest.raises(error, match=words):
            convert(path, target, tmp_path / "out")
        assert len(list(tmp_path.iterdir())) == 1


def test_the_scaling_is_not_said_twice(tmp_path: Path) -> None:
    more = {f"unet.{ATTENTION}.to_q.alpha": np.float32(1)}
    path = file_with(tmp_path, {"unet.r": 4, "unet.lora_alpha": 1}, **more)
    with pytest.raises(LayoutError, match="twice"):
        convert(path, "peft", tmp_path / "out")


def test_scales_that_round_are_certified(tmp_path: Path) -> None:
    folder = files.peft(tmp_path / "a", files.UNET, dtype="f2", lora_alpha=3)
    done = convert(folder, "diffusers", tmp_path / "x.safetensors")
    certificate = done.outcome.certificate
    assert certificate is not None
    assert 1e-6 < certificate.error < 2**-11
    off = size = 0.0
    found = files.load_file(tmp_path / "x.safetensors")
    for site in files.UNET:
        a, b = files.factors(site, 0, 4, "f2")
        exact = 0.75 * files.product(a, b)
        stored = files.product(
            found[f"unet.{site}.lora_A.weight"], found[f"unet.{site}.lora_B.weight"]
        )
        off, size = off + np.sum((stored - exact) ** 2), size + np.sum(exact**2)
    assert np.isclose(certificate.error, np.sqrt(off / size), rtol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = files.peft(tmp_path / "a", files.UNET, dtype="f2", lora_alpha=1e7)
    with pytest.raises(OutOfRange, match="float16"):
        convert(folder, "diffusers", tmp_path / "x.safetensors")
    convert(folder, "diffusers", tmp_path / "x.safetensors", dtype="float32")


def test_only_plain_lora(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    files.peft(folder, [f"{ATTENTION}.to_q"])
    site = f"base_model.model.{ATTENTION}.to_q.ia3_l"
    files.saved(folder / "adapter_model.safetensors", {site: np.ones((4, 1), "f4")})
    text = json.dumps({"peft_type": "IA3", "feedforward_modules": []})
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(KindMismatch, match="plain LoRA only"):
        convert(folder, "diffusers", tmp_path / "x.safetensors")


def test_text_encoders_must_be_named(tmp_path: Path) -> None:
    folder = files.peft(tmp_path / "a", [f"{LAYER}.mlp.fc1"])
    with pytest.raises(RequestError, match="--component"):
        convert(folder, "diffusers", tmp_path / "x.safetensors")
    convert(folder, "diffusers", tmp_path / "x.safetensors", component="text_encoder_2")
    assert f"text_encoder_2.{LAYER}.mlp.fc1.lora_A.weight" in files.load_file(
        tmp_path / "x.safetensors"
    )
