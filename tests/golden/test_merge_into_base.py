"""`convert --to checkpoint` and `--to full` against PEFT's own merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pemath.conversion.run import convert
from pemath.errors import PemathError

from . import adapters, compiled
from .bases import quiet
from .checkpoints import Weights, changes, merged, save_base, weights_of, with_trained_biases

LORA: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("bert", {"target_modules": ["query", "value"]}),
    "bert, classifier": ("bert", {"task_type": "SEQ_CLS"}),
    "bert, biases": ("bert", {"bias": "all"}),
    "bert, lora_bias": ("bert", {"lora_bias": True}),
    "bert, rsLoRA, patterns": (
        "bert",
        {"use_rslora": True, "rank_pattern": {"layer.0.attention.self.query": 2}},
    ),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2, square": ("gpt2", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),
    "gpt2, embedding": ("gpt2", {"target_modules": ["wte", "c_attn"], "fan_in_fan_out": True}),
    "llama": ("llama", {"target_modules": "all-linear"}),
    "t5": ("t5", {"target_modules": ["q", "v", "wi_0", "wo"]}),
    "llama, embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "llama, saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "net": ("net", {"target_modules": ["words", "line", "stem", "point", "volume", "head"]}),
    "dora": ("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "dora, gpt2": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
}
IA3: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("bert", {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True}),
    "net": ("net", {"target_modules": ["stem", "point", "head"], "feedforward_modules": ["point"]}),
}  # fmt: skip
CASES = {f"lora {n}": (*c, adapters.lora) for n, c in LORA.items()} | {
    f"ia3 {n}": (*c, adapters.ia3) for n, c in IA3.items()
}


def stored(folder: Path) -> Weights:
    """All tensors of a checkpoint's files."""
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def close(found: Weights, wanted: Weights) -> None:
    for name, weight in wanted.items():
        if name in found:  # tied ones are stored once
            torch.testing.assert_close(found[name].double(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_merge_is_that_of_peft(case: str, tmp_path: Path) -> None:
    base_name, config, make = CASES[case]
    folder = make(base_name, tmp_path / "adapter", **config)
    if "biases" in case:
        with_trained_biases(folder)
    base = save_base(base_name, tmp_path / "base")
    done = convert(folder, "checkpoint", tmp_path / "out", base_weights=base)
    found, before, wanted = stored(tmp_path / "out"), stored(base), merged(base_name, folder)
    assert found.keys() >= before.keys()
    close(found, wanted)
    for name in before:
        assert found[name].dtype == before[name].dtype
        if name in wanted and torch.equal(wanted[name], before[name].double()):
            assert torch.equal(found[name], before[name]), name
    assert done.outcome.certificate is not None
    assert 0 < done.outcome.certificate.error < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_task_vector_is_what_peft_adds(case: str, tmp_path: Path) -> None:
    base_name, config, make = CASES[case]
    folder = make(base_name, tmp_path / "adapter", **config)
    if "biases" in case:
        with_trained_biases(folder)
    base = save_base(base_name, tmp_path / "base")
    convert(folder, "full", tmp_path / "out", base_weights=base, dtype="float64")
    vector = load_file(tmp_path / "out" / adapters.WEIGHTS)
    heads = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"]
    found = {name.removeprefix("base_model.model."): t for name, t in vector.items()}
    wanted = changes(base_name, folder)
    for name in heads or ():
        found = {n: t for n, t in found.items() if f".{name}." not in f".{n}"}
        wanted = {n: t for n, t in wanted.items() if f".{name}." not in f".{n}"}
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    ["loha", "lokr conv2d core", "vera gpt2", "adalora gpt2", "gralora", "delora", "randlora"],
)
def test_kinds_that_are_read_as_lora_merge(name: str, tmp_path: Path) -> None:
    case = compiled.CASES[name]
    folder = compiled.write(case, tmp_path / "adapter", name)
    base = save_base(case.base, tmp_path / "base")
    done = convert(folder, "checkpoint", tmp_path / "out", base_weights=base)
    with quiet():
        wanted = weights_of(compiled.load(case, folder).double().merge_and_unload())
    close(stored(tmp_path / "out"), wanted)
    assert done.outcome.certificate is not None


def test_shards_keep_their_layout_and_dtype(tmp_path: Path) -> None:
    from .bases import base

    model = base("llama").bfloat16()
    with quiet():
        model.save_pretrained(str(tmp_path / "base"), max_shard_size="16KB")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"no")
    folder = adapters.lora("llama", tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    done = convert(folder, "checkpoint", tmp_path / "out", base_weights=tmp_path / "base")
    files = sorted((tmp_path / "base").glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        before, after = load_file(file), load_file(tmp_path / "out" / file.name)
        assert {n: (t.dtype, t.shape) for n, t in before.items()} == {
            n: (t.dtype, t.shape) for n, t in after.items()
        }
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]) == (
                "q_proj" not in name and "v_proj" not in name
            )
    index = "model.safetensors.index.json"
    assert json.loads((tmp_path / "out" / index).read_text()) == json.loads(
        (tmp_path / "base" / index).read_text()
    )
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert (tmp_path / "out" / "config.json").is_file()
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    assert any("pytorch_model.bin" in note for note in done.outcome.notes)
    with quiet():
        again = type(model).from_pretrained(str(tmp_path / "out"))
    wanted = {n: p for n, p in again.named_parameters() if "q_proj" in n}
    assert wanted
    exact = merged("llama", folder)
    certificate = done.outcome.certificate
    assert certificate is not None
    for name, weight in wanted.items():
        torch.testing.assert_close(weight.double(), exact[name], rtol=0.02, atol=0.02)
        rounded = certificate.sites[name].deviation
        assert 0 < rounded < 2**-8 * float(torch.linalg.norm(exact[name]))


