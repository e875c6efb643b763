"""kohya's layout: which module a name is, what alpha means, and what is refused."""

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

from pemath.conversion._parts import alpha_for
from pemath.conversion.run import convert
from pemath.errors import (
    FileFormatError,
    KindMismatch,
    LayoutError,
    NonFiniteValue,
    PemathError,
    ReferenceNotFound,
    RequestError,
    UnsupportedFeature,
)
from pemath.formats.kohya import read, spellings
from pemath.formats.peft import PeftFolder
from pemath.formats.safetensors import TensorFile
from pemath.kinds import open_adapter

from . import pipeline_files as files

TO_Q = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
SITE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("component", "site"),
    [
        *(("unet", site) for site in files.UNET),
        *(("text_encoder", site) for site in files.TEXT),
        *(("text_encoder_3", site) for site in files.T5),
        *(("transformer", site) for site in files.FLUX),
    ],
)
def test_a_known_name_is_told_back(component: str, site: str) -> None:
    assert spellings(site.replace(".", "_"), component) == [site]


@pytest.mark.parametrize(
    ("original", "site"),
    [
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_2_0_emb_layers_1", "down_blocks.0.resnets.1.time_emb_proj"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"),
        (
            "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
        ),
        ("middle_block_0_out_layers_3", "mid_block.resnets.0.conv2"),
        (
            "middle_block_1_transformer_blocks_3_attn2_to_out_0",
            "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0",
        ),
        ("middle_block_2_in_layers_2", "mid_block.resnets.1.conv1"),
        (
            "output_blocks_0_1_transformer_blocks_0_attn1_to_k",
            "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k",
        ),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),  # SDXL
        ("output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),  # SD 1: no attention there
        ("output_blocks_5_1_proj_out", "up_blocks.1.attentions.2.proj_out"),
        ("output_blocks_8_0_in_layers_2", "up_blocks.2.resnets.2.conv1"),
        ("time_embed_2", "time_embedding.linear_2"),
        ("label_emb_0_0", "add_embedding.linear_1"),
        ("out_2", "conv_out"),
    ],
)
def test_names_of_the_original_code_are_translated(
    tmp_path: Path, original: str, site: str
) -> None:
    path = files.kohya(tmp_path / "x.safetensors", "lora_unet", [original])
    assert list(read(TensorFile.open(path)).found["unet"]) == [site]


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("lora_unet", "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_z"),
        ("lora_unet", "down_blocks_0__attentions"),
        ("lora_unet", "input_blocks_3_0_conv"),
        ("lora_unet", "output_blocks_1_2_conv"),
        ("lora_unet", "middle_block_3_in_layers_2"),
        ("lora_unet", "text_model_encoder_layers_0_self_attn_q_proj"),
        ("lora_te", "down_blocks_0_resnets_0_conv1"),
        ("lora_te", "text_model_encoder_layers_²_mlp_fc1"),
        ("lora_unet", "_".join(["conv"] * 80) + "_"),
    ],
)
def test_a_name_that_known_words_do_not_make_is_refused(
    tmp_path: Path, prefix: str, name: str
) -> None:
    path = files.kohya(tmp_path / "x.safetensors", prefix, [name])
    with pytest.raises(LayoutError) as caught:
        convert(path, "peft", tmp_path / "out")
    assert "--base-weights" in str(caught.value)
    assert name[:60] in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_ambiguous_name_lists_what_it_may_be(tmp_path: Path) -> None:
    base = _base(tmp_path / "base", ["a_b.c", "a.b.c", "x.y"])
    path = files.kohya(tmp_path / "x.safetensors", "lora_unet", ["a_b_c"])
    with pytest.raises(LayoutError, match=r"`a.b.c`, `a_b.c`"):
        convert(path, "peft", tmp_path / "out", base_weights=base)


