"""The spellings of tensor names, configurations and references that PEFT's versions wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import pemath

from . import adapters, oracle
from .bases import base, quiet

PREFIX = "base_model.model."
FACTOR = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|ia3_l)(?=\.|$)")
HEAD = re.compile(r"classifier\.(weight|bias)$")


def with_adapter_name(name: str) -> str:
    return FACTOR.sub(r".\1.default", name)


def without_prefix(name: str) -> str:
    return name.removeprefix(PREFIX)


def wrapped_head(name: str) -> str:
    return HEAD.sub(r"classifier.modules_to_save.\1", name)


def wrapped_named_head(name: str) -> str:
    return HEAD.sub(r"classifier.modules_to_save.default.\1", name)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "adapter name": with_adapter_name,
    "no prefix": without_prefix,
    "adapter name, no prefix": lambda name: with_adapter_name(without_prefix(name)),
    "modules_to_save": wrapped_head,
    "modules_to_save.default": wrapped_named_head,
    "everything": lambda name: without_prefix(with_adapter_name(wrapped_named_head(name))),
}


def respell(source: Path, folder: Path, spelling: Callable[[str], str]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    adapters.rewrite(source, folder, lambda name, tensor: (spelling(name), tensor))
    if ".modules_to_save." in spelling(f"{PREFIX}classifier.weight"):
        # The wrapper's copy of the base's own head: not what was trained.
        stored = adapters.load_file(folder / adapters.WEIGHTS)
        stored[spelling(f"{PREFIX}classifier.original_module.weight")] = torch.ones(2, 32)
        adapters.save_file(stored, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("spellings")
    sites = {"target_modules": ["query", "word_embeddings"], "modules_to_save": ["classifier"]}
    return {name: adapters.lora("bert", folder / name, **sites) for name in "ab"}


def composed(a: Path, b: Path, out: Path) -> dict[str, torch.Tensor]:
    operands = {"a": str(a), "b": str(b)}
    done = pemath.compose("0.6*a + 0.4*b", out, operands=operands)
    return adapters.load_file(Path(done.folder) / adapters.WEIGHTS)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("which", ["a", "b", "ab"])
def test_spelling_of_tensors(
    folders: dict[str, Path], tmp_path: Path, spelling: str, which: str
) -> None:
    respelt = {
        name: respell(folder, tmp_path / name, SPELLINGS[spelling]) if name in which else folder
        for name, folder in folders.items()
    }
    wanted = composed(*folders.values(), tmp_path / "wanted")
    found = composed(*respelt.values(), tmp_path / "found")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_spelling_of_ia3(tmp_path: Path) -> None:
    sites = {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]}
    a, b = (adapters.ia3("bert", tmp_path / name, **sites) for name in "ab")
    old = respell(a, tmp_path / "old", SPELLINGS["adapter name, no prefix"])
    wanted, found = composed(a, b, tmp_path / "wanted"), composed(old, b, tmp_path / "found")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_config_of_an_early_version(tmp_path: Path) -> None:
    """What PEFT wrote before patterns, rsLoRA and most other fields were invented."""
    a, b = (adapters.lora("bert", tmp_path / name) for name in "ab")
    wanted = composed(a, b, tmp_path / "wanted")
    early = {
        "base_model_name_or_path": "somewhere/base",
        "bias": "none",
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "merge_weights": False,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["query", "value"],
        "task_type": None,
    }
    (a / "adapter_config.json").write_text(json.dumps(early))
    found = composed(a, b, tmp_path / "found")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_unknown_config_fields_of_a_later_version(tmp_path: Path) -> None:
    a, b = (adapters.lora("bert", tmp_path / name) for name in "ab")
    wanted = composed(a, b, tmp_path / "wanted")
    config = json.loads((a / "adapter_config.json").read_text())
    (a / "adapter_config.json").write_text(json.dumps({**config, "invented_later": None}))
    found = composed(a, b, tmp_path / "found")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_adapter_in_a_named_subfolder(tmp_path: Path) -> None:
    """PEFT saves an adapter that is not called `default` into a subfolder of its name."""
    a = adapters.lora("bert", tmp_path / "a")
    with quiet():
        model = PeftModel.from_pretrained(base("bert"), str(a), adapter_name="french")
    adapters.save(adapters.train(model, "french"), tmp_path / "both")
    assert (tmp_path / "both" / "french" / adapters.WEIGHTS).is_file()
    done = pemath.compose(
        "0.6*a + 0.4*b",
        tmp_path / "out",
        operands={"a": str(a), "b": f"{tmp_path / 'both'}:french"},
    )
    wanted = oracle.weighted_sum(
        [
            (0.6, oracle.deltas(oracle.load("bert", a))),
            (0.4, oracle.deltas(oracle.load("bert", tmp_path / "both" / "french"))),
        ]
    )
    found = oracle.deltas(oracle.load("bert", done.folder))
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6
