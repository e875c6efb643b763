"""Trained biases of the base (`bias="all"` or `"lora_only"`): whole values, stored like a head.

b = b₀ + Σ cᵢ·(bᵢ − b₀) is known without the base only where all operands have the bias and the
weights sum to one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

import pemath
from pemath.errors import PemathError

from . import adapters, oracle
from .bases import forward
from .layouts import EXPRESSIONS


def biases(folder: Path) -> oracle.Deltas:
    stored = adapters.load_file(folder / adapters.WEIGHTS)
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor.double()
        for name, tensor in stored.items()
        if name.endswith(".bias") and ".lora_" not in name
    }


@pytest.fixture(scope="module", params=["all", "lora_only"])
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("biases")
    written = {}
    for name in "ab":
        config = LoraConfig(target_modules=["query", "value"], bias=request.param)
        model = adapters.with_adapter("bert", config, name)
        adapters.train(model, name, lambda part: part.endswith(".bias"))
        written[name] = adapters.save(model, folder / name)
    written["bare"] = adapters.lora("bert", folder / "bare")
    return written


def test_average(folders: dict[str, Path], tmp_path: Path) -> None:
    terms = EXPRESSIONS["0.6*a + 0.4*b"]
    used = {name: str(folders[name]) for name in terms}
    done = pemath.compose("0.6*a + 0.4*b", tmp_path / "out", operands=used)
    wanted = oracle.with_deltas(
        "bert",
        oracle.weighted_sum(
            (c, oracle.deltas(oracle.load("bert", folders[name]))) for name, c in terms.items()
        ),
    )
    new = oracle.weighted_sum((c, biases(folders[name])) for name, c in terms.items())
    assert new
    wanted.load_state_dict(new, strict=False)
    found = forward("bert", oracle.load("bert", done.folder))
    torch.testing.assert_close(found, forward("bert", wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("expression", "names"), [("a - b", "a b"), ("0.5*a + 0.5*bare", "a bare"), ("2*a", "a")]
)
def test_what_the_base_must_tell_is_refused(
    folders: dict[str, Path], tmp_path: Path, expression: str, names: str
) -> None:
    used = {name: str(folders[name]) for name in names.split()}
    with pytest.raises(PemathError) as refused:
        pemath.compose(expression, tmp_path / "out", operands=used)
    assert refused.value.exit_code == 4
    assert not (tmp_path / "out").exists()