@pytest.mark.parametrize(
    ("base_name", "modules", "reason"),
    [
        ("net", ["attention"], "adds it twice"),
        ("grouped_net", ["grouped"], "reads all channels"),
    ],
)
@pytest.mark.parametrize("to", ["checkpoint", "full"])
def test_what_peft_cannot_merge_is_refused(
    base_name: str, modules: list[str], reason: str, to: str, tmp_path: Path
) -> None:
    folder = adapters.lora(base_name, tmp_path / "adapter", target_modules=modules)
    base = save_base(base_name, tmp_path / "base")
    with pytest.raises(PemathError, match=reason):
        convert(folder, to, tmp_path / "out", base_weights=base)
    assert not (tmp_path / "out").exists()


def test_tied_embeddings_are_refused(tmp_path: Path) -> None:
    folder = adapters.lora("t5", tmp_path / "adapter", target_modules=["shared"])
    base = save_base("t5", tmp_path / "base")
    with pytest.raises(PemathError, match="tied to the output layer"):
        convert(folder, "checkpoint", tmp_path / "out", base_weights=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"]])
def test_saved_embeddings_of_a_tied_model_are_refused(saved: list[str], tmp_path: Path) -> None:
    folder = adapters.lora(
        "llama", tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=saved
    )
    base = save_base("llama", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(PemathError, match="tied to the output layer"):
        convert(folder, "checkpoint", tmp_path / "out", base_weights=base)


def test_trained_biases_need_the_base(tmp_path: Path) -> None:
    folder = adapters.lora("bert", tmp_path / "adapter", bias="all")
    with pytest.raises(PemathError, match="--base-weights"):
        convert(folder, "full", tmp_path / "out")


def test_a_model_in_a_wrapper_is_found(tmp_path: Path) -> None:
    """The adapter's model has a head around it, the checkpoint is of the bare model."""
    from .bases import base

    folder = adapters.lora("bert", tmp_path / "adapter", task_type="SEQ_CLS")
    with quiet():
        base("bert").bert.save_pretrained(str(tmp_path / "base"))
    done = convert(folder, "checkpoint", tmp_path / "out", base_weights=tmp_path / "base")
    found, wanted = stored(tmp_path / "out"), merged("bert", folder)
    for name, weight in wanted.items():
        torch.testing.assert_close(
            found[name.removeprefix("bert.")].double(), weight, rtol=1e-6, atol=1e-6
        )
    assert any("head is new" in note for note in done.outcome.notes)
