"""Hostile `adapter_config.json`: malformed, contradicting the tensors, or made to take for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pemath
from pemath.errors import InputError, LayoutError, PemathError, UnsupportedFeature, UnsupportedKind

from . import attacks
from .attacks import Attack
from .judge import check_refused, leftovers, outcome


def by_name(attack: Attack) -> str:
    return attack.name


def lora_tensors() -> dict[str, attacks.Tensor]:
    """The harmless tensors and sites with long names, on which slow patterns show."""
    found = attacks.lora_tensors()
    for site in attacks.LONG_SITES:
        found[f"{attacks.PREFIX}{site}.lora_A.weight"] = attacks.tensor((2, 3))
        found[f"{attacks.PREFIX}{site}.lora_B.weight"] = attacks.tensor((4, 2))
    return found


def ia3_tensors() -> dict[str, attacks.Tensor]:
    names = [f"{attacks.PREFIX}{site}.ia3_l" for site in attacks.LONG_SITES]
    return attacks.ia3_tensors() | {name: attacks.tensor((4, 1)) for name in names}


def composed(operand: Path, folder: Path) -> PemathError | None:
    """What composing `operand` with a harmless adapter gives; a result must be whole."""
    ordinary = (
        attacks.lora if "LORA" in (operand / attacks.CONFIG).read_text("latin-1") else attacks.ia3
    )
    bound = {"a": str(operand), "b": str(ordinary(folder / "b"))}
    error = outcome(
        lambda: pemath.compose("0.5*a + 0.5*b", folder / "out", operands=bound, heads="drop")
    )
    if error is None:
        written = json.loads(
            (folder / "out" / attacks.CONFIG).read_text("utf-8"), parse_constant=refuse
        )
        assert written["peft_type"] in ("LORA", "IA3")
        assert (
            outcome(
                lambda: pemath.compose("a", folder / "again", operands={"a": str(folder / "out")})
            )
            is None
        )
    else:
        assert leftovers(folder, "a", "b") == []
    return error


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("attack", attacks.CONFIGS, ids=by_name)
def test_lora(attack: Attack, tmp_path: Path) -> None:
    operand = attacks.write(tmp_path / "a", attack.data, lora_tensors())
    check_refused(composed(operand, tmp_path), attack.error)


@pytest.mark.parametrize("attack", attacks.IA3_CONFIGS, ids=by_name)
def test_ia3(attack: Attack, tmp_path: Path) -> None:
    operand = attacks.write(tmp_path / "a", attack.data, ia3_tensors())
    check_refused(composed(operand, tmp_path), attack.error)


def test_harmless(tmp_path: Path) -> None:
    """The judge above accepts what is not hostile."""
    lora = attacks.write(tmp_path / "a", attacks.LORA, lora_tensors())
    assert composed(lora, tmp_path) is None


@pytest.mark.parametrize("attack", attacks.LAYOUTS, ids=by_name)
def test_layout(attack: Attack, tmp_path: Path) -> None:
    operand = attacks.write(tmp_path / "a", attacks.LORA, attack.data)
    check_refused(composed(operand, tmp_path), attack.error)


@pytest.mark.parametrize("attack", attacks.IA3_LAYOUTS, ids=by_name)
def test_ia3_layout(attack: Attack, tmp_path: Path) -> None:
    operand = attacks.write(tmp_path / "a", attacks.IA3, attack.data)
    check_refused(composed(operand, tmp_path), attack.error)


def test_experts_whose_rank_does_not_divide(tmp_path: Path) -> None:
    fields = {"target_parameters": [f"{attacks.SITES[0]}.weight"], "lora_bias": False}
    for rank in (4, 0, -1, True, "2", None, 1 << 70):
        operand = attacks.write(
            tmp_path / "a", attacks.LORA | fields | {"r": rank}, attacks.lora_tensors(rank=6)
        )
        assert isinstance(composed(operand, tmp_path), InputError), rank


@pytest.mark.parametrize(("levels", "names"), [(1, 300_000), (2, 5_000), (12, 12), (40, 40)])
def test_parameters_that_can_be_nested_in_many_orders(
    levels: int, names: int, tmp_path: Path
) -> None:
    """Their order must be found, if at all, without trying all of them."""
    owner = attacks.SITES[0]
    parameters = [f"{owner}.p{number}" for number in range(names)]
    fields = {
        "target_parameters": parameters,
        "alpha_pattern": {f"{owner}.p0": 7, f"{owner}.p1": 9},
        "lora_bias": False,
        "modules_to_save": None,
    }
    tensors = {}
    for level in range(levels):
        prefix = attacks.PREFIX + owner + ".base_layer" * level
        tensors[f"{prefix}.lora_A.weight"] = attacks.tensor((4, 3))
        tensors[f"{prefix}.lora_B.weight"] = attacks.tensor((4, 4))
    operand = attacks.write(tmp_path / "a", attacks.LORA | fields, tensors)
    outcome(lambda: pemath.compose("a", tmp_path / "out", operands={"a": str(operand)}))


def test_parameters_that_cannot_be_told_apart(tmp_path: Path) -> None:
    """Equal shapes, different alphas: refused, not guessed."""
    owner = attacks.SITES[0]
    fields = {
        "target_parameters": [f"{owner}.one", f"{owner}.two"],
        "alpha_pattern": {f"{owner}.one": 7},
        "lora_bias": False,
        "modules_to_save": None,
    }
    tensors = {
        f"{attacks.PREFIX}{owner}{level}.lora_{factor}.weight": attacks.tensor((4, 4))
        for level in ("", ".base_layer")
        for factor in "AB"
    }
    operand = attacks.write(tmp_path / "a", attacks.LORA | fields, tensors)
    with pytest.raises(UnsupportedFeature, match="cannot be known"):
        pemath.compose("a", tmp_path / "out", operands={"a": str(operand)})


def test_rank_is_checked_at_every_site(tmp_path: Path) -> None:
    """A config that is right for all sites but one is refused, and that site is named."""
    tensors = attacks.lora_tensors()
    tensors |= {
        f"{attacks.PREFIX}encoder.7.query.lora_A.weight": attacks.tensor((1, 3)),
        f"{attacks.PREFIX}encoder.7.query.lora_B.weight": attacks.tensor((4, 1)),
    }
    operand = attacks.write(tmp_path / "a", attacks.LORA, tensors)
    error = composed(operand, tmp_path)
    assert isinstance(error, LayoutError)
    assert "encoder.7.query" in str(error)


def test_a_kind_is_refused_by_its_safe_name(tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a", peft_type="LORA\x1b[2J")
    with pytest.raises(UnsupportedKind) as refused:
        pemath.compose("a", tmp_path / "out", operands={"a": str(operand)})
    assert r"LORA\u001b[2J" in str(refused.value)


def test_many_sites_against_many_patterns(tmp_path: Path) -> None:
    """What pemath itself writes in the compact profile: one literal pattern per site."""
    sites = [f"layers.{i}.proj" for i in range(1000)]
    tensors = {}
    for site in sites:
        tensors[f"{attacks.PREFIX}{site}.lora_A.weight"] = attacks.tensor((2, 3))
        tensors[f"{attacks.PREFIX}{site}.lora_B.weight"] = attacks.tensor((4, 2))
    pattern = dict.fromkeys(sites, 2)
    fields = {"r": 8, "rank_pattern": pattern, "alpha_pattern": pattern, "lora_bias": False}
    operand = attacks.write(tmp_path / "a", attacks.LORA | fields, tensors)
    assert outcome(lambda: list(pemath.evaluate("a", operands={"a": str(operand)}))) is None
