"""What changes the meaning of the weights and is not supported is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftType
from peft.tuners.lora import BdLoraConfig, KasaConfig

import pemath
from pemath.errors import PemathError

from . import adapters

WRITTEN_BY_PEFT: dict[str, dict[str, Any]] = {
    "use_dora": {"use_dora": True},
    "kasa_config": {"kasa_config": KasaConfig()},
    "use_bdlora": {"use_bdlora": BdLoraConfig(target_modules_bd_a=["query", "value"], nblocks=2)},
    "alora_invocation_tokens": {"alora_invocation_tokens": [1], "task_type": "CAUSAL_LM"},
}
NEEDS_OTHER_LIBRARIES: dict[str, Any] = {
    "use_qalora": True,
    "arrow_config": {"top_k": 2},
    "layer_replication": [[0, 2], [1, 2]],
    "megatron_config": {"num_layers": 2},
    "init_lora_weights": "loftq",
}
BASE_CHANGING = ["corda", "lora_ga", "loftq"]


def refuse(operand: Path, tmp_path: Path) -> PemathError:
    """The error of composing `operand` with an ordinary adapter; nothing may be left behind."""
    plain = adapters.lora("bert", tmp_path / "plain")
    with pytest.raises(PemathError) as refused:
        pemath.compose("a + b", tmp_path / "out", operands={"a": str(operand), "b": str(plain)})
    assert refused.value.exit_code in {3, 4}
    assert not (tmp_path / "out").exists()
    return refused.value


def edit(folder: Path, **fields: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


@pytest.mark.parametrize("feature", WRITTEN_BY_PEFT)
def test_variants(feature: str, tmp_path: Path) -> None:
    model = "llama" if feature == "alora_invocation_tokens" else "bert"
    sites = {"target_modules": ["q_proj"]} if model == "llama" else {}
    operand = adapters.lora(model, tmp_path / "a", **sites, **WRITTEN_BY_PEFT[feature])
    assert feature in str(refuse(operand, tmp_path))


@pytest.mark.parametrize("field", NEEDS_OTHER_LIBRARIES)
def test_variants_that_need_other_libraries(field: str, tmp_path: Path) -> None:
    operand = edit(adapters.lora("bert", tmp_path / "a"), **{field: NEEDS_OTHER_LIBRARIES[field]})
    assert field in str(refuse(operand, tmp_path))


@pytest.mark.parametrize("initialisation", BASE_CHANGING)
def test_initialisations_that_change_the_base(initialisation: str, tmp_path: Path) -> None:
    operand = edit(adapters.lora("bert", tmp_path / "a"), init_lora_weights=initialisation)
    assert initialisation in str(refuse(operand, tmp_path))


def test_magnitudes_without_the_flag(tmp_path: Path) -> None:
    """The tensors tell of DoRA even where the configuration is silent."""
    operand = edit(adapters.lora("bert", tmp_path / "a", use_dora=True), use_dora=False)
    assert "magnitude" in str(refuse(operand, tmp_path))


def test_rank_that_contradicts_the_tensors(tmp_path: Path) -> None:
    operand = edit(adapters.lora("bert", tmp_path / "a"), r=8)
    error = refuse(operand, tmp_path)
    assert "rank" in str(error)
    assert "8" in str(error)


def test_trainable_tokens(tmp_path: Path) -> None:
    operand = adapters.lora(
        "llama", tmp_path / "a", target_modules=["q_proj"], trainable_token_indices=[1, 2]
    )
    assert "trainable_token" in str(refuse(operand, tmp_path))


@pytest.mark.parametrize("kind", sorted({kind.value for kind in PeftType} - {"LORA", "IA3"}))
def test_kinds_not_yet_supported(kind: str, tmp_path: Path) -> None:
    operand = edit(adapters.lora("bert", tmp_path / "a"), peft_type=kind)
    error = refuse(operand, tmp_path)
    assert error.exit_code == 3
    assert kind.lower() in str(error).lower()


def test_different_target_parameters(tmp_path: Path) -> None:
    """One tensor name, two parameters: only the order in the base's code could tell them apart."""
    a, b = (
        adapters.lora(
            "mixtral", tmp_path / name, target_modules=[], target_parameters=[f"experts.{name}"]
        )
        for name in ("gate_up_proj", "down_proj")
    )
    with pytest.raises(PemathError, match="target_parameters") as refused:
        pemath.compose("a + b", tmp_path / "out", operands={"a": str(a), "b": str(b)})
    assert refused.value.exit_code == 4


def test_lora_with_ia3(tmp_path: Path) -> None:
    operand = adapters.ia3("bert", tmp_path / "a", target_modules=["key"], feedforward_modules=[])
    assert refuse(operand, tmp_path).exit_code == 4
