"""Methods that subtract less than a whole module, called in expressions over folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath import threads
from pemath.errors import NonFiniteValue, OperandError
from pemath.formats.floats import Array

from .subtraction import agreed, deficient, unshared

PREFIX = "base_model.model."
OUT, IN = 9, 7


def random(*shape: int, seed: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """`a` and `b` have rank 2 at q and k, `c` has rank 4 at q alone, `d` another shape."""
    written = {}
    for seed, (name, rank, sites) in enumerate(
        [("a", 2, "qk"), ("b", 2, "qk"), ("c", 4, "q"), ("d", 2, "q")]
    ):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {}
        for number, site in enumerate(sites):
            key, inputs = f"{PREFIX}layer.{site}.lora_", IN + 3 * (name == "d")
            tensors[f"{key}A.weight"] = random(rank, inputs, seed=10 * seed + number).astype("f4")
            tensors[f"{key}B.weight"] = random(OUT, rank, seed=10 * seed + number).astype("f4")
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [*sites]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        written[name] = str(folder)
    return written


def bound(text: str, folders: dict[str, str]) -> dict[str, str]:
    """The operands that `text` names."""
    return {name: folder for name, folder in folders.items() if re.search(rf"\b{name}\b", text)}


def deltas(text: str, folders: dict[str, str]) -> dict[str, Array]:
    used = bound(text, folders)
    return {site[-1]: v.delta_weight() for site, v in pemath.evaluate(text, operands=used)}


def test_expressions(folders: dict[str, str]) -> None:
    """Also where an operand lacks the site: `c` is not at k."""
    a, b, c = (deltas(name, folders) for name in "abc")
    for text, wanted in {
        "b - 0.6*deficient(a, b)": {s: b[s] - 0.6 * deficient(a[s], b[s]) for s in "qk"},
        "-0.6*unshared(2*a, b)": {s: -1.2 * unshared(a[s], b[s]) for s in "qk"},
        "deficient(a, c)": {"q": deficient(a["q"], c["q"]), "k": a["k"]},
        "deficient(c, a)": {"q": deficient(c["q"], a["q"]), "k": 0 * a["k"]},
        "unshared(a, c)": {"q": unshared(a["q"], c["q"]), "k": a["k"]},
        "unshared(c, a)": {"q": unshared(c["q"], a["q"]), "k": 0 * a["k"]},
        "unshared(c, a, b)": {"q": unshared(c["q"], a["q"], b["q"]), "k": 0 * a["k"]},
        "unshared(a, b, c)": {"q": unshared(a["q"], b["q"], c["q"]), "k": unshared(a["k"], b["k"])},
        "negmerge(a, b, c, rank=7)": {
            "q": agreed(a["q"] / 3, b["q"] / 3, c["q"] / 3), "k": 0 * a["k"],
        },
        "-0.5*negmerge(a, -b, rank=7)": {s: -0.5 * agreed(a[s] / 2, -b[s] / 2) for s in "qk"},
    }.items():  # fmt: skip
        found = deltas(text, folders)
        assert found.keys() == wanted.keys(), text
        for site, delta in wanted.items():
            np.testing.assert_allclose(found[site], delta, atol=1e-8, err_msg=text)


def test_an_arithmetic(folders: dict[str, str]) -> None:
    """`paper_detox` and `negmerge` take a whole expression; the others need to be called."""
    used = {name: folders[name] for name in "ab"}
    found = dict(pemath.evaluate("a + 0.3*(a - b)", operands=used, arithmetic="paper_detox"))
    called = deltas("paper_detox(a, b, weights=[1.3, -0.3])", folders)
    for site, value in found.items():
        np.testing.assert_allclose(value.delta_weight(), called[site[-1]], atol=1e-12)
    for arithmetic in ("unshared", "deficient"):
        with pytest.raises(OperandError, match="only steer"):
            dict(pemath.evaluate("a - b", operands=used, arithmetic=arithmetic))


@pytest.mark.parametrize(
    "text",
    [
        "unshared(a)",
        "deficient(a, b, c)",
        "deficient(a, b, weights=[1, -0.5])",
        "unshared(a, d)",
        "deficient(a, d)",
        "negmerge(a, d)",
        "paper_detox(a, b)",
        "paper_detox(a, c, weights=[1.3, -0.3])",
    ],
)
def test_refused_before_anything_is_written(
    folders: dict[str, str], tmp_path: Path, text: str
) -> None:
    with pytest.raises(OperandError) as refused:
        pemath.compose(text, tmp_path / "out", operands=bound(text, folders))
    assert "layer.q" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["unshared(a, b)", "deficient(a, b)", "negmerge(a, b)"])
def test_what_is_not_finite_is_named_where_it_only_steers(
    folders: dict[str, str], tmp_path: Path, text: str
) -> None:
    file = Path(folders["b"]) / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[f"{PREFIX}layer.k.lora_B.weight"][0, 0] = np.nan
    save_file(tensors, file)
    used = {name: folders[name] for name in "ab"}
    with pytest.raises(NonFiniteValue, match=r"layer\.k\.lora_B"):
        pemath.compose(text, tmp_path / "out", operands=used)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("b - 0.6*unshared(a, b)", "b - 0.6*a"),
        ("-0.6*deficient(a, b)", "-0.6*a"),
        ("-negmerge(a, b)", "-0.5*a - 0.5*b"),
        ("paper_detox(a, b, weights=[1.3, -0.3])", "1.3*a - 0.3*b"),
    ],
)
def test_the_certificate_and_the_bytes(
    folders: dict[str, str],
    tmp_path: Path,
    text: str,
    exact: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The distance is that to the weighted sum; the bytes are the same on one thread and on four."""
    used = {name: folders[name] for name in "ab"}
    monkeypatch.setattr(threads, "_cores", lambda: 1)
    done = pemath.compose(text, tmp_path / "one", operands=used)
    monkeypatch.setattr(threads, "_cores", lambda: 4)
    again = pemath.compose(text, tmp_path / "four", operands=used)
    files = [(c.folder / "adapter_model.safetensors").read_bytes() for c in (done, again)]
    assert files[0] == files[1]
    off = size = 0.0
    stored, wanted = deltas("a", {"a": str(done.folder)}), deltas(exact, folders)
    for site, delta in wanted.items():
        off += float(np.sum((stored[site] - delta) ** 2))
        size += float(np.sum(delta**2))
    assert done.certificate.error == pytest.approx((off / size) ** 0.5, rel=1e-6)
    found = deltas(text, folders)
    for site, delta in stored.items():
        np.testing.assert_allclose(delta, found[site], atol=1e-5)
