"""Reading DoRA: what its folder must hold, and which base weight belongs to a site."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import pemath
from pemath.errors import (
    LayoutError,
    NonFiniteValue,
    PemathError,
    ShapeMismatch,
    UnsupportedFeature,
)
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, open_adapter

from .checkpoints import drawn, loaded, saved

SITE, PREFIX = "model.layers.0.q_proj", "base_model.model."
OUT, IN, RANK = 6, 5, 2
M = f"{PREFIX}{SITE}.lora_magnitude_vector"


def tensors(site: str = SITE, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        f"{PREFIX}{site}.lora_A.weight": rng.standard_normal((RANK, IN)).astype("f4"),
        f"{PREFIX}{site}.lora_B.weight": rng.standard_normal((OUT, RANK)).astype("f4"),
        f"{PREFIX}{site}.lora_magnitude_vector": 1 + rng.random(OUT).astype("f4"),
    }


def written(folder: Path, arrays: dict[str, Any], **fields: Any) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "use_dora": True, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(arrays, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def base(folder: Path, shape: tuple[int, ...] = (OUT, IN), **config: Any) -> Path:
    return saved(folder, drawn(7, model__layers__0__q_proj__weight=shape), **config)


def opened(tmp_path: Path, arrays: dict[str, Any], **fields: Any) -> Adapter:
    place = base(tmp_path / "base")
    return open_adapter(
        PeftFolder.open(written(tmp_path / "a", arrays, **fields)), Checkpoint.open(place)
    )


@pytest.mark.parametrize("name", [M, f"{M}.weight", f"{M}.default.weight"])
def test_the_spellings_of_the_magnitudes(tmp_path: Path, name: str) -> None:
    arrays = tensors()
    arrays[name] = arrays.pop(M)
    adapter = opened(tmp_path, arrays)
    assert adapter.kind.name == "dora"
    weight = loaded(tmp_path / "base")[f"{SITE}.weight"].astype("f8")
    update = (
        1.5
        * arrays[f"{PREFIX}{SITE}.lora_B.weight"].astype("f8")
        @ arrays[f"{PREFIX}{SITE}.lora_A.weight"]
    )
    direction = weight + update
    wanted = arrays[name][:, None] * direction / np.linalg.norm(direction, axis=1)[:, None] - weight
    np.testing.assert_allclose(adapter.sites[SITE].delta_weight(), wanted, rtol=1e-12, atol=1e-14)


REFUSED: dict[str, tuple[Any, type[PemathError], str]] = {
    "no magnitudes": (lambda t: {n: a for n, a in t.items() if n != M}, LayoutError, "do not go together"),
    "magnitudes alone": (
        lambda t: {**t, f"{PREFIX}x.lora_magnitude_vector": t[M]}, LayoutError, "do not go together at `x`",
    ),
    "twice": (lambda t: {**t, f"{M}.weight": t[M]}, LayoutError, "two vectors of magnitudes"),
    "too short": (lambda t: {**t, M: t[M][:-1]}, LayoutError, "wrong shape"),
    "a column": (lambda t: {**t, M: t[M][:, None]}, LayoutError, "wrong shape"),
    "a bias": (
        lambda t: {**t, f"{PREFIX}{SITE}.lora_B.bias": t[M]}, UnsupportedFeature, "bias of its own",
    ),
    "another module": (
        lambda t: {n.replace("q_proj", "k_proj"): a for n, a in t.items()}, LayoutError, "no `model.layers.0.k_proj",
    ),
    "another width": (
        lambda t: {n: a[:, :-1] if "lora_A" in n else a for n, a in t.items()}, ShapeMismatch, "does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path: Path, case: str) -> None:
    change, error, said = REFUSED[case]
    with pytest.raises(error, match=said):
        opened(tmp_path, {n: np.ascontiguousarray(a) for n, a in change(tensors()).items()})


def test_other_obstacles_stay(tmp_path: Path) -> None:
    adapter = opened(tmp_path, tensors(), init_lora_weights="pissa")
    assert any("pissa" in error.what for error in adapter.obstacles)


def test_a_row_without_a_direction_is_refused(tmp_path: Path) -> None:
    arrays = {n: a * 0 if "lora_B" in n else a for n, a in tensors().items()}
    place = base(tmp_path / "base")
    weight = loaded(place)[f"{SITE}.weight"]
    weight[3] = 0
    saved(place, {f"{SITE}.weight": weight})
    folder = written(tmp_path / "a", arrays)
    with pytest.raises(NonFiniteValue, match=r"row 3 of base parameter"):
        pemath.compose(
            "0.5*a", tmp_path / "out", operands={"a": str(folder)}, base_weights=str(place)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stated", [True, False, None])
@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT)])
def test_the_shape_says_which_way_round_a_weight_lies(
    tmp_path: Path, shape: tuple[int, int], stated: bool | None
) -> None:
    place = base(tmp_path / "base", shape)
    folder = written(tmp_path / "a", tensors(), fan_in_fan_out=stated)
    adapter = open_adapter(PeftFolder.open(folder), Checkpoint.open(place))
    assert adapter.sites[SITE].base.transposed == (shape == (IN, OUT))  # type: ignore[attr-defined]


@pytest.mark.parametrize("stated", [True, False])
def test_of_square_weights_the_config_or_their_neighbours_say_it(
    tmp_path: Path, stated: bool
) -> None:
    """Neighbours first: PEFT corrects the flag for the layers that it meets."""
    square = {n: a[:5] if "lora_A" not in n else a for n, a in tensors("h.0.a").items()}
    place = saved(tmp_path / "base", drawn(3, h__0__a__weight=(5, 5), h__0__b__weight=(IN, OUT)))
    checkpoint = Checkpoint.open(place)
    alone = written(tmp_path / "a", square, fan_in_fan_out=stated)
    site = open_adapter(PeftFolder.open(alone), checkpoint).sites["h.0.a"]
    assert site.base.transposed == stated  # type: ignore[attr-defined]
    both = written(tmp_path / "b", square | tensors("h.0.b"), fan_in_fan_out=stated)
    sites = open_adapter(PeftFolder.open(both), checkpoint).sites
    assert all(value.base.transposed for value in sites.values())  # type: ignore[attr-defined]
