"""NaN, infinity, and values that become infinite: refused with the tensor's name, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pemath
from pemath.errors import NonFiniteValue, OutOfRange, PemathError

from . import attacks
from .attacks import NOT_FINITE, PREFIX, QUERY, Attack, Tensor
from .judge import check_refused, leftovers, outcome

OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "rank": {"rank": 1},
    "max error": {"max_error": 0.01},
    "compact": {"profile": "compact"},
    "paper": {"arithmetic": "paper"},
    "peft_linear": {"arithmetic": "peft_linear"},
    "peft_svd": {"arithmetic": "peft_svd"},
    "peft_svd clamped": {"arithmetic": "peft_svd(svd_clamp=0.9)"},
    "narrow": {"dtype": "bfloat16"},
}


def refuse(
    folder: Path,
    tensors: dict[str, Tensor],
    config: Any = attacks.LORA,
    expected: Any = NonFiniteValue,
    **options: Any,
) -> PemathError:
    """The refusal of composing these tensors with harmless ones."""
    harmless = attacks.ia3 if config is attacks.IA3 else attacks.lora
    bound = {
        "a": str(attacks.write(folder / "a", config, tensors)),
        "b": str(harmless(folder / "b", seed=5)),
    }
    error = outcome(
        lambda: pemath.compose("0.5*a + 0.5*b", folder / "out", operands=bound, **options)
    )
    assert isinstance(error, expected), repr(error)
    assert leftovers(folder, "a", "b") == []
    return error


@pytest.mark.parametrize("attack", attacks.VALUES, ids=lambda attack: attack.name)
def test_alone(attack: Attack, tmp_path: Path) -> None:
    operand = attacks.write(tmp_path / "a", attacks.LORA, attack.data)
    error = outcome(
        lambda: pemath.compose("0.5*a", tmp_path / "out", operands={"a": str(operand)}, heads="a")
    )
    check_refused(error, NonFiniteValue)
    assert f"{attack.name.split()[2]}`" in str(error)
    assert leftovers(tmp_path, "a") == []


@pytest.mark.parametrize("what", NOT_FINITE)
@pytest.mark.parametrize("role", ["lora_A.weight", "lora_B.weight", "lora_B.bias"])
@pytest.mark.parametrize("options", OPTIONS)
def test_whatever_is_asked_for(options: str, role: str, what: str, tmp_path: Path) -> None:
    """Also where the value would cancel, or be cut off by a smaller rank."""
    tensors = attacks.poisoned(attacks.lora_tensors(), QUERY + role, NOT_FINITE[what], 3)
    assert QUERY + role in str(refuse(tmp_path, tensors, **OPTIONS[options]))


@pytest.mark.parametrize("what", NOT_FINITE)
@pytest.mark.parametrize("other", ["lora_A.weight", "lora_B.weight"])
def test_beside_zeros(other: str, what: str, tmp_path: Path) -> None:
    """Zero times infinity is no zero: the other factor may be all zeros."""
    name = QUERY + ("lora_B.weight" if other == "lora_A.weight" else "lora_A.weight")
    tensors = attacks.lora_tensors()
    dtype, shape, data = tensors[QUERY + other]
    tensors[QUERY + other] = (dtype, shape, bytes(len(data)))
    assert name in str(refuse(tmp_path, attacks.poisoned(tensors, name, NOT_FINITE[what], 0)))


@pytest.mark.parametrize("what", NOT_FINITE)
def test_under_a_scale_of_zero(what: str, tmp_path: Path) -> None:
    tensors = attacks.poisoned(attacks.lora_tensors(), f"{QUERY}lora_A.weight", NOT_FINITE[what], 0)
    refuse(tmp_path, tensors, {**attacks.LORA, "lora_alpha": 0})


def test_every_element_of_a_site(tmp_path: Path) -> None:
    """No place in a tensor is overlooked."""
    for role, count in (("lora_A.weight", 6), ("lora_B.weight", 8), ("lora_B.bias", 4)):
        for index in range(count):
            tensors = attacks.poisoned(attacks.lora_tensors(), QUERY + role, float("nan"), index)
            refuse(tmp_path, tensors)


@pytest.mark.parametrize("what", NOT_FINITE)
@pytest.mark.parametrize("dtype", attacks.CARRIER)
@pytest.mark.parametrize("heads", [None, "average", "a"])
def test_heads(heads: str | None, dtype: str, what: str, tmp_path: Path) -> None:
    name = f"{PREFIX}classifier.bias"
    tensors = attacks.poisoned(attacks.lora_tensors(dtype), name, NOT_FINITE[what], -1)
    assert name in str(refuse(tmp_path, tensors, heads=heads))


@pytest.mark.parametrize("what", NOT_FINITE)
@pytest.mark.parametrize("dtype", attacks.CARRIER)
@pytest.mark.parametrize("site", ["key", "dense"])
def test_ia3(site: str, dtype: str, what: str, tmp_path: Path) -> None:
    name = f"{PREFIX}encoder.0.{site}.ia3_l"
    tensors = attacks.poisoned(attacks.ia3_tensors(dtype), name, NOT_FINITE[what], 1)
    assert name in str(refuse(tmp_path, tensors, attacks.IA3))


@pytest.mark.parametrize("what", NOT_FINITE)
@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_A.weight": (2, 3, 2, 2), "lora_B.weight": (4, 2, 1, 1)},
        {"lora_A.weight": (2, 3, 3), "lora_B.weight": (4, 1, 1)},
        {"lora_embedding_A": (2, 7), "lora_embedding_B": (4, 2)},
    ],
    ids=["convolution", "grouped convolution", "embedding"],
)
def test_other_layouts(shapes: dict[str, tuple[int, ...]], what: str, tmp_path: Path) -> None:
    for role in shapes:
        tensors = {f"{PREFIX}layer.{r}": attacks.tensor(shape) for r, shape in shapes.items()}
        name = f"{PREFIX}layer.{role}"
        assert name in str(refuse(tmp_path, attacks.poisoned(tensors, name, NOT_FINITE[what], -1)))


def test_the_element_is_named(tmp_path: Path) -> None:
    name = f"{QUERY}lora_A.weight"
    error = refuse(tmp_path, attacks.poisoned(attacks.lora_tensors(), name, float("nan"), 5))
    assert "(1, 2)" in str(error)


# ------------------------------------------------------------------ finite in, infinite out


# The factors' own product cannot be computed, or the result cannot be stored.
TOO_LARGE = (NonFiniteValue, OutOfRange)


def filled(value: float, dtype: str, *names: str) -> dict[str, Tensor]:
    """The LoRA's tensors with those called `names` full of one value."""
    found = attacks.lora_tensors(dtype)
    for name in names:
        _, shape, _ = found[name]
        found[name] = (dtype, shape, attacks.encode(np.full(shape, value), dtype))
    return found


