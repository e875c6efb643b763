"""What `inspect` says, against dense float64."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pemath.diagnose.inspect import inspect
from pemath.errors import (
    LayoutError,
    NonFiniteValue,
    PickleRefused,
    ReferenceNotFound,
    UnsupportedFeature,
    UnsupportedKind,
)

PREFIX = "base_model.model."
QUERY, VALUE = "encoder.0.query", "encoder.0.value"


def write(folder: Path, tensors: Mapping[str, np.ndarray], **config: Any) -> str:
    folder.mkdir()
    stored = {PREFIX + name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "base_model_name_or_path": "some/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return str(folder)


def factors(seed: int = 0, ranks: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for site, rank in (ranks or {QUERY: 4, VALUE: 4}).items():
        tensors[f"{site}.lora_A.weight"] = rng.standard_normal((rank, 12)).astype(np.float32)
        tensors[f"{site}.lora_B.weight"] = rng.standard_normal((10, rank)).astype(np.float32)
    return tensors


def dense_norm(tensors: Mapping[str, np.ndarray], site: str, scale: float) -> float:
    a, b = (tensors[f"{site}.lora_{x}.weight"].astype(np.float64) for x in "AB")
    return float(np.linalg.norm(scale * b @ a))


def test_a_lora(tmp_path: Path) -> None:
    tensors = factors()
    path = write(tmp_path / "x", tensors, r=4, lora_alpha=8, peft_version="0.21.2")

    found = inspect(path)

    assert found.reference == path
    assert found.folder == Path(path)
    assert found.revision is None
    assert (found.kind, found.peft_type) == ("lora", "LORA")
    assert (found.base_model, found.peft_version) == ("some/base", "0.21.2")
    assert list(found.sites) == [QUERY, VALUE]
    for site, facts in found.sites.items():
        assert (facts.shape, facts.rank, facts.scale) == ("10×12", 4, 2.0)
        assert facts.norm == pytest.approx(dense_norm(tensors, site, 2.0), rel=1e-6)
    total = math.hypot(*(dense_norm(tensors, site, 2.0) for site in found.sites))
    assert found.norm == pytest.approx(total, rel=1e-6)
    assert (found.ranks, found.scales) == ([4], [2.0])
    assert found.dtypes == {"float32": 4}
    assert found.parameters == 2 * (4 * 12 + 10 * 4)
    assert found.size == (tmp_path / "x" / "adapter_model.safetensors").stat().st_size
    assert not found.heads
    assert not found.notes
    assert not found.obstacles


def test_patterns_and_rank_stabilised_scaling(tmp_path: Path) -> None:
    tensors = factors(ranks={QUERY: 4, VALUE: 9})
    path = write(
        tmp_path / "x", tensors, r=4, lora_alpha=8, rank_pattern={"value": 9}, use_rslora=True
    )

    found = inspect(path)

    assert found.ranks == [4, 9]
    assert found.scales == pytest.approx([8 / 3, 4.0])
    assert found.sites[VALUE].norm == pytest.approx(dense_norm(tensors, VALUE, 8 / 3), rel=1e-6)
    assert any("rsLoRA" in note for note in found.notes)
    assert any("patterns" in note for note in found.notes)
    assert found.as_dict()["ranks"] == {"min": 4, "max": 9, "distinct": [4, 9]}


def test_heads_and_mixed_dtypes(tmp_path: Path) -> None:
    tensors = factors() | {
        "classifier.weight": np.ones((3, 12), np.float64),
        "classifier.bias": np.ones(3, np.float64),
    }
    path = write(tmp_path / "x", tensors, r=4, lora_alpha=4, modules_to_save=["classifier"])

    found = inspect(path)

    assert found.heads == {"classifier": 39}
    assert found.dtypes == {"float64": 2, "float32": 4}
    assert found.parameters == 2 * (4 * 12 + 10 * 4) + 39


def test_ia3(tmp_path: Path) -> None:
    vector = np.array([[1.0], [0.5], [-0.25], [0.0], [2.0]])
    path = write(tmp_path / "x", {f"{QUERY}.ia3_l": vector}, peft_type="IA3")

    found = inspect(path)

    assert found.kind == "ia3"
    assert found.sites[QUERY].norm == pytest.approx(float(np.linalg.norm(vector - 1)))
    assert (found.sites[QUERY].rank, found.sites[QUERY].scale) == (None, None)
    assert found.ranks == []
    assert found.as_dict()["ranks"] is None
    assert any(note.startswith("2 entries of l") for note in found.notes)


def test_an_untrained_adapter_is_called_so(tmp_path: Path) -> None:
    tensors = {
        name: tensor * 0 if ".lora_B." in name else tensor for name, tensor in factors().items()
    }
    found = inspect(write(tmp_path / "x", tensors, r=4, lora_alpha=4))
    assert found.norm == 0.0
    assert any("zero at every site" in note for note in found.notes)


@pytest.mark.parametrize(
    ("config", "word"), [({"use_dora": True}, "DoRA"), ({"init_lora_weights": "pissa"}, "pissa")]
)
def test_an_adapter_that_cannot_be_composed_is_shown(
    tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    tensors = factors()
    if "use_dora" in config:
        tensors[f"{QUERY}.lora_magnitude_vector"] = np.ones(10, np.float32)

    found = inspect(write(tmp_path / "x", tensors, r=4, lora_alpha=4, **config))

    (obstacle,) = found.obstacles
    assert isinstance(obstacle, UnsupportedFeature)
    assert word in obstacle.what
    assert found.sites[QUERY].norm == pytest.approx(dense_norm(tensors, QUERY, 1.0), rel=1e-6)
    assert found.as_dict()["obstacles"][0]["error"] == "unsupported-feature"


def test_an_unknown_kind_is_shown_without_sites(tmp_path: Path) -> None:
    tensors = {f"{QUERY}.oft_R.weight": np.ones((4, 2), np.float32)}

    found = inspect(write(tmp_path / "x", tensors, peft_type="OFT"))

    assert (found.kind, found.peft_type) == (None, "OFT")
    assert isinstance(found.obstacles[0], UnsupportedKind)
    assert not found.sites
    assert found.norm == 0.0
    assert found.parameters == 8
    assert not any("zero at every site" in note for note in found.notes)


def test_a_quantised_adapter_is_shown(tmp_path: Path) -> None:
    tensors = {name: tensor.astype(np.int8) for name, tensor in factors().items()}
    found = inspect(write(tmp_path / "x", tensors, r=4, lora_alpha=4))
    assert found.obstacles[0].code == "unknown-dtype"
    assert found.dtypes == {"i8": 4}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.filterwarnings("error")
def test_a_value_that_is_not_finite_is_refused(tmp_path: Path, value: float, factor: str) -> None:
    tensors = factors()
    tensors[f"{VALUE}.lora_{factor}.weight"][1, 2] = value
    path = write(tmp_path / "x", tensors, r=4, lora_alpha=4)
    with pytest.raises(NonFiniteValue, match=f"{VALUE}.lora_{factor}") as caught:
        inspect(path)
    assert "(1, 2)" in str(caught.value)


def test_a_head_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = factors() | {"classifier.weight": np.array([[1.0, np.nan]])}
    path = write(tmp_path / "x", tensors, r=4, lora_alpha=4, modules_to_save=["classifier"])
    with pytest.raises(NonFiniteValue, match=r"classifier\.weight"):
        inspect(path)


@pytest.mark.filterwarnings("error")
def test_an_overflowing_update_is_refused(tmp_path: Path) -> None:
    tensors = {name: tensor.astype(np.float64) * 1e200 for name, tensor in factors().items()}
    with pytest.raises(NonFiniteValue, match="too large"):
        inspect(write(tmp_path / "x", tensors, r=4, lora_alpha=4))


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound):
        inspect(str(tmp_path / "nothing"))
    broken = {name: tensor for name, tensor in factors().items() if "lora_A" in name}
    with pytest.raises(LayoutError):
        inspect(write(tmp_path / "broken", broken, r=4, lora_alpha=4))
    path = write(tmp_path / "pickle", factors(), r=4, lora_alpha=4)
    weights = tmp_path / "pickle" / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(PickleRefused):
        inspect(path)


def test_the_dictionary_is_plain_json(tmp_path: Path) -> None:
    found = inspect(write(tmp_path / "x", factors(), r=4, lora_alpha=4, use_dora=True))
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text)["sites"][QUERY]["rank"] == 4