def test_names_are_looked_up_among_the_base_modules(tmp_path: Path) -> None:
    base = _base(tmp_path / "base", ["strange_part.0.one_word", "other"])
    path = files.kohya(tmp_path / "x.safetensors", "lora_unet", ["strange_part_0_one_word"])
    convert(path, "peft", tmp_path / "out", base_weights=base)
    assert "strange_part.0.one_word.lora_A.weight" in files.tensors_of(tmp_path / "out")
    other = files.kohya(tmp_path / "y.safetensors", "lora_unet", [TO_Q])
    with pytest.raises(LayoutError, match="base weights"):  # a known name, but not of this base
        convert(other, "peft", tmp_path / "no", base_weights=base)


def test_clip_is_found_with_and_without_its_wrapper(tmp_path: Path) -> None:
    bare = _base(tmp_path / "base", ["encoder.layers.0.mlp.fc1"])
    path = files.kohya(
        tmp_path / "x.safetensors", "lora_te", ["text_model_encoder_layers_0_mlp_fc1"]
    )
    convert(path, "peft", tmp_path / "out", base_weights=bare)
    assert "encoder.layers.0.mlp.fc1.lora_A.weight" in files.tensors_of(tmp_path / "out")
    convert(path, "peft", tmp_path / "plain")
    assert "text_model.encoder.layers.0.mlp.fc1.lora_B.weight" in files.tensors_of(
        tmp_path / "plain"
    )


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (None, 4),  # the rank
        (np.float32(1), 1),
        (np.float16(2.5), 2.5),
        (np.asarray([8], np.int64), 8),
        (np.float64(0.1), 0.1),
    ],
)
def test_alpha(tmp_path: Path, alpha: Any, expected: float) -> None:
    path = files.kohya(tmp_path / "x.safetensors", "lora_unet", [TO_Q], alpha=alpha)
    convert(path, "peft", tmp_path / "out")
    config = files.config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (4, expected)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["target_modules"] == [SITE]


def test_ranks_and_alphas_that_differ_become_patterns(tmp_path: Path) -> None:
    a, b = files.factors("a", 0, 2)
    path = files.kohya(
        tmp_path / "x.safetensors", "lora_transformer",
        ["proj_out", "single_transformer_blocks_0_proj_out", "x_embedder"], alpha=np.float32(4),
        **{"lora_transformer_context_embedder.lora_down.weight": a,
           "lora_transformer_context_embedder.lora_up.weight": b},
    )  # fmt: skip
    convert(path, "peft", tmp_path / "out")
    config = files.config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"context_embedder": 2}
    # A pattern of a name that another name ends with must not reach that one.
    again = files.saved(
        tmp_path / "y.safetensors",
        {
            "lora_transformer_proj_out.lora_down.weight": a,
            "lora_transformer_proj_out.lora_up.weight": b,
            **files_of(tmp_path / "x.safetensors", "lora_transformer_single"),
            **files_of(tmp_path / "x.safetensors", "lora_transformer_x_embedder"),
        },
    )
    convert(again, "peft", tmp_path / "again")
    assert files.config_of(tmp_path / "again")["rank_pattern"] == {"^proj_out": 2}


def test_a_file_with_several_parts_needs_a_choice(tmp_path: Path) -> None:
    a, b = files.factors("a", 0, 4)
    path = files.kohya(
        tmp_path / "x.safetensors", "lora_unet", [TO_Q],
        **{"lora_te1_text_projection.lora_down.weight": a,
           "lora_te1_text_projection.lora_up.weight": b,
           "lora_te2_what_ever.diff": a},
    )  # fmt: skip
    with pytest.raises((RequestError, UnsupportedFeature)):
        convert(path, "peft", tmp_path / "out")
    convert(path, "peft", tmp_path / "out", component="text_encoder")  # the rest is not looked at
    assert set(files.tensors_of(tmp_path / "out")) == {
        "text_projection.lora_A.weight",
        "text_projection.lora_B.weight",
    }
    with pytest.raises(RequestError, match="no part `transformer`"):
        convert(path, "peft", tmp_path / "no", component="transformer")
    with pytest.raises(RequestError, match="no part of a pipeline"):
        convert(path, "diffusers", tmp_path / "no", component="vae")