def test_a_product_that_overflows_float64(tmp_path: Path) -> None:
    names = [f"{QUERY}lora_A.weight", f"{QUERY}lora_B.weight"]
    assert "encoder.0.query" in str(
        refuse(tmp_path, filled(1e200, "F64", *names), expected=TOO_LARGE)
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_squares_that_overflow_float64(options: str, tmp_path: Path) -> None:
    refuse(
        tmp_path,
        filled(1e160, "F64", f"{QUERY}lora_A.weight"),
        expected=TOO_LARGE,
        **OPTIONS[options],
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_result_that_overflows_its_dtype(dtype: str, tmp_path: Path) -> None:
    value = 1e12 if dtype == "float16" else 1e80
    error = refuse(
        tmp_path, filled(value, "F64", f"{QUERY}lora_B.weight"), expected=TOO_LARGE, dtype=dtype
    )
    assert "encoder.0.query" in str(error)
    assert dtype in str(error)


def test_a_vector_that_overflows_its_dtype(tmp_path: Path) -> None:
    tensors = attacks.ia3_tensors("F64")
    tensors[f"{PREFIX}encoder.0.key.ia3_l"] = ("F64", (4, 1), attacks.encode([1e6] * 4, "F64"))
    refuse(tmp_path, tensors, attacks.IA3, TOO_LARGE, dtype="float16")


def test_a_bias_that_overflows_its_dtype(tmp_path: Path) -> None:
    refuse(tmp_path, filled(1e6, "F64", f"{QUERY}lora_B.bias"), expected=TOO_LARGE, dtype="float16")


def test_an_average_of_heads_that_overflows(tmp_path: Path) -> None:
    """Weights that sum to one may still enlarge: 3 a - 2 b."""
    name = f"{PREFIX}classifier.weight"
    bound = {
        "a": str(attacks.write(tmp_path / "a", attacks.LORA, filled(60_000, "F16", name))),
        "b": str(attacks.write(tmp_path / "b", attacks.LORA, filled(-60_000, "F16", name))),
    }
    error = outcome(lambda: pemath.compose("3*a - 2*b", tmp_path / "out", operands=bound))
    assert isinstance(error, TOO_LARGE), repr(error)
    assert "classifier" in str(error)
    assert leftovers(tmp_path, "a", "b") == []


def test_what_is_not_read_does_not_matter(tmp_path: Path) -> None:
    """A cancelled operand and a dropped head are never looked at."""
    bad = attacks.poisoned(attacks.lora_tensors(), f"{QUERY}lora_A.weight", float("nan"), 0)
    bad = attacks.poisoned(bad, f"{PREFIX}classifier.weight", float("nan"), 0)
    bound = {
        "a": str(attacks.write(tmp_path / "a", attacks.LORA, bad)),
        "b": str(attacks.lora(tmp_path / "b", seed=5)),
    }
    done = pemath.compose("a - a + b", tmp_path / "out", operands=bound, heads="drop")
    assert np.isfinite(done.certificate.error)
