"""Full deltas: what is refused, and what the verbs that only look say of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pemath
from pemath.errors import (
    KindMismatch,
    LayoutError,
    NonFiniteValue,
    OutOfRange,
    PemathError,
    RequestError,
    ShapeMismatch,
    UnknownDtype,
)

from .deltas import PREFIX, SHAPES, Arrays, drawn, write, write_pair


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    return write_pair(tmp_path)


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("call", ["peft_linear(a, b)", "peft_svd(a, b)", "a + peft_linear(b)"])
def test_peft_methods_are_refused_by_name(tmp_path: Path, pair: dict[str, str], call: str) -> None:
    with pytest.raises(KindMismatch, match=r"PEFT.* combines (only )?LoRA") as refused:
        pemath.compose(call, tmp_path / "out", operands=pair)
    assert f"{len(SHAPES)} site(s)" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("expression", ["a", "0.5*a + 0.5*b"])
def test_what_is_not_finite_is_named(
    tmp_path: Path, pair: dict[str, str], bad: float, expression: str
) -> None:
    tensors = drawn(1)
    tensors["embeddings.weight"][39, 3] = bad
    operands = {"a": write(tmp_path / "bad", tensors)}
    operands |= {"b": pair["b"]} if "b" in expression else {}
    with pytest.raises(NonFiniteValue, match=r"embeddings\.weight.*") as refused:
        pemath.compose(expression, tmp_path / "out", operands=operands)
    assert "first at index (39, 3)" in str(refused.value)
    with pytest.raises(NonFiniteValue, match=r"embeddings\.weight"):
        pemath.inspect(operands["a"])


def test_what_is_too_large_for_the_dtype_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"w": np.full(3, 1e4, "f4")})
    with pytest.raises(OutOfRange, match="float16"):
        pemath.compose("10*a", tmp_path / "out", operands={"a": path}, dtype="float16")


def _lora_beside(tensors: Arrays) -> Arrays:
    return tensors | {"encoder.0.query.lora_A.weight": np.zeros((2, 5), "f4")}


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({}, LayoutError, "no sites"),
        ({"w": np.zeros(3, "i8")}, UnknownDtype, "`base_model.model.w`"),
        (_lora_beside(drawn(1)), LayoutError, r"another kind.*lora_A"),
        ({"layer.ia3_l": np.ones((3, 1), "f4")}, LayoutError, "another kind"),
        ({"w": np.zeros(3, "f4"), PREFIX + "w": np.ones(3, "f4")}, LayoutError, "two deltas"),
    ],
)
def test_strange_folders_are_refused(
    tmp_path: Path, tensors: Arrays, error: type[PemathError], message: str
) -> None:
    prefix = "" if PREFIX + "w" in tensors else PREFIX
    path = write(tmp_path / "a", tensors, prefix=prefix)
    with pytest.raises(error, match=message):
        pemath.compose("a", tmp_path / "out", operands={"a": path})


def test_operands_that_do_not_go_together_are_refused(tmp_path: Path, pair: dict[str, str]) -> None:
    other = write(tmp_path / "other", drawn(3, SHAPES | {"encoder.0.query.bias": (8,)}))
    with pytest.raises(ShapeMismatch, match=r"encoder\.0\.query\.bias"):
        pemath.compose("a + c", tmp_path / "out", operands={"a": pair["a"], "c": other})
    lora = "example:sentiment-lora-a"
    with pytest.raises(KindMismatch, match="c is lora"):
        pemath.compose("a + c", tmp_path / "out", operands={"a": pair["a"], "c": lora})
    with pytest.raises(RequestError, match="these are full"):
        pemath.compose("a", tmp_path / "out", operands={"a": pair["a"]}, rank=2)


# --------------------------------------------------------------------------------------- looking


def test_inspect(pair: dict[str, str]) -> None:
    found = pemath.inspect(pair["a"])
    tensors = drawn(1)
    assert (found.kind, found.peft_type, found.base_model) == ("full", "FULL", "some/base")
    assert {n: f.shape for n, f in found.sites.items()} == {
        n: "×".join(map(str, s)) or "number" for n, s in SHAPES.items()
    }
    for name, facts in found.sites.items():
        assert facts.rank is None
        assert facts.norm == pytest.approx(np.linalg.norm(tensors[name].astype("f8")), rel=1e-12)
    assert found.parameters == sum(tensor.size for tensor in tensors.values())
    assert found.notes[0].startswith("PEFT does not load it")
    assert not found.obstacles
    assert json.loads(json.dumps(found.as_dict()))["kind"] == "full"


def test_compare(pair: dict[str, str]) -> None:
    found = pemath.compare(pair["a"], pair["b"])
    a, b = (
        np.concatenate([tensor.astype("f8").ravel() for tensor in drawn(seed).values()])
        for seed in (1, 2)
    )
    assert found.kind == "full"
    assert found.delta.norm_a == pytest.approx(np.linalg.norm(a), rel=1e-12)
    assert found.delta.inner == pytest.approx(a @ b, rel=1e-9)
    assert found.delta.distance == pytest.approx(np.linalg.norm(a - b), rel=1e-12)
    assert (found.rows, found.columns, found.initialisation, found.flips) == (None,) * 4
    for combination, (c, d) in zip(found.combinations, ((1, 1), (0.5, 0.5), (1, -1)), strict=True):
        assert combination.norm == pytest.approx(np.linalg.norm(c * a + d * b), rel=1e-12)
        outcomes = {outcome.method: outcome for outcome in combination.outcomes}
        for name in ("paper", "paper(normalize=true)"):
            assert outcomes[name].error == 0.0
            assert outcomes[name].projection == pytest.approx(1.0)
        assert "refused: PEFT combines LoRA and (IA)³ only" in str(outcomes["peft_linear"].remark)
    json.dumps(found.as_dict())


def test_compare_with_itself(pair: dict[str, str]) -> None:
    found = pemath.compare(pair["a"], pair["a"])
    assert found.delta.distance == 0.0
    assert found.delta.cosine == pytest.approx(1.0)
