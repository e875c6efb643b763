"""`pemath convert`: what it prints and writes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath

from . import folders
from .conftest import Cli
from .folders import IN, OUT, QUERY, VALUE

FILE = "model.safetensors"


@pytest.fixture
def base(here: Path) -> dict[str, Any]:
    """The folder `base` under the tiny adapters: two layers with biases, an embedding, a norm."""
    rng = np.random.default_rng(99)
    shapes: dict[str, tuple[int, ...]] = {
        f"{QUERY}.weight": (OUT, IN), f"{QUERY}.bias": (OUT,),
        f"{VALUE}.weight": (OUT, IN), f"{VALUE}.bias": (OUT,),
        "embeddings.word_embeddings.weight": (7, IN), "norm.weight": (IN,),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    checkpoint(here / "base", tensors)
    return tensors


def checkpoint(folder: Path, tensors: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def test_without_words_it_lists_the_targets(cli: Cli) -> None:
    done = cli("convert")
    assert done.code == 0
    for name in ("lora", "full", "checkpoint"):
        assert f" {name} " in done.out
    listed = {item["name"]: item for item in cli("convert", "--json").json["targets"]}
    assert "rank" in listed["lora"]["options"]
    assert "rank" not in listed["full"]["options"]


def test_merging_a_lora(cli: Cli, here: Path, base: dict[str, Any]) -> None:
    done = cli("convert", "a", "--to", "checkpoint", "--base-weights", "base", "--out", "m")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("a → ")
    assert "2 changed, 0 replaced by heads, 0 added by heads, 4 copied" in done.out
    found = load_file(here / "m" / FILE)
    for site, delta in folders.deltas(here / "a").items():
        np.testing.assert_allclose(
            found[f"{site}.weight"], base[f"{site}.weight"] + delta, rtol=1e-6, atol=1e-6
        )
    np.testing.assert_array_equal(found["norm.weight"], base["norm.weight"])
    assert (here / "m" / "config.json").read_bytes() == (here / "base/config.json").read_bytes()


def test_merging_ia3_changes_the_bias(cli: Cli, here: Path, base: dict[str, Any]) -> None:
    assert (
        cli("convert", "v", "--to", "checkpoint", "--base-weights", "base", "--out", "m").code == 0
    )
    found, vectors = load_file(here / "m" / FILE), folders.tensors_of(here / "v")
    for site in (QUERY, VALUE):
        scale = vectors[f"{site}.ia3_l"]
        np.testing.assert_allclose(
            found[f"{site}.weight"], base[f"{site}.weight"] * scale, rtol=1e-6
        )
        np.testing.assert_allclose(
            found[f"{site}.bias"], base[f"{site}.bias"] * scale[:, 0], rtol=1e-6
        )


def test_a_head_that_the_base_lacks_is_added(cli: Cli, here: Path, base: dict[str, Any]) -> None:
    done = cli("convert", "half", "--to", "checkpoint", "--base-weights", "base", "--out", "m")
    assert "the head is new" in done.out
    found, head = load_file(here / "m" / FILE), folders.tensors_of(here / "half")
    assert set(found) - set(base) == {"classifier.weight", "classifier.bias"}
    np.testing.assert_array_equal(found["classifier.weight"], head["classifier.weight"])


def test_merging_is_the_way_back_of_the_difference(
    cli: Cli, here: Path, base: dict[str, Any]
) -> None:
    cli("convert", "a", "--to", "checkpoint", "--base-weights", "base", "--out", "m")
    done = cli(
        "convert", "m", "--to", "lora", "--base-weights", "base", "--out", "back",
        "--max-error", "0.1%", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert {site["rank"] for site in done.json["certificate"]["sites"].values()} == {3}
    found = folders.deltas(here / "back")
    assert folders.relative_error(found, folders.deltas(here / "a")) < 1e-3
    assert done.json["certificate"]["error"] < 1e-3
    assert (done.json["kind"], done.json["left_out"]) == ("checkpoint", {})


def test_what_is_left_out_is_printed(cli: Cli, here: Path, base: dict[str, Any]) -> None:
    after = dict(base)
    after[f"{QUERY}.weight"] = base[f"{QUERY}.weight"] + np.float32(3 / np.sqrt(OUT * IN))
    after["norm.weight"] = base["norm.weight"] + np.float32(4 / np.sqrt(IN))
    checkpoint(here / "tuned", after)
    done = cli(
        "convert", "tuned", "--to", "lora", "--base-weights", "base", "--out", "o", "--rank", "1"
    )
    assert done.code == 0
    assert "left out  80 % of the change's norm: norm.weight" in " ".join(done.out.split()).replace(
        "left out 80", "left out  80"
    )
    done = cli(
        "convert", "tuned", "--to", "lora", "--base-weights", "base", "--out", "p", "--rank", "1", "--json"
    )  # fmt: skip
    assert done.json["left_out"] == {"norm.weight": pytest.approx(4, rel=1e-5)}


def test_the_lock_of_a_conversion(cli: Cli, here: Path, base: dict[str, Any]) -> None:
    cli("convert", "a", "--to", "full", "--base-weights", "base", "--out", "t")
    lock = json.loads((here / "t" / "pemath.lock.json").read_text())
    assert lock["conversion"] == {"source": "a", "to": "full", "base_weights": "base"}
    found = cli("verify", "t", "--json").json
    assert found["outputs"] == dict.fromkeys(
        ("README.md", "adapter_config.json", "adapter_model.safetensors"), "ok"
    )
    assert found["sources"] == {"source": "ok", "base weights": "ok"}
    done = cli("rebuild", "t", "--out", "u")
    assert done.code == 2
    assert "pemath convert" in done.err
    (here / "t" / "README.md").write_text("other")
    assert cli("verify", "t").code == 3
    tensors = load_file(here / "base" / FILE)
    save_file({n: t + 1 for n, t in tensors.items()}, here / "base" / FILE)
    assert "source `base weights` is changed" in cli("verify", "t").err


def test_force_replaces_what_pemath_made(cli: Cli, here: Path, base: dict[str, Any]) -> None:
    words = ("convert", "a", "--to", "checkpoint", "--base-weights", "base", "--out")
    assert cli(*words, "m").code == 0
    assert cli(*words, "m").code == 5
    assert cli(*words, "m", "--force").code == 0
    # A checkpoint of somebody else's stays, and what is read is never written to.
    checkpoint(here / "precious", base)
    assert cli(*words, "precious", "--force").code == 5
    for place in ("a", "base"):
        assert cli(*words, place, "--force").code in (2, 5)
    assert set(load_file(here / "base" / FILE)) == set(base)


def test_python_has_it_too(here: Path, base: dict[str, Any]) -> None:
    done = pemath.convert("a", "lora", here / "x", rank=2)
    assert done.outcome.certificate is not None
    assert {site.rank for site in done.outcome.certificate.sites.values()} == {2}


REFUSED: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "no target": (2, ("a", "--to", "lorra", "--out", "o"), ("no target `lorra`", "did you mean `lora`")),
    "no output": (2, ("a", "--to", "lora"), ("--out is not given",)),
    "foreign option": (2, ("a", "--to", "full", "--rank", "2", "--out", "o"), ("no option --rank",)),
    "two limits": (
        2, ("a", "--to", "lora", "--rank", "2", "--max-error", "1%", "--out", "o"), ("exclude",),
    ),
    "rank": (2, ("a", "--to", "lora", "--rank", "0", "--out", "o"), ("at least 1",)),
    "error": (2, ("a", "--to", "lora", "--max-error", "1.5", "--out", "o"), ("150 %",)),
    "no limit": (
        2, ("v", "--to", "lora", "--base-weights", "base", "--out", "o"), ("--max-error",),
    ),
    "no base": (2, ("v", "--to", "full", "--out", "o"), ("--base-weights",)),
    "no base to merge into": (2, ("a", "--to", "checkpoint", "--out", "o"), ("--base-weights",)),
    "no such base": (
        5, ("a", "--to", "checkpoint", "--base-weights", "zed", "--out", "o"), ("--base-weights: zed",),
    ),
    "no checkpoint there": (
        5, ("a", "--to", "checkpoint", "--base-weights", "a", "--out", "o"), ("holds no checkpoint",),
    ),
    "merging a checkpoint": (
        4, ("base", "--to", "checkpoint", "--base-weights", "base", "--out", "o"), ("only adapters",),
    ),
    "nothing changed": (
        2, ("base", "--to", "lora", "--rank", "2", "--base-weights", "base", "--out", "o"),
        ("the same weights",),
    ),
    "modules of an adapter": (
        2, ("a", "--to", "lora", "--target-modules", "query", "--out", "o"), ("whole models",),
    ),
    "no such source": (5, ("zed", "--to", "lora", "--out", "o"), ("zed",)),
    "another model": (
        3, ("c", "--to", "checkpoint", "--base-weights", "other", "--out", "o"),
        (f"no `{QUERY}.weight`",),
    ),
    "another shape": (
        4, ("c", "--to", "checkpoint", "--base-weights", "wrong", "--out", "o"),
        ("does not fit the base weights", "9×12", "10×12"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(cli: Cli, here: Path, base: dict[str, Any], case: str) -> None:
    checkpoint(here / "other", {"x.weight": np.zeros((2, 2), "f4")})
    checkpoint(here / "wrong", {f"{QUERY}.weight": np.zeros((9, 12), "f4")})
    before = {path.name for path in here.iterdir()}
    exit_code, words, said = REFUSED[case]
    done = cli("convert", *words)
    assert (done.code, done.out) == (exit_code, ""), done.err
    for part in said:
        assert part in done.err
    assert {path.name for path in here.iterdir()} == before
    assert cli("convert", *words, "--json").json["what"]