def test_the_trainers_metadata_is_dropped_and_said_so(tmp_path: Path) -> None:
    metadata = {"ss_network_dim": "4", "ss_tag_frequency": "\x1b[31m", "format": "pt"}
    path = files.kohya(tmp_path / "x.safetensors", "lora_unet", [TO_Q], metadata=metadata)
    done = convert(path, "peft", tmp_path / "out")
    assert any("2 entries" in note for note in done.outcome.notes)
    written = TensorFile.open(tmp_path / "out" / "adapter_model.safetensors")
    assert written.metadata == {"format": "pt"}
    assert "ss_" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


_A, _B = files.factors("a", 0, 4)
_PAIR = {f"lora_unet_{TO_Q}.lora_down.weight": _A, f"lora_unet_{TO_Q}.lora_up.weight": _B}


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({f"lora_unet_{TO_Q}.dora_scale": _A}, UnsupportedFeature, "DoRA"),
        ({f"lora_unet_{TO_Q}.lora_mid.weight": _A}, UnsupportedFeature, "three factors"),
        ({"lora_unet_conv_in.hada_w1_a": _A}, UnsupportedFeature, "several kinds"),
        ({"lora_unet_conv_in.lokr_w1": _A}, UnsupportedFeature, "several kinds"),
        ({f"lora_unet_{TO_Q}.scalar": _A}, UnsupportedFeature, "trained scale"),
        ({"lora_unet_conv_in.diff": _A}, UnsupportedFeature, "dense change"),
        ({"lora_unet_conv_in.what": _A}, LayoutError, "no part of a LoRA"),
        ({"text_model.x": _A}, LayoutError, "no tensor of kohya's layout"),
        ({"lora_unet_conv_in.lora_up.weight": _B}, LayoutError, "lacks one"),
        ({"lora_unet_conv_in.alpha": np.float32(1)}, LayoutError, "no factors beside"),
        ({f"lora_unet_{TO_Q}.lora_down.weight": _A[:0]}, LayoutError, "has no rank"),
        ({f"lora_unet_{TO_Q}.alpha": np.zeros(2, "f4")}, LayoutError, "not one number"),
        ({f"lora_unet_{TO_Q}.alpha": np.zeros(0, "f4")}, LayoutError, "not one number"),
        ({f"lora_unet_{TO_Q}.alpha": np.float32(np.nan)}, NonFiniteValue, "alpha"),
        ({f"lora_unet_{TO_Q}.alpha": np.float64(np.inf)}, NonFiniteValue, "alpha"),
        ({f"lora_unet_{TO_Q}.alpha": np.float64(1e300)}, PemathError, "alpha"),
        ({f"lora_unet_{TO_Q}.alpha": np.uint8(1)}, PemathError, "alpha"),
        ({f"lora_unet_{TO_Q}.alpha": np.float32(0)}, UnsupportedFeature, "some tools mean"),
        ({f"lora_unet_{TO_Q}.lora_up.weight": _B[:, :3]}, LayoutError, "do not fit"),
        ({f"lora_unet_{TO_Q}.lora_up.weight": _B * np.nan}, NonFiniteValue, "NaN"),
        ({f"lora_unet_{TO_Q}.lora_down.weight": _A.astype("i4")}, PemathError, "dtype"),
        ({f"lora_unet_{TO_Q}.lora_down.weight": np.float32(1)}, LayoutError, "has no rank"),
        (
            {
                "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight": _B,
                "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight": _A,
            },
            LayoutError,
            "two tensors",
        ),
        (
            {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": _B},
            UnsupportedFeature,
            "Black Forest",
        ),
    ],
)
def test_refused_by_name(
    tmp_path: Path, more: Mapping[str, Any], error: type[PemathError], words: str
) -> None:
    path = files.saved(tmp_path / "x.safetensors", {**_PAIR, **more})
    for target in ("peft", "diffusers"):
        with pytest.raises(error, match=words):
            convert(path, target, tmp_path / "out")
        assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(60),
        b"\x80\x02}q\x00." + bytes(20),
        struct.pack("<Q", 10) + b"{",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 1 << 62),
    ],
)
def test_hostile_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    for target in ("peft", "kohya", "diffusers", "gguf"):
        with pytest.raises(PemathError):
            convert(path, target, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_hostile_name_is_shown_safely(tmp_path: Path) -> None:
    name = "lora_unet_\x1b[31mred"
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FileFormatError) as caught:
        convert(path, "peft", tmp_path / "out")
    assert "\x1b" not in str(caught.value)


