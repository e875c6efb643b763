"""Full deltas: PEFT refuses the folder, and what the card says puts it on the base."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import save_file

import pemath

PREFIX = "base_model.model."


class Base(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.output = torch.nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight  # tied: one parameter, two names


def test_the_card_says_how_to_load_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base, deltas = Base(), {}
    for name in "ab":
        deltas[name] = {n: torch.randn_like(p) for n, p in base.named_parameters()}
        (tmp_path / name).mkdir()
        tensors = {PREFIX + n: delta for n, delta in deltas[name].items()}
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"peft_type": "FULL"}))
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    operands = {name: str(tmp_path / name) for name in "ab"}
    folder = pemath.compose("0.5*a - 0.25*b", tmp_path / "out", operands=operands).folder

    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(code, {"model": base})

    for name, parameter in base.named_parameters():
        wanted = before[name] + 0.5 * deltas["a"][name] - 0.25 * deltas["b"][name]
        torch.testing.assert_close(parameter.detach(), wanted)
    with pytest.raises((ValueError, KeyError)):
        PeftConfig.from_pretrained(str(folder))
