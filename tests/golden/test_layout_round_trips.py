"""PEFT ↔ kohya ↔ diffusers and back: the same updates, by PEFT's and diffusers' own loading."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from torch import nn

from pemath.conversion.run import convert
from pemath.formats.peft import PeftFolder
from pemath.kinds import open_adapter

from ..unit import pipeline_files as files
from .bases import quiet

RANKS = {files.UNET[0]: 2, files.UNET[7]: 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "alpha is the rank": {},
    "alpha": {"lora_alpha": 8},
    "a third": {"lora_alpha": 4 / 3},
    "rsLoRA": {"lora_alpha": 7, "use_rslora": True},
    "patterns": {
        "lora_alpha": 5,
        "ranks": RANKS,
        "alpha_pattern": {"conv_in": 9, "to_q": 0.1, files.UNET[8]: 1e-3},
    },
    "float16": {"lora_alpha": 16, "dtype": "f2"},
}


def deltas(folder: Path) -> dict[str, Any]:
    """scale · B A of each site in float64."""
    adapter = open_adapter(PeftFolder.open(folder))
    return {site: value.delta_weight() for site, value in adapter.sites.items()}


def assert_same(x: Mapping[str, Any], y: Mapping[str, Any]) -> None:
    assert x.keys() == y.keys()
    for site, value in x.items():
        assert np.array_equal(value, y[site]), site


def pipeline(root: Path, setting: str) -> Path:
    """A UNet's and two text encoders' adapters, each in the folder of its name."""
    settings = dict(SETTINGS[setting])
    files.peft(root / "unet", files.UNET, **settings)
    settings.pop("ranks", None)
    files.peft(root / "text_encoder", files.TEXT, seed=1, **settings)
    files.peft(root / "text_encoder_2", files.TEXT, seed=2, rank=8, **settings)
    return root


PARTS = ("unet", "text_encoder", "text_encoder_2")


@pytest.mark.parametrize("setting", SETTINGS)
def test_through_kohya_all_stays_the_same(tmp_path: Path, setting: str) -> None:
    source = pipeline(tmp_path / "a", setting)
    convert(source, "kohya", tmp_path / "x.safetensors")
    names = {name.split("_")[1] for name in files.load_file(tmp_path / "x.safetensors")}
    assert names == {"unet", "te1", "te2"}
    for part in PARTS:
        convert(tmp_path / "x.safetensors", "peft", tmp_path / part, component=part)
        assert_same(deltas(tmp_path / part), deltas(source / part))
        before, after = files.tensors_of(source / part), files.tensors_of(tmp_path / part)
        assert before.keys() == after.keys()
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)


@pytest.mark.parametrize("setting", SETTINGS)
def test_through_diffusers_only_the_scale_moves(tmp_path: Path, setting: str) -> None:
    source = pipeline(tmp_path / "a", setting)
    done = convert(source, "diffusers", tmp_path / "x.safetensors")
    certificate = done.outcome.certificate
    assert certificate is not None
    off, size = 0.0, 0.0
    for part in PARTS:
        convert(tmp_path / "x.safetensors", "peft", tmp_path / part, component=part)
        before, after = deltas(source / part), deltas(tmp_path / part)
        assert before.keys() == after.keys()
        off += sum(np.sum((after[site] - before[site]) ** 2) for site in before)
        size += sum(np.sum(value**2) for value in before.values())
    error = np.sqrt(off / size)
    assert np.isclose(error, certificate.error, rtol=1e-4, atol=1e-15)
    assert error <= (2**-10 if setting == "float16" else 2**-23)
    if setting in ("alpha is the rank", "alpha", "float16"):  # powers of two
        assert error == 0


def test_all_ways_lead_to_the_same_bytes(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "a", "alpha")
    for first, second in itertools.permutations(("kohya", "diffusers")):
        convert(source, first, tmp_path / f"{first}.safetensors")
        via = tmp_path / f"{first}-{second}.safetensors"
        convert(tmp_path / f"{first}.safetensors", second, via)
        if second == "diffusers":
            convert(source, second, tmp_path / "direct.safetensors")
            assert via.read_bytes() == (tmp_path / "direct.safetensors").read_bytes()
    for part in PARTS:
        convert(tmp_path / "diffusers-kohya.safetensors", "peft", tmp_path / part, component=part)
        assert_same(deltas(tmp_path / part), deltas(source / part))


def module_of(sites: Iterable[str]) -> nn.Module:
    """A tree of modules with these names: linear weights, and convolutions for `conv…`."""
    root = nn.Module()
    for site in sites:
        node, (*path, last) = root, site.split(".")
        for name in path:
            if not hasattr(node, name):
                node.add_module(name, nn.Module())
            node = getattr(node, name)
        size = 1 if site.endswith("shortcut") else 3
        leaf = (
            nn.Conv2d(files.IN, files.OUT, size)
            if files.is_conv(site)
            else nn.Linear(files.IN, files.OUT)
        )
        node.add_module(last, leaf)
    return root


@pytest.mark.parametrize("setting", ["patterns", "rsLoRA", "float16"])
def test_peft_loads_the_folder_that_comes_back(tmp_path: Path, setting: str) -> None:
    source = pipeline(tmp_path / "a", setting)
    convert(source, "kohya", tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", "peft", tmp_path / "unet", component="unet")
    for folder in (source / "unet", tmp_path / "unet"):
        with quiet():
            model = PeftModel.from_pretrained(
                module_of(files.UNET).double(), str(folder), autocast_adapter_dtype=False
            )
        expected = deltas(source / "unet")
        for site, value in expected.items():
            layer = model.base_model.model.get_submodule(site)
            for factors in (layer.lora_A, layer.lora_B):
                factors.double()
            found = layer.get_delta_weight("default").numpy()
            assert np.allclose(found, value, rtol=1e-10, atol=1e-12), site


def test_a_site_whose_name_others_end_with(tmp_path: Path) -> None:
    sites, ranks = files.FLUX, {"proj_out": 2, "norm_out.linear": 3}
    anchored = {f"^{site}": rank for site, rank in ranks.items()}
    source = files.peft(tmp_path / "a", sites, ranks=ranks, rank_pattern=anchored)
    convert(source, "kohya", tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", "peft", tmp_path / "back")
    assert_same(deltas(tmp_path / "back"), deltas(source))
    with quiet():
        model = PeftModel.from_pretrained(module_of(sites), str(tmp_path / "back"))
    for site in sites:
        layer = model.base_model.model.get_submodule(site)
        assert layer.r["default"] == ranks.get(site, 4), site


def test_names_that_are_expressions_have_their_own_alpha(tmp_path: Path) -> None:
    """PEFT reads the keys of `alpha_pattern` as expressions, in which a dot is any character."""
    alphas = {"x[0]": 2, "m.a.b": 3, "m.a_b": 4, "n.m-a.b": 4, "x+": 5, "z.x+": 6, "(a+)+$": 4}
    tensors: dict[str, Any] = {}
    for seed, (site, alpha) in enumerate(alphas.items()):
        a, b = files.factors(site, seed, 4)
        tensors |= {f"unet.{site}.lora_A.weight": a, f"unet.{site}.lora_B.weight": b}
        tensors[f"unet.{site}.alpha"] = np.float32(alpha)
    path = files.saved(tmp_path / "x.safetensors", tensors)
    convert(path, "peft", tmp_path / "out")
    found, pattern = deltas(tmp_path / "out"), files.config_of(tmp_path / "out")["alpha_pattern"]
    for site, alpha in alphas.items():
        a, b = (tensors[f"unet.{site}.lora_{x}.weight"].astype("f8") for x in "AB")
        assert np.allclose(found[site], alpha / 4 * b @ a, rtol=1e-12), site
        assert pattern.get(get_pattern_key(pattern, site), 4) == alpha, site


@pytest.mark.parametrize("config", [LoHaConfig, LoKrConfig])
def test_lycoris_kinds_are_pefts(tmp_path: Path, config: Any) -> None:
    """LyCORIS calls the tensors as PEFT does; PEFT loads the folder that comes out.

    A rank of 1 is small enough for PEFT to divide a matrix of LoKr.
    """
    sites = [site for site in files.UNET if not files.is_conv(site)]
    with quiet():
        model = get_peft_model(
            module_of(sites), config(r=1, alpha=3, target_modules=sites, init_weights=False)
        )
        model.save_pretrained(str(tmp_path / "a"))
    tensors: dict[str, Any] = {}
    for name, tensor in files.tensors_of(tmp_path / "a").items():
        site, leaf = name.rsplit(".", 1)
        stem = f"lora_unet_{site.replace('.', '_')}"
        tensors |= {f"{stem}.{leaf}": tensor, f"{stem}.alpha": np.float32(3)}
    files.saved(tmp_path / "x.safetensors", tensors)
    convert(tmp_path / "x.safetensors", "peft", tmp_path / "back")
    assert_same(deltas(tmp_path / "back"), deltas(tmp_path / "a"))
    with quiet():
        loaded = PeftModel.from_pretrained(module_of(sites), str(tmp_path / "back"))
    for site in sites:
        layer = loaded.base_model.model.get_submodule(site)
        with torch.no_grad():
            found = layer.get_delta_weight("default").numpy()
        assert np.allclose(found, deltas(tmp_path / "a")[site], rtol=1e-4, atol=1e-6), site


# ------------------------------------------------------------------- against diffusers itself


@pytest.fixture(scope="module")
def pipeline_class() -> Any:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline


def unet() -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
        transformer_layers_per_block=2,
    ).eval()


RANDOM = torch.Generator().manual_seed(2)
INPUTS = (
    torch.randn(1, 4, 8, 8, generator=RANDOM),
    torch.tensor([5]),
    torch.randn(1, 7, 32, generator=RANDOM),
)


def trained(folder: Path, **config: Any) -> Any:
    """A UNet with a random LoRA on all of its linear weights and convolutions, also saved."""
    base = unet()
    kinds = (nn.Linear, nn.Conv2d)
    names = [name for name, module in base.named_modules() if isinstance(module, kinds)]
    model = get_peft_model(base, LoraConfig(r=4, target_modules=names, **config))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    with quiet():
        model.save_pretrained(str(folder))
    return model


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(*INPUTS).sample


@pytest.mark.parametrize("target", ["kohya", "diffusers"])
def test_diffusers_loads_what_is_written(tmp_path: Path, pipeline_class: Any, target: str) -> None:
    expected = outputs(trained(tmp_path / "unet", lora_alpha=6))
    path = tmp_path / f"{target}.safetensors"
    convert(tmp_path / "unet", target, path)
    state, alphas = pipeline_class.lora_state_dict(str(path))
    loaded = unet()
    with quiet():
        pipeline_class.load_lora_into_unet(state, alphas, loaded)
    assert torch.allclose(outputs(loaded), expected, atol=1e-5)
    assert not torch.allclose(outputs(unet()), expected, atol=1e-1)


def test_what_diffusers_makes_of_kohyas_names_is_read_as_the_same(
    tmp_path: Path, pipeline_class: Any
) -> None:
    """Its converter gives the names that were used before PEFT."""
    trained(tmp_path / "unet")
    convert(tmp_path / "unet", "kohya", tmp_path / "x.safetensors")
    state, _ = pipeline_class.lora_state_dict(str(tmp_path / "x.safetensors"))
    files.saved(tmp_path / "y.safetensors", {name: t.numpy() for name, t in state.items()})
    convert(tmp_path / "y.safetensors", "peft", tmp_path / "back")
    before, after = deltas(tmp_path / "unet"), deltas(tmp_path / "back")
    assert before.keys() == after.keys()
    # diffusers keeps the alphas apart; LoraConfig has 8 by default.
    for site, value in before.items():
        assert np.allclose(8 / 4 * after[site], value, rtol=1e-12), site


def test_a_file_that_diffusers_saves(tmp_path: Path, pipeline_class: Any) -> None:
    from peft import get_peft_model_state_dict

    model = trained(tmp_path / "unet", lora_alpha=6, alpha_pattern={"to_q": 5})
    config = model.peft_config["default"].to_dict()
    stated = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    state = get_peft_model_state_dict(model)
    pipeline_class.save_lora_weights(
        str(tmp_path / "saved"),
        unet_lora_layers={n.removeprefix("base_model.model."): t for n, t in state.items()},
        unet_lora_adapter_metadata=stated,
    )
    convert(tmp_path / "saved", "peft", tmp_path / "back")
    assert_same(deltas(tmp_path / "back"), deltas(tmp_path / "unet"))


def test_names_of_the_original_code_as_diffusers_reads_them(
    tmp_path: Path, pipeline_class: Any
) -> None:
    from types import SimpleNamespace

    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    names = [
        "input_blocks_1_0_in_layers_2",
        "input_blocks_4_1_proj_in",
        "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        "middle_block_1_transformer_blocks_3_attn2_to_out_0",
        "middle_block_2_in_layers_2",
        "output_blocks_0_1_transformer_blocks_0_attn1_to_k",
        "output_blocks_5_1_proj_out",
        "output_blocks_8_0_out_layers_3",
    ]
    path = files.kohya(tmp_path / "x.safetensors", "lora_unet", names)
    tensors = {n: torch.from_numpy(t.copy()) for n, t in files.load_file(path).items()}
    mapped = _maybe_map_sgm_blocks_to_diffusers(tensors, SimpleNamespace(layers_per_block=2))
    parts = {"in_layers_2": "conv1", "out_layers_3": "conv2"}
    theirs = set()
    for name in mapped:
        stem = name.split(".")[0].removeprefix("lora_unet_").replace("middle_block", "mid_block")
        stem = stem.replace("input_blocks", "down_blocks").replace("output_blocks", "up_blocks")
        for old, new in parts.items():
            stem = stem.replace(old, new)
        theirs.add(stem)
    convert(path, "peft", tmp_path / "out")
    mine = {
        name.split(".lora_")[0].replace(".", "_") for name in files.tensors_of(tmp_path / "out")
    }
    assert mine == theirs
