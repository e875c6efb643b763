"""Full deltas: slabs, and folders of them composed, against dense float64."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import pemath
from pemath.errors import HeadChoiceNeeded
from pemath.formats.floats import BY_NAME, Stored, narrow
from pemath.formats.safetensors import Spec, TensorFile, TensorWriter
from pemath.kinds.full import KIND, FullDelta

from .deltas import PREFIX, SHAPES, SLAB, config_of, drawn, write, write_pair, written


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    return write_pair(tmp_path)


# ---------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("size", [0, 1, SLAB - 1, SLAB, SLAB + 1, 2 * SLAB + 5])
def test_slabs_cover_every_size(size: int) -> None:
    rng = np.random.default_rng(size)
    x, y, z = rng.standard_normal((3, size))
    one, two = (FullDelta((size,), ((1.0, Stored.of(v)),)) for v in (x, y))
    summed, other = one * 0.3 + two * -1.7, FullDelta((size,), ((1.0, Stored.of(z)),))
    wanted = 0.3 * x - 1.7 * y
    np.testing.assert_allclose(summed.delta_weight(), wanted, atol=1e-14)
    assert summed.norm() == pytest.approx(np.linalg.norm(wanted), rel=1e-12)
    assert summed.inner(other) == pytest.approx(wanted @ z, rel=1e-9, abs=1e-9)
    assert summed.distance(other) == pytest.approx(np.linalg.norm(wanted - z), rel=1e-12)
    assert summed.gap(other) == pytest.approx((summed.distance(other), np.linalg.norm(z)), rel=1e-9)
    zero = summed * 0.0
    assert zero.gap(other) == pytest.approx((np.linalg.norm(z), np.linalg.norm(z)), rel=1e-12)
    assert not zero.delta_weight().any()


def test_a_large_site_needs_little_memory() -> None:
    size, dtype = 1 << 21, BY_NAME["float32"]
    values = [
        FullDelta((size,), ((1.0, Stored(np.full(size, c, "f4"), dtype)),)) for c in (0.1, 0.2)
    ]
    folders = KIND.folders
    assert folders is not None
    tracemalloc.start()
    summed = values[0] * 0.5 + values[1] * 0.5
    stored = folders.store("w", summed, 0, dtype)
    stored.value.gap(summed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size * dtype.size + 64 * SLAB  # the output, and a few slabs in float64


# --------------------------------------------------------------------------------------- compose


@pytest.mark.parametrize("dtype", list(BY_NAME))
def test_a_sum_is_the_dense_sum_and_its_error_is_certified(
    tmp_path: Path, pair: dict[str, str], dtype: str
) -> None:
    done = pemath.compose("0.3*a - 1.7*b", tmp_path / "out", operands=pair, dtype=dtype)

    a, b, found = drawn(1), drawn(2), written(done.folder)
    exact = {n: 0.3 * a[n].astype("f8") - 1.7 * b[n].astype("f8") for n in SHAPES}
    assert found.keys() == SHAPES.keys()
    for name, wanted in exact.items():
        assert found[name].shape == SHAPES[name]
        off, norm = np.linalg.norm(found[name] - wanted), np.linalg.norm(wanted)
        assert off <= 2 * BY_NAME[dtype].roundoff * norm
        report = done.certificate.sites[name]
        assert report.error == pytest.approx(off / norm, rel=1e-6, abs=1e-15)
    config = config_of(done.folder)
    assert (config["peft_type"], config["task_type"]) == ("FULL", "SEQ_CLS")
    assert config["base_model_name_or_path"] == "some/base"
    assert pemath.inspect(str(done.folder)).kind == "full"


def test_bfloat16_goes_out_as_it_came_in(tmp_path: Path) -> None:
    kind = BY_NAME["bfloat16"]
    raw = narrow(np.random.default_rng(0).standard_normal((6, 5)), kind)
    folder = Path(write(tmp_path / "a", {}))
    (folder / "adapter_model.safetensors").unlink()
    spec = Spec(f"{PREFIX}w.weight", "BF16", raw.shape)
    writer = TensorWriter(folder / "adapter_model.safetensors", [spec], {})
    writer.write(spec.name, raw)
    writer.close()

    done = pemath.compose("a", tmp_path / "out", operands={"a": str(folder)})

    file = TensorFile.open(done.folder / "adapter_model.safetensors")
    assert bytes(file.raw_bytes(spec.name)) == raw.tobytes()
    assert done.certificate.error == 0.0


def test_a_parameter_that_an_operand_lacks_is_unchanged_there(tmp_path: Path) -> None:
    one, two = drawn(1, {"x": (3, 2), "y": (4,)}), drawn(2, {"y": (4,), "z": (5,)})
    operands = {"a": write(tmp_path / "a", one), "b": write(tmp_path / "b", two)}
    found = written(pemath.compose("a - b", tmp_path / "out", operands=operands).folder)
    np.testing.assert_array_equal(found["x"], one["x"])
    np.testing.assert_array_equal(found["y"], one["y"] - two["y"])
    np.testing.assert_array_equal(found["z"], -two["z"])


def test_a_difference_with_itself_is_exactly_zero(tmp_path: Path, pair: dict[str, str]) -> None:
    done = pemath.compose("a - 1*a", tmp_path / "out", operands={"a": pair["a"]})
    assert not any(tensor.any() for tensor in written(done.folder).values())
    assert done.certificate.error == 0.0


def test_paper_arithmetic_is_the_exact_one(tmp_path: Path, pair: dict[str, str]) -> None:
    exact = pemath.compose("0.5*a - 2*b", tmp_path / "exact", operands=pair)
    for out, text in enumerate(("paper", "paper(normalize=true)")):
        done = pemath.compose("0.5*a - 2*b", tmp_path / str(out), operands=pair, arithmetic=text)
        weights = [f / "adapter_model.safetensors" for f in (done.folder, exact.folder)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_was_composed_can_be_verified_and_made_again(
    tmp_path: Path, pair: dict[str, str]
) -> None:
    done = pemath.compose("0.5*a + 0.5*b", tmp_path / "out", operands=pair)
    pemath.verify(done.folder)
    pemath.rebuild(done.folder, tmp_path / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (done.folder / name).read_bytes()


def test_names_without_the_prefix_are_read(tmp_path: Path) -> None:
    tensors = drawn(1)
    bare = write(tmp_path / "a", tensors, prefix="")
    done = pemath.compose("a", tmp_path / "out", operands={"a": bare})
    assert load_file(done.folder / "adapter_model.safetensors").keys() == {
        PREFIX + name for name in tensors
    }


def test_saved_modules_are_heads(tmp_path: Path) -> None:
    shapes = SHAPES | {"classifier.weight": (2, 5)}
    tensors = [drawn(seed, shapes) for seed in (1, 2)]
    settings = {"modules_to_save": ["classifier"]}
    operands = {
        name: write(tmp_path / name, each, **settings)
        for name, each in zip("ab", tensors, strict=True)
    }
    with pytest.raises(HeadChoiceNeeded):
        pemath.compose("a - b", tmp_path / "out", operands=operands)
    done = pemath.compose("0.5*a + 0.5*b", tmp_path / "out", operands=operands)
    assert "classifier.weight" not in done.certificate.sites
    assert config_of(done.folder)["modules_to_save"] == ["classifier"]
    wanted = 0.5 * (tensors[0]["classifier.weight"] + tensors[1]["classifier.weight"])
    np.testing.assert_allclose(written(done.folder)["classifier.weight"], wanted, rtol=1e-6)


def test_the_card_says_how_to_apply_it(tmp_path: Path, pair: dict[str, str]) -> None:
    done = pemath.compose("0.5*a + 0.5*b", tmp_path / "out", operands=pair)
    card = (done.folder / "README.md").read_text()
    assert "PEFT does not load this folder" in card
    assert f'state[name.removeprefix("{PREFIX}")].add_(delta)' in card
    assert "library_name" not in card
