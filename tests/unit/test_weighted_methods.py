"""Methods over folders: norms of whole adapters, and weights, coefficients and sites in expressions."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath import threads
from pemath.errors import NonFiniteValue, OperandError
from pemath.formats.floats import Array
from pemath.methods import Stack, metagpt, named_method

from . import combinations as reference
from . import matrix_merging
from .values import IN, OUT, close, dense, full, lora, random, size

PREFIX = "base_model.model."


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """`a` and `b` have rank 2 at q and k, `c` has rank 3 at q alone; `b` is larger at k."""
    written = {}
    for seed, (name, rank, sites) in enumerate([("a", 2, "qk"), ("b", 2, "qk"), ("c", 3, "q")]):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {}
        for number, site in enumerate(sites):
            key, place = f"{PREFIX}layer.{site}.lora_", 10 * seed + number
            tensors[f"{key}A.weight"] = random(rank, IN, seed=place).astype("f4")
            tensors[f"{key}B.weight"] = random(OUT, rank, seed=place).astype("f4") * (
                1 + 4 * number
            )
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [*sites]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        written[name] = str(folder)
    return written


def deltas(text: str, folders: dict[str, str]) -> dict[str, Array]:
    used = {name: folder for name, folder in folders.items() if re.search(rf"\b{name}\b", text)}
    return {site[-1]: v.delta_weight() for site, v in pemath.evaluate(text, operands=used)}


def test_expressions(folders: dict[str, str]) -> None:
    """Coefficients join the weights; `c` is not at k, which is as if it were zero there."""
    a, b, c = (deltas(name, folders) for name in "abc")
    c["k"] = 0 * a["k"]
    for text, wanted in {
        "mean(a, b, c)": lambda s: (a[s] + b[s] + c[s]) / 3,
        "mean(a, -b, weights=[0.25, 0.75])": lambda s: 0.25 * a[s] - 0.75 * b[s],
        "slerp(a, 2*b, t=0.3)": lambda s: reference.slerp(a[s], 2 * b[s], 0.3),
        "slerp(a, c, t=0.3)": lambda s: reference.slerp(a[s], c[s], 0.3),
        "slerp(c, a, t=0.3)": lambda s: reference.slerp(c[s], a[s], 0.3),
        "slerp(a - b, c, t=0.3)": lambda s: reference.slerp(a[s] - b[s], c[s], 0.3),
        "nuslerp(a, c, weights=[1, 3], row_wise=true)":
            lambda s: 4 * reference.slerp_rows(a[s], c[s], 0.75),
        "0.5*karcher(a, b, c)":
            lambda s: 0.5 * reference.karcher([a[s], b[s], c[s]], [1 / 3] * 3),
        "multislerp(a, -b, c)":
            lambda s: reference.multislerp([a[s], b[s], c[s]], [1 / 3, -1 / 3, 1 / 3]),
        "model_stock(a, b, c)":
            lambda s: reference.model_stock([a[s], b[s], c[s]], [1 / 3] * 3),
        "knots(a, -0.5*c, density=0.5)": lambda s: matrix_merging.knots([a[s], -0.5 * c[s]], 0.5),
        "tsv(a, b)": lambda s: matrix_merging.tsv([a[s], b[s]], 2),
        "iso(a, b, c)": lambda s: matrix_merging.iso_c([a[s], b[s], c[s]]),
        'core(a, b, inner="linear") - exact(a, b)': lambda s: 0 * a[s],
        "model_stock(mean(a, b), c)":
            lambda s: reference.model_stock([(a[s] + b[s]) / 2, c[s]], [0.5, 0.5]),
    }.items():  # fmt: skip
        found = deltas(text, folders)
        assert found.keys() == a.keys()
        for site, delta in found.items():
            np.testing.assert_allclose(delta, wanted(site), atol=2e-6, err_msg=f"{text} {site}")


def test_metagpt_weighs_whole_adapters(folders: dict[str, str]) -> None:
    """One λ for each adapter, from the norm over its sites, also where a site is missing."""
    a, b, c = (deltas(name, folders) for name in "abc")
    squares = [sum(float(np.sum(delta**2)) for delta in x.values()) for x in (a, b, c)]
    shares = [square / sum(squares) for square in squares]
    found = deltas("metagpt(a, b, c)", folders)
    wanted = shares[0] * a["q"] + shares[1] * b["q"] + shares[2] * c["q"]
    np.testing.assert_allclose(found["q"], wanted, atol=1e-9)
    np.testing.assert_allclose(found["k"], shares[0] * a["k"] + shares[1] * b["k"], atol=1e-9)
    scaled = deltas("metagpt(a, -2*b, c)", folders)
    np.testing.assert_allclose(scaled["k"], shares[0] * a["k"] - 2 * shares[1] * b["k"], atol=1e-9)


def test_metagpt_of_an_expression_weighs_each_site(folders: dict[str, str]) -> None:
    """The norm of what is no adapter is known at one site only."""
    a, b, c = (deltas(name, folders) for name in "abc")
    found = deltas("metagpt(a - b, c)", folders)
    wanted = reference.metagpt([a["q"] - b["q"], c["q"]], [1.0, 1.0])
    np.testing.assert_allclose(found["q"], wanted, atol=1e-9)
    np.testing.assert_allclose(found["k"], a["k"] - b["k"], atol=1e-9)


class Opened:
    """An adapter with these sites, which counts how often they are read."""

    def __init__(self, **sites: Any) -> None:
        self._sites, self.read = sites, 0

    @property
    def sites(self) -> dict[str, Any]:
        self.read += 1
        return self._sites


def test_metagpt_measures_an_adapter_once() -> None:
    values = [lora(2, s) for s in (1, 2)]
    opened: Any = [
        Opened(q=value, k=full(random(3, 3, seed=s)))
        for s, value in zip((1, 2), values, strict=True)
    ]
    method = named_method("metagpt").function

    def call() -> Array:
        return dense(method(Stack("q", values, [1.0, 1.0], ["a", "b"], opened)))

    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(call) for _ in range(20)]]
    assert all((other == found[0]).all() for other in found)
    squares = [
        float(np.sum(dense(value) ** 2) + np.sum(random(3, 3, seed=s) ** 2))
        for s, value in zip((1, 2), values, strict=True)
    ]
    wanted = sum(
        square / sum(squares) * dense(value) for square, value in zip(squares, values, strict=True)
    )
    close(full(found[0]), wanted, size(*values))
    assert [metagpt._squares[adapter] for adapter in opened] == pytest.approx(squares, rel=1e-12)
    before = [adapter.read for adapter in opened]
    call()
    assert [adapter.read for adapter in opened] == [count + 1 for count in before]
    kept = len(metagpt._squares)
    opened.clear()
    assert len(metagpt._squares) == kept - 2  # forgotten with the adapters


@pytest.mark.parametrize("name", ["slerp", "karcher", "metagpt", "knots", "core", "tsv", "iso"])
def test_what_is_not_finite_is_named(name: str, folders: dict[str, str]) -> None:
    path = Path(folders["b"]) / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"{PREFIX}layer.k.lora_A.weight"][1, 2] = np.inf
    save_file(tensors, path)
    with pytest.raises(NonFiniteValue, match=r"layer\.k\.lora_A"):
        deltas(f"{name}(a, b)", folders)


def test_too_many_and_too_few_operands(folders: dict[str, str]) -> None:
    for text in ("slerp(a, b, c)", "nuslerp(a, b, c)", "slerp(a)"):
        with pytest.raises(OperandError, match="two operands"):
            deltas(text, folders)


def test_the_same_bytes_whatever_the_threads(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "knots(a, b) + core(a, c) - tsv(a, b) + iso(a, c) + lego(a, b, seed=3) + karcher(a, b)"
    for count in (1, 4):
        monkeypatch.setattr(threads, "_cores", lambda count=count: count)
        pemath.compose(text, tmp_path / str(count), operands=folders)
    one, other = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("1", "4")
    )
    assert one == other