def test_what_is_no_file_of_a_pipeline(tmp_path: Path) -> None:
    path = files.saved(tmp_path / "x.safetensors", {"model.layers.0.weight": _A})
    with pytest.raises(LayoutError, match="neither in kohya's layout"):
        convert(path, "peft", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceNotFound, match="no adapter"):
        convert(tmp_path / "empty", "kohya", tmp_path / "out.safetensors")
    folder = files.peft(tmp_path / "adapter", [SITE])
    with pytest.raises(RequestError, match="no single file"):
        convert(folder, "peft", tmp_path / "out")


@pytest.mark.parametrize(
    ("sites", "config", "words"),
    [
        (["decoder.layer"], {}, "which part of a pipeline"),
        ([SITE, SITE.replace("attn1.", "attn1_")], {}, "two sites"),
        ([SITE], {"use_dora": True}, "DoRA"),
    ],
)
def test_folders_that_the_layout_cannot_hold(
    tmp_path: Path, sites: list[str], config: Mapping[str, Any], words: str
) -> None:
    folder = files.peft(tmp_path / "adapter", sites, **config)
    with pytest.raises(PemathError, match=words):
        convert(folder, "kohya", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_scale_of_zero(tmp_path: Path) -> None:
    folder = files.peft(tmp_path / "a", [SITE, "conv_in"], alpha_pattern={"conv_in": 0})
    convert(folder, "kohya", tmp_path / "x.safetensors")
    written = files.load_file(tmp_path / "x.safetensors")
    assert written["lora_unet_conv_in.alpha"] == 4
    assert not written["lora_unet_conv_in.lora_up.weight"].any()
    convert(tmp_path / "x.safetensors", "peft", tmp_path / "back")
    assert not delta(tmp_path / "back", "conv_in").any()


def test_heads_are_refused(tmp_path: Path) -> None:
    folder = files.peft(tmp_path / "a", [SITE], modules_to_save=["conv_out"])
    tensors = {f"base_model.model.{n}": t for n, t in files.tensors_of(folder).items()}
    tensors["base_model.model.conv_out.weight"] = _A
    files.saved(folder / "adapter_model.safetensors", tensors)
    with pytest.raises(UnsupportedFeature, match="conv_out"):
        convert(folder, "kohya", tmp_path / "out.safetensors")


_PIECES = st.lists(
    st.sampled_from(
        ["down_blocks", "0", "1", "attentions", "attn1", "to_q", "to", "q", "conv", "in", "input",
         "blocks", "out", "middle_block", "", "²", "double_blocks", "linear", "time"]
    ),
    max_size=9,
)  # fmt: skip
_LEAVES = ("lora_down.weight", "lora_up.weight", "alpha", "hada_w1_a", "lokr_w1", "x", "diff_b")


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["lora_unet", "lora_te", "lora_te2", "lora_transformer", "lora"]),
            _PIECES.map("_".join),
            st.sampled_from(_LEAVES),
        ).map(lambda parts: f"{parts[0]}_{parts[1]}.{parts[2]}"),
        st.sampled_from([(4, 8), (6, 4), (), (0, 3)]),
        max_size=6,
    ),
    st.sampled_from([None, "unet", "text_encoder"]),
)
def test_any_names_are_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: Mapping[str, tuple[int, ...]],
    component: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("names")
    path = files.saved(folder / "x.safetensors", {n: np.ones(s, "f4") for n, s in tensors.items()})
    with contextlib.suppress(PemathError):
        convert(path, "peft", folder / "out", component=component)
        assert delta(folder / "out", files.config_of(folder / "out")["target_modules"][0]).any()


