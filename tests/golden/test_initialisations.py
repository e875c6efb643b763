"""Initialisations that change the base (PiSSA, OLoRA): their file alone does not say the delta."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel

import pemath
from pemath.errors import PemathError

from . import adapters, oracle
from .bases import base, forward, quiet

INITIALISATIONS = ["pissa", "pissa_niter_4", "olora"]


def trained(initialisation: str, seed: str, initial: Path, **config: object) -> PeftModel:
    """A model with a trained adapter, and its untrained state in `initial`, as PEFT's guide says."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **config}
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = PeftModel(
            base("bert"), LoraConfig(**settings, init_lora_weights=initialisation)
        ).eval()
    model.peft_config["default"].init_lora_weights = True
    adapters.save(model, initial)
    model.peft_config["default"].init_lora_weights = initialisation
    return adapters.train(model, seed)


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_unconverted_is_refused(initialisation: str, tmp_path: Path) -> None:
    adapters.save(trained(initialisation, "a", tmp_path / "initial"), tmp_path / "a")
    b = adapters.lora("bert", tmp_path / "b")
    with pytest.raises(PemathError) as refused:
        pemath.compose("a + b", tmp_path / "out", operands={"a": f"{tmp_path}/a", "b": str(b)})
    assert refused.value.exit_code == 3
    assert initialisation in str(refused.value)
    assert "path_initial_model_for_weight_conversion" in str(refused.value)


@pytest.mark.parametrize(
    ("initialisation", "config"),
    [
        *((name, {}) for name in INITIALISATIONS),
        ("pissa", {"use_rslora": True}),
        ("pissa", {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 5}}),
    ],
)
def test_converted_is_an_ordinary_lora(initialisation: str, config: dict, tmp_path: Path) -> None:
    model = trained(initialisation, "a", tmp_path / "initial", **config)
    with quiet():
        model.save_pretrained(
            str(tmp_path / "a"), path_initial_model_for_weight_conversion=f"{tmp_path}/initial"
        )
    wanted_of_a = forward("bert", model.double())
    found = forward("bert", oracle.load("bert", tmp_path / "a"))
    torch.testing.assert_close(found, wanted_of_a, rtol=1e-4, atol=1e-4)  # PEFT's own promise

    b = adapters.lora("bert", tmp_path / "b")
    used = {"a": f"{tmp_path}/a", "b": str(b)}
    done = pemath.compose("0.6*a - 0.4*b", tmp_path / "out", operands=used)
    wanted = oracle.weighted_sum(
        (c, oracle.deltas(oracle.load("bert", tmp_path / name)))
        for name, c in {"a": 0.6, "b": -0.4}.items()
    )
    errors = oracle.relative_errors(oracle.deltas(oracle.load("bert", done.folder)), wanted)
    assert max(errors.values()) <= 1e-6, errors
