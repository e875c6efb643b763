"""`convert` with a stranger's adapter, and with base weights of a stranger."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.conversion.run import convert
from pemath.errors import PemathError

from . import attacks
from .judge import check_printable, leftovers, outcome
from .test_faces import ACTING, folders, said
from .test_strangers import STRANGE

__all__ = ["said"]
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
TARGETS: dict[str, dict[str, Any]] = {"lora": {"rank": 2}, "full": {}, "checkpoint": {}}


def weights(**extra: attacks.Tensor) -> bytes:
    """The base of the harmless adapters."""
    tensors = {}
    for index, site in enumerate((*attacks.SITES, "encoder.0.key", "encoder.0.dense")):
        tensors[f"{site}.weight"] = attacks.tensor((4, 3), "F32", index)
        tensors[f"{site}.bias"] = attacks.tensor((4,), "F32", index + 9)
    return attacks.safetensors(tensors | extra)


def base(folder: Path, data: bytes | None = None, config: object = None) -> Path:
    folder.mkdir()
    (folder / FILE).write_bytes(weights() if data is None else data)
    (folder / "config.json").write_text(json.dumps({} if config is None else config))
    return folder


def test_the_harmless_ones_work(tmp_path: Path) -> None:
    place = base(tmp_path / "base")
    for name, adapter in (("a", attacks.lora(tmp_path / "a")), ("b", attacks.ia3(tmp_path / "b"))):
        for to, options in TARGETS.items():
            convert(adapter, to, tmp_path / f"{name}-{to}", base_weights=place, **options)


@pytest.mark.parametrize("what", ACTING)
def test_what_is_printed(what: str, said: Any, tmp_path: Path) -> None:
    place = str(base(tmp_path / "base"))
    for number, folder in enumerate(folders(what, tmp_path)):
        for to in TARGETS:
            out = tmp_path / f"{to}{number}"
            rank = ("--rank", "2") if to == "lora" else ()
            for flags in ((), ("--force", "--json")):
                words = (folder, "--to", to, "--base-weights", place, "--out", str(out), *rank)
                said("convert", *words, *flags)
            if out.exists():
                check_printable((out / "README.md").read_text("utf-8"))
                said("verify", str(out))


@pytest.mark.parametrize("attack", attacks.HEADERS, ids=lambda attack: attack.name)
def test_a_header_of_base_weights(attack: attacks.Attack, tmp_path: Path) -> None:
    place, adapter = base(tmp_path / "base", attack.data), attacks.lora(tmp_path / "a")
    for to, options in TARGETS.items():
        error = outcome(
            lambda to=to, options=options: convert(  # type: ignore[misc]
                adapter, to, tmp_path / "out", base_weights=place, **options
            )
        )
        assert error is not None
        assert leftovers(tmp_path, "base", "a") == []


STRANGE_CONFIGS: list[object] = [
    {"architectures": 7, "model_type": ["gpt2"], "tie_word_embeddings": {}},
    {"architectures": [None, {}], "model_type": None},
    {"architectures": "LlamaForCausalLM"},
    [],
    7,
    "\ud800",
]


@pytest.mark.parametrize("config", STRANGE_CONFIGS, ids=str)
def test_a_strange_model_config(config: object, tmp_path: Path) -> None:
    place, adapter = base(tmp_path / "base", config=config), attacks.lora(tmp_path / "a")
    for to, options in TARGETS.items():
        outcome(
            lambda to=to, options=options: convert(  # type: ignore[misc]
                adapter, to, tmp_path / to, base_weights=place, **options
            )
        )
    assert leftovers(tmp_path, "base", "a", *TARGETS) == []


@pytest.mark.parametrize("what", STRANGE)
def test_names_in_the_base(what: str, tmp_path: Path) -> None:
    """Strange names of tensors, and what a difference says of them."""
    name = f"{STRANGE[what]}.norm"
    try:
        before = weights(**{name: attacks.tensor((4, 3), "F32", 3)})
    except UnicodeEncodeError:
        pytest.skip("no header holds it")
    place = base(tmp_path / "base", before)
    tuned = base(tmp_path / "tuned", weights(**{name: attacks.tensor((4, 3), "F32", 4)}))
    for to, options in TARGETS.items():
        for source in (attacks.lora(tmp_path / "a"), tuned):
            outcome(
                lambda to=to, options=options, source=source: convert(  # type: ignore[misc]
                    source, to, tmp_path / "out", base_weights=place, force=True, **options
                )
            )
            if (tmp_path / "out").exists():
                check_printable((tmp_path / "out" / "README.md").read_text("utf-8"))


def test_nothing_is_copied_through_a_pipe_or_into_a_folder(tmp_path: Path) -> None:
    place, adapter = base(tmp_path / "base"), attacks.lora(tmp_path / "a")
    os.mkfifo(place / "tokenizer.json")
    (place / "folder.json").mkdir()
    done = convert(adapter, "checkpoint", tmp_path / "out", base_weights=place)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert any("tokenizer.json" in note for note in done.outcome.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    bad = np.full((4, 3), value)
    data = weights(**{"encoder.0.key.weight": ("F64", (4, 3), bad.astype("<f8").tobytes())})
    place, adapter = base(tmp_path / "base", data), attacks.ia3(tmp_path / "a")
    for to, options in TARGETS.items():
        error = outcome(
            lambda to=to, options=options: convert(  # type: ignore[misc]
                adapter, to, tmp_path / "out", base_weights=place, **options
            )
        )
        assert isinstance(error, PemathError) or to == "checkpoint"
        if error is not None:
            assert not (tmp_path / "out").exists()
