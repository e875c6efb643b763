"""Statistics files of strangers: refused on purpose, or computed with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

import pemath
from pemath.formats.files import sha256

from . import attacks
from .attacks import WEIGHTS
from .judge import leftovers, outcome
from .test_mutations import damaged

STATISTICS = "statistics.safetensors"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Path, bytes]]:
    """A folder with a LoRA twice, and a good statistics file for both."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("a", "b"):
            attacks.lora(root / name)
        good = statistics(root / "a")
        for name in ("a", "b"):
            (root / name / STATISTICS).write_bytes(good)
        check(root, good)
        yield root, good


def statistics(folder: Path, value: float = 1.0, dtype: str = "f4") -> bytes:
    tensors = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        tensors[f"fisher.{name}"] = np.full(tensor.shape, value, dtype)
        if "lora_A" in name:
            site = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            tensors[f"gram.{site}"] = np.full((tensor.shape[1],) * 2, value, dtype)
    return save(tensors, {"adapter": sha256(folder / WEIGHTS), "rows": "3", "fisher_rows": "3"})


def check(root: Path, data: bytes) -> None:
    (root / "b" / STATISTICS).write_bytes(data)
    bound = {"a": root / "a", "b": root / "b"}
    for call in ("regmean(a, b)", "fisher(a, b)"):
        outcome(lambda call=call: pemath.compose(call, root / "out", operands=bound, force=True))  # type: ignore[misc]
        outcome(lambda call=call: list(pemath.evaluate(call, operands=bound)))  # type: ignore[misc]
    assert leftovers(root, "a", "b", "out") == []


def test_bytes_changed(pair: tuple[Path, bytes]) -> None:
    root, good = pair

    @settings(max_examples=150)
    @given(data=damaged(good, len(good)))
    def run(data: bytes) -> None:
        check(root, data)

    run()


@settings(max_examples=60)
@given(
    value=st.floats(allow_nan=True, allow_infinity=True), dtype=st.sampled_from(["f2", "f4", "f8"])
)
def test_any_values(pair: tuple[Path, bytes], value: float, dtype: str) -> None:
    root, _ = pair
    with np.errstate(over="ignore"):
        check(root, statistics(root / "b", value, dtype))
