"""`adapters_*` write what AdapterHub's released `adapters` 1.3.0 computes.

Its numbers are frozen in adapterhub.json, for it needs an older transformers than the other tests;
where it is installed, they are computed again.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath.errors import KindMismatch, OperandError, PemathError, RequestError

from . import released_adapterhub as released

METHODS = {
    released.LINEAR: "adapters_linear",
    released.NEGATE_B: "adapters_linear_only_negate_b",
    released.SVD: "adapters_delta_w_svd",
}
KEY = "base_model.model.layer.q"
Case = dict[str, Any]
FROZEN: Case = json.loads(released.FROZEN.read_text())
CASES: list[Case] = FROZEN["cases"]


def shown(case: Case) -> str:
    kept = (case["operands"], case["weights"], case["normalize"], case["svd_rank"])
    return f"{case['strategy']} {' '.join(map(str, kept))}"


def array(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """AdapterHub's operands as PEFT stores them."""
    root = tmp_path_factory.mktemp("adapterhub")
    written = {}
    for number, (name, parts) in enumerate(FROZEN["operands"].items()):
        folder = root / str(number)
        folder.mkdir()
        config: Case = {"peft_type": "IA3", "target_modules": ["q"], "feedforward_modules": []}
        tensors = {f"{KEY}.ia3_l": array(parts.get("l")).reshape(-1, 1)}
        if "A" in parts:
            rank, alpha = released.LORAS[name]
            config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q"]}
            tensors = {f"{KEY}.lora_{key}.weight": array(parts[key]) for key in "AB"}
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        written[name] = folder
    return written


def composed(case: Case, folders: dict[str, Path], out: Path) -> dict[str, np.ndarray]:
    names = [f"x{number}" for number in range(len(case["operands"]))]
    options = [f"normalize_weights={json.dumps(case['normalize'])}"]
    if case["weights"] is not None:
        options.append(f"weights={case['weights']}")
    if case["svd_rank"] is not None:
        options.append(f"svd_rank={case['svd_rank']}")
    bound = {name: str(folders[key]) for name, key in zip(names, case["operands"], strict=True)}
    call = f"{METHODS[case['strategy']]}({', '.join([*names, *options])})"
    return load_file(pemath.compose(call, out, operands=bound).folder / "adapter_model.safetensors")


def assert_same(found: np.ndarray, wanted: np.ndarray, tolerance: float = 2.0**-22) -> None:
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance * float(np.abs(wanted).max())


def assert_same_pairs(A: np.ndarray, B: np.ndarray, case: Case, scaling: float) -> None:
    """But for the sign of each singular pair."""
    wanted_A, wanted_B = array(case["A"]), scaling * array(case["B"])
    signs = np.sign((A * wanted_A).sum(1))
    kept = np.linalg.norm(wanted_B, axis=0) > 1e-5  # the others are rounding errors
    assert_same((signs[:, None] * A)[kept], wanted_A[kept], 1e-5)
    assert_same(B * signs, wanted_B, 1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if "error" not in c], ids=shown)
def test_the_frozen_numbers(case: Case, folders: dict[str, Path], tmp_path: Path) -> None:
    found = composed(case, folders, tmp_path / "out")
    scaling = case["scaling"]
    if "A" not in case:
        assert scaling == 1
        assert_same(found[f"{KEY}.ia3_l"], array(case["B"]).reshape(-1, 1))
        return
    A, B = (found[f"{KEY}.lora_{key}.weight"] for key in "AB")
    if case["strategy"] == released.SVD:
        assert_same_pairs(A, B, case, scaling)
    else:
        assert_same(A, array(case["A"]))
        assert_same(B, scaling * array(case["B"]))


# What AdapterHub raises where we refuse.
REFUSED = {
    "ZeroDivisionError": RequestError,  # weights that add up to zero
    "ValueError": OperandError,  # configurations that differ
    "RuntimeError": KindMismatch,  # (IA)³ by singular values
}
NO_RANK = {"strategy": released.SVD, "operands": ["a", "b"], "svd_rank": None}


def asks_for_a_rank(case: Case) -> bool:
    return all(case[key] == value for key, value in NO_RANK.items())


