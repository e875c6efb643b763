"""`pemath convert` between PEFT, kohya, diffusers and GGUF."""

from pathlib import Path

from safetensors.numpy import load_file

from . import folders
from .conftest import Cli

SITE = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
LAYER = "model.layers.0.mlp.up_proj"


def test_there_and_back(cli: Cli, here: Path) -> None:
    folders.lora(here / "unet", 0, sites=(SITE,), scale=1.5)
    done = cli("convert", "unet", "--to", "kohya", "--out", "x.safetensors")
    assert (done.code, done.err) == (0, "")
    assert "unet" in done.out
    names = {f"lora_unet_{SITE.replace('.', '_')}.{leaf}"
             for leaf in ("lora_down.weight", "lora_up.weight", "alpha")}  # fmt: skip
    assert set(load_file(here / "x.safetensors")) == names
    again = cli("convert", "x.safetensors", "--to", "peft", "--out", "back", "--json")
    assert again.json["facts"] == {"part": "unet", "sites": "1"}
    assert again.json["certificate"] is None
    assert folders.relative_error(folders.deltas(here / "back"), folders.deltas(here / "unet")) == 0
    assert cli("compose", "0.5*back", "back=back", "--out", "halved").code == 0
    assert cli("verify", "back").code == 0


def test_a_file_is_first_made_a_folder(cli: Cli, here: Path) -> None:
    folders.lora(here / "unet", 0, sites=(SITE,))
    assert cli("convert", "unet", "--to", "kohya", "--out", "x.safetensors").code == 0
    refused = cli("convert", "x.safetensors", "--to", "lora", "--out", "plain")
    assert refused.code == 2
    assert "--to peft" in refused.err


def test_an_existing_file_is_kept(cli: Cli, here: Path) -> None:
    folders.lora(here / "unet", 0, sites=(SITE,))
    (here / "x.safetensors").write_bytes(b"mine")
    words = ("convert", "unet", "--to", "diffusers", "--out", "x.safetensors")
    assert cli(*words).code == 5
    assert (here / "x.safetensors").read_bytes() == b"mine"
    done = cli(*words, "--force", "--json")
    assert done.code == 0
    assert done.json["certificate"]["error"] < 1e-7


def test_what_is_missing_is_named(cli: Cli, here: Path) -> None:
    refused = cli("convert", "a", "--to", "kohya", "--out", "x.safetensors")
    assert refused.code == 2
    assert "--component" in refused.err
    folders.lora(here / "llm", 0, sites=(LAYER,))
    refused = cli("convert", "llm", "--to", "gguf", "--out", "x.gguf")
    assert refused.code == 2
    assert "--base-gguf" in refused.err
    refused = cli(
        "convert", "half", "--to", "kohya", "--component", "unet", "--out", "x.safetensors"
    )
    assert refused.code == 3
    assert "classifier" in refused.err
    refused = cli("convert", "v", "--to", "diffusers", "--component", "unet", "--out", "x.gguf")
    assert refused.code == 4
    assert "--to lora" in refused.err
    assert not list(here.glob("x.*"))


def test_gguf(cli: Cli, here: Path) -> None:
    from pemath.formats.gguf import read_header, write

    folders.lora(here / "llm", 0, sites=(LAYER,))
    heads = {"llama.attention.head_count": 2.0}
    write(here / "wrong.gguf", {"general.architecture": "llama", **heads}, {}, ())
    refused = cli("convert", "llm", "--to", "gguf", "--base-gguf", "wrong.gguf", "--out", "x.gguf")
    assert refused.code == 3
    assert "attention heads" in refused.err
    base = here / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "qwen2", "num_attention_heads": 2}')
    folders.save_file({"x.weight": folders.np.zeros((1, 1), "f4")}, base / "model.safetensors")
    done = cli("convert", "llm", "--to", "gguf", "--base-weights", "base", "--out", "x.gguf")
    assert (done.code, done.err) == (0, "")
    header = read_header(here / "x.gguf")
    assert header.metadata["general.architecture"] == "qwen2"
    assert header.shapes == {
        "blk.0.ffn_up.weight.lora_a": (3, folders.IN),
        "blk.0.ffn_up.weight.lora_b": (folders.OUT, 3),
    }
