"""Checkpoints: one file or shards, names that differ by a wrapper, rows of matrices."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.errors import (
    ConfigError,
    DuplicateTensor,
    LayoutError,
    PemathError,
    PickleRefused,
    ReferenceNotFound,
    StorageError,
)
from pemath.formats.checkpoint import Checkpoint, Matrix
from pemath.limits import LIMITS

from .checkpoints import INDEX, drawn, saved

SHAPES: dict[str, tuple[int, ...]] = {
    "model__layers__0__q_proj__weight": (6, 4),
    "model__layers__1__q_proj__weight": (6, 4),
    "model__embed_tokens__weight": (9, 4),
    "lm_head__weight": (9, 4),
}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_found(tmp_path: Path, shards: int) -> None:
    tensors = drawn(0, **SHAPES)
    checkpoint = Checkpoint.open(saved(tmp_path / "x", tensors, shards=shards))
    assert set(checkpoint.shards) == set(tensors)
    assert len(checkpoint.files) == shards
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.stored(name).widen(), array)
        assert bytes(checkpoint.file(name).raw_bytes(name)) == array.tobytes()


def test_diffusers_names_its_file_otherwise(tmp_path: Path) -> None:
    saved(tmp_path, drawn(0, **SHAPES))
    os.rename(tmp_path / "model.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    assert set(Checkpoint.open(tmp_path).shards) == {n.replace("__", ".") for n in SHAPES}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("model.layers.1.q_proj.weight", "model.layers.1.q_proj.weight"),
        ("layers.1.q_proj.weight", "model.layers.1.q_proj.weight"),
        ("llama.model.layers.1.q_proj.weight", "model.layers.1.q_proj.weight"),
        ("1.q_proj.weight", None),
        ("q_proj.weight", None),
        ("layers.2.q_proj.weight", None),
        ("other.layers.1.q_proj.weight", None),
        ("embed_tokens.weight", "model.embed_tokens.weight"),
        ("weight", None),
    ],
)
def test_names_agree_if_one_ends_in_the_other(
    tmp_path: Path, wanted: str, found: str | None
) -> None:
    checkpoint = Checkpoint.open(saved(tmp_path, drawn(0, **SHAPES)))
    assert checkpoint.find(wanted) == found


def test_several_fitting_names_are_refused(tmp_path: Path) -> None:
    shapes = {"vision__proj__fc__weight": (2, 2), "text__proj__fc__weight": (2, 2)}
    checkpoint = Checkpoint.open(saved(tmp_path, drawn(0, **shapes)))
    with pytest.raises(LayoutError, match=r"several(.|\n)*text.proj.fc(.|\n)*vision"):
        checkpoint.find("proj.fc.weight")
    assert checkpoint.find("vision.proj.fc.weight") == "vision.proj.fc.weight"


def test_a_site_without_a_weight_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(saved(tmp_path, drawn(0, model__norm__weight=(3,))))
    with pytest.raises(LayoutError, match=r"no `lm_head.weight`(.|\n)*tied"):
        checkpoint.parameter("lm_head")


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_a_matrix(tmp_path: Path, transposed: bool) -> None:
    weight = drawn(1, w__weight=(7, 5))["w.weight"]
    checkpoint = Checkpoint.open(saved(tmp_path, {"w.weight": weight}))
    matrix = Matrix("w.weight", checkpoint.stored("w.weight"), transposed)
    wanted = weight.T if transposed else weight
    assert matrix.shape == wanted.shape
    np.testing.assert_array_equal(matrix.rows(1, 4), wanted[1:4])
    rows = np.concatenate([matrix.rows(*block) for block in matrix.blocks()])
    np.testing.assert_array_equal(rows, wanted)


def test_no_folder_no_weights_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="no such folder"):
        Checkpoint.open(tmp_path / "missing")
    with pytest.raises(ReferenceNotFound, match="holds no checkpoint"):
        Checkpoint.open(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(PickleRefused, match=r"pytorch_model\.bin"):
        Checkpoint.open(tmp_path)


def _changed(index: dict[str, Any], tensor: str, file: object) -> dict[str, Any]:
    return {**index, "weight_map": {**index["weight_map"], tensor: file}}


HOSTILE: dict[str, tuple[Any, type[PemathError], str]] = {
    "leaves the folder": (
        lambda i: _changed(i, "x", "../other.safetensors"), ConfigError, "none of the folder's",
    ),
    "absolute": (lambda i: _changed(i, "x", "/etc/x.safetensors"), ConfigError, "none of the"),
    "a folder below": (lambda i: _changed(i, "x", "a/b.safetensors"), ConfigError, "none of the"),
    "nul": (lambda i: _changed(i, "x", "a\0.safetensors"), ConfigError, "none of the folder's"),
    "surrogate": (
        lambda i: _changed(i, "x", "a\ud800.safetensors"), ConfigError, "none of the folder's",
    ),
    "no text": (lambda i: _changed(i, "x", 7), ConfigError, "none of the folder's"),
    "a pickle": (lambda i: _changed(i, "x", "model.bin"), ConfigError, "none of the folder's"),
    "missing shard": (lambda i: _changed(i, "x", "no.safetensors"), StorageError, "cannot read"),
    "unknown tensor": (
        lambda i: _changed(i, "x\x1b[31m", "model-00001-of-00002.safetensors"),
        LayoutError, "disagree about `x\\\\u001b",
    ),
    "wrong shard": (
        lambda i: _changed(i, "lm_head.weight", "model-00001-of-00002.safetensors"),
        LayoutError, "disagree about `lm_head.weight`",
    ),
    "unlisted": (
        lambda i: {"weight_map": {n: f for n, f in i["weight_map"].items() if "embed" not in n}},
        LayoutError, "disagree",
    ),
    "no map": (lambda i: {"metadata": {}}, ConfigError, "no `weight_map`"),
    "empty map": (lambda i: {"weight_map": {}}, ConfigError, "no `weight_map`"),
    "a list": (lambda i: {"weight_map": ["model.safetensors"]}, ConfigError, "no `weight_map`"),
    "not an object": (lambda i: [1], ConfigError, "not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_index_is_refused(tmp_path: Path, attack: str) -> None:
    folder = saved(tmp_path / "x", drawn(0, **SHAPES), shards=2)
    change, error, said = HOSTILE[attack]
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(change(index)))
    with pytest.raises(error, match=said):
        Checkpoint.open(folder)


def test_a_huge_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "x", drawn(0, **SHAPES), shards=2)
    monkeypatch.setattr("pemath.formats.checkpoint.LIMITS", LIMITS.__class__(index_bytes=10))
    with pytest.raises(ConfigError, match="too large"):
        Checkpoint.open(folder)
    monkeypatch.setattr("pemath.formats.checkpoint.LIMITS", LIMITS.__class__(shards=1))
    with pytest.raises(ConfigError, match="too many files"):
        Checkpoint.open(folder)
    monkeypatch.setattr("pemath.formats.checkpoint.LIMITS", LIMITS.__class__(tensors=1))
    with pytest.raises(ConfigError, match="too many tensors"):
        Checkpoint.open(folder)


def test_one_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", drawn(0, **SHAPES), shards=2)
    index = json.loads((folder / INDEX).read_text())
    first = folder / "model-00001-of-00002.safetensors"
    (folder / "again.safetensors").write_bytes(first.read_bytes())
    index["weight_map"]["other"] = "again.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DuplicateTensor, match="two files"):
        Checkpoint.open(folder)


def test_a_shard_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", drawn(0, **SHAPES), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    os.mkfifo(folder / "model-00002-of-00002.safetensors")
    with pytest.raises(StorageError, match="not a regular file"):
        Checkpoint.open(folder)