@settings(max_examples=500)
@given(st.integers(1, 4096), st.floats(1e-6, 1e6))
def test_alpha_gives_back_any_scale_that_came_from_one(rank: int, alpha: float) -> None:
    scale = alpha / rank
    assert alpha_for(scale, rank) / rank == scale


@settings(max_examples=500)
@given(st.integers(1, 4096), st.floats(-1e6, 1e6))
def test_alpha_of_another_scale_is_off_by_one_bit_at_most(rank: int, scale: float) -> None:
    assert abs(alpha_for(scale, rank) / rank - scale) <= np.spacing(abs(scale))


def random(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape).astype("f4")


def delta(folder: Path, site: str) -> Any:
    return open_adapter(PeftFolder.open(folder)).sites[site].delta_weight()


def test_a_loha_of_lycoris(tmp_path: Path) -> None:
    w1_a, w1_b, w2_a, w2_b = random(6, 3), random(3, 8), 2 * random(6, 3), 3 * random(3, 8)
    stem = f"lora_unet_{TO_Q}"
    tensors = {"hada_w1_a": w1_a, "hada_w1_b": w1_b, "hada_w2_a": w2_a, "hada_w2_b": w2_b}
    tensors["alpha"] = np.float32(1.5)
    path = files.saved(tmp_path / "x.safetensors", {f"{stem}.{n}": t for n, t in tensors.items()})
    assert convert(path, "peft", tmp_path / "out").outcome.kind == "lora"
    expected = np.empty((6, 8))
    for o, i in np.ndindex(6, 8):
        first = sum(float(w1_a[o, r]) * float(w1_b[r, i]) for r in range(3))
        expected[o, i] = (
            1.5 / 3 * first * sum(float(w2_a[o, r]) * float(w2_b[r, i]) for r in range(3))
        )
    assert np.allclose(delta(tmp_path / "out", SITE), expected, rtol=1e-12)
    assert files.config_of(tmp_path / "out")["alpha"] == 1.5
    with pytest.raises(KindMismatch, match="--to lora"):
        convert(path, "diffusers", tmp_path / "y.safetensors")
    convert(tmp_path / "out", "lora", tmp_path / "lora")
    convert(tmp_path / "lora", "diffusers", tmp_path / "y.safetensors")


@pytest.mark.parametrize("full", [False, True])
def test_a_lokr_of_lycoris(tmp_path: Path, full: bool) -> None:
    w1, w2_a, w2_b = random(2, 4), random(3, 2), random(2, 5)
    w2 = w2_a.astype("f8") @ w2_b.astype("f8")
    tensors = {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": np.float32(3)}
    scale = 3 / 2
    if full:  # then LyCORIS does not scale, whatever the alpha
        tensors = {"lokr_w1": w1, "lokr_w2": w2.astype("f4"), "alpha": np.float32(7)}
        scale, w2 = 1.0, tensors["lokr_w2"].astype("f8")
    stem = f"lora_unet_{TO_Q}"
    path = files.saved(tmp_path / "x.safetensors", {f"{stem}.{n}": t for n, t in tensors.items()})
    convert(path, "peft", tmp_path / "out")
    expected = np.empty((6, 20))
    for p, q, c, d in np.ndindex(2, 3, 4, 5):
        expected[3 * p + q, 5 * c + d] = scale * float(w1[p, c]) * w2[q, d]
    assert np.allclose(delta(tmp_path / "out", SITE), expected, rtol=1e-6)


def files_of(path: Path, start: str) -> dict[str, Any]:
    """Copies of a file's tensors whose names begin so."""
    return {n: np.array(t) for n, t in files.load_file(path).items() if n.startswith(start)}


def _base(folder: Path, modules: list[str]) -> Path:
    folder.mkdir()
    tensors = {f"{module}.weight": np.zeros((2, 2), "f4") for module in modules}
    return files.saved(folder / "model.safetensors", tensors).parent