@pytest.mark.parametrize(
    "case", [c for c in CASES if "error" in c and not asks_for_a_rank(c)], ids=shown
)
def test_what_both_refuse(case: Case, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(REFUSED[case["error"]]) as refused:
        composed(case, folders, tmp_path / "out")
    assert isinstance(refused.value, PemathError)
    assert not (tmp_path / "out").exists()


def test_a_rank_that_adapterhub_asks_for(folders: dict[str, Path], tmp_path: Path) -> None:
    """It refuses to choose one; ours is that of the operands."""
    (case,) = (case for case in CASES if asks_for_a_rank(case))
    assert case["error"] == "ValueError"
    chosen = composed(case, folders, tmp_path / "out")
    asked = composed({**case, "svd_rank": 2}, folders, tmp_path / "asked")
    for key, tensor in asked.items():
        np.testing.assert_array_equal(chosen[key], tensor)


# ----------------------------------------------------------------- what that means for the delta


def delta(name: str) -> np.ndarray:
    parts = FROZEN["operands"][name]
    rank, alpha = released.LORAS[name]
    return alpha / rank * np.array(parts["B"]) @ np.array(parts["A"])


@pytest.mark.parametrize(
    ("strategy", "names", "weights", "normalize", "rank", "meant", "times"),
    [
        ("linear", "a", [-1.0], False, None, {"a": -1.0}, -1.0),  # −a is a
        ("linear", "a", [-1.0], True, None, {"a": -1.0}, -1.0),
        ("linear", "a", [2.0], False, None, {"a": 2.0}, 2.0),  # 2a is 4a
        ("lora_linear_only_negate_b", "a", [-1.0], False, None, {"a": -1.0}, 1.0),
        ("lora_linear_only_negate_b", "a", [-1.0], True, None, {"a": -1.0}, -1.0),
        ("lora_delta_w_svd", "ab", None, True, 4, {"a": 0.5, "b": 0.5}, 0.5),  # half of the mean
        ("lora_delta_w_svd", "ab", [1.0, -1.0], False, 4, {"a": 1.0, "b": -1.0}, 0.5),
    ],
)
def test_what_goes_wrong(
    folders: dict[str, Path],
    tmp_path: Path,
    strategy: str,
    names: str,
    weights: list[float] | None,
    normalize: bool,
    rank: int | None,
    meant: dict[str, float],
    times: float,
) -> None:
    """The delta is `times` what was meant, in AdapterHub's numbers and in ours."""
    wanted = times * sum(weight * delta(name) for name, weight in meant.items())
    case = {"strategy": strategy, "operands": [*names], "weights": weights,
            "normalize": normalize, "svd_rank": rank}  # fmt: skip
    (theirs,) = (c for c in CASES if all(c[key] == value for key, value in case.items()))
    product = theirs["scaling"] * np.array(theirs["B"]) @ np.array(theirs["A"])
    np.testing.assert_allclose(product, wanted, atol=1e-6)
    found = composed(case, folders, tmp_path / "out")
    ours = found[f"{KEY}.lora_B.weight"] @ found[f"{KEY}.lora_A.weight"]
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_equal_a_and_shares_are_exact(folders: dict[str, Path], tmp_path: Path) -> None:
    for strategy in (released.LINEAR, released.NEGATE_B):
        case = {"strategy": strategy, "operands": ["a", "same A as a"], "weights": [1.0, 3.0],
                "normalize": True, "svd_rank": None}  # fmt: skip
        found = composed(case, folders, tmp_path / strategy)
        ours = found[f"{KEY}.lora_B.weight"] @ found[f"{KEY}.lora_A.weight"]
        wanted = 0.25 * delta("a") + 0.75 * delta("same A as a")
        np.testing.assert_allclose(ours, wanted, atol=1e-6)


# ------------------------------------------------------------------------------------- the peer


def test_the_frozen_numbers_are_those_of_the_package() -> None:
    """Runs where AdapterHub's `adapters` is installed, which needs transformers 4."""
    try:
        version = importlib.metadata.version("adapters")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("AdapterHub's adapters is not installed; its numbers are frozen")
    assert f"adapters {version}" == FROZEN["package"]
    again = released.computed()
    assert again["operands"] == FROZEN["operands"]
    for case, frozen in zip(again["cases"], CASES, strict=True):
        assert case.keys() == frozen.keys()
        assert case.get("error") == frozen.get("error")
        if "error" in case:
            continue
        assert case["scaling"] == frozen["scaling"]
        if case["strategy"] == released.SVD:
            assert_same_pairs(array(case["A"]), array(case["B"]), frozen, 1.0)
        else:
            for key in ("A", "B") if "A" in case else ("B",):
                assert_same(array(case[key]), array(frozen[key]), 1e-6)
