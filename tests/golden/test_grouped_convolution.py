"""A convolution in groups: PEFT runs a LoRA on it, but can neither merge it nor say its delta.

A reads all channels, and each group of B its own share of A's rows: the delta is a dense kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn

import pemath

from . import adapters, oracle
from .bases import base, forward
from .layouts import EXPRESSIONS


class WithKernel(nn.Module):
    """A convolution beside another one without groups."""

    def __init__(self, layer: nn.Conv2d, kernel: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.kernel = layer, kernel

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        extra = nn.functional.conv2d(image, self.kernel, padding=self.layer.padding)
        return self.layer(image) + extra


def kernel(folder: Path) -> torch.Tensor:
    """The dense kernel that the LoRA in `folder` adds, from PEFT's factors."""
    module = oracle.load("grouped_net", folder).get_base_model().grouped
    A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
    groups = module.get_base_layer().groups
    parts = [
        torch.einsum("or,rikl->oikl", own_B.flatten(1), own_A)
        for own_A, own_B in zip(A.chunk(groups), B.chunk(groups), strict=True)
    ]
    return (torch.cat(parts) * module.scaling["default"]).detach()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("grouped")
    settings = {"a": {"r": 4}, "b": {"r": 2, "lora_alpha": 5}, "c": {"r": 6, "use_rslora": True}}
    written = {}
    for name, own in settings.items():
        config = LoraConfig(**{"lora_alpha": 8, "target_modules": ["grouped"], **own})
        model = adapters.with_adapter("grouped_net", config, name)
        written[name] = adapters.save(model, folder / name)
    return written


@pytest.mark.parametrize("name", "abc")
def test_the_oracle(folders: dict[str, Path], name: str) -> None:
    model = base("grouped_net").double()
    model.grouped = WithKernel(model.grouped, kernel(folders[name]))
    found = forward("grouped_net", oracle.load("grouped_net", folders[name]))
    torch.testing.assert_close(found, forward("grouped_net", model), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_delta_and_forward(folders: dict[str, Path], tmp_path: Path, expression: str) -> None:
    terms = EXPRESSIONS[expression]
    used = {name: str(folders[name]) for name in terms}
    done = pemath.compose(expression, tmp_path / "out", operands=used)
    wanted = sum(c * kernel(folders[name]) for name, c in terms.items())
    error = torch.linalg.norm(kernel(done.folder) - wanted) / torch.linalg.norm(wanted)
    assert error <= 1e-6
    model = base("grouped_net").double()
    model.grouped = WithKernel(model.grouped, wanted)
    found = forward("grouped_net", oracle.load("grouped_net", done.folder))
    torch.testing.assert_close(found, forward("grouped_net", model), rtol=1e-5, atol=1e-5)
