"""Patterns of a config: the first key that matches, as PEFT finds it, and within bounds."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.errors import ConfigError, UnsupportedFeature
from pemath.formats import patterns
from pemath.formats.patterns import Patterns, names_match, pattern_table

names = st.from_regex(r"[ab_](\.?[ab_]){0,4}", fullmatch=True)
expressions = st.sampled_from([r"a.*", r".*\.b", r"(a|b)", r"^a", r"^a\.b", r"[ab]+", r"\."])
strange = st.text("ab._+[]()*^$\\|?", min_size=1, max_size=6).filter(
    lambda name: ".." not in name and name.strip(".") == name
)


def first(table: dict[str, int], module: str) -> int | None:
    """What PEFT takes, by its own rule."""
    for key, value in table.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return None


def asked(table: Patterns, module: str) -> None:
    for _ in range(1000):
        table.get(module, 0)


@given(st.dictionaries(names | expressions, st.integers(0, 9), max_size=6), names)
@settings(max_examples=300)
def test_the_first_key_that_matches(table: dict[str, int], module: str) -> None:
    assert Patterns(table, "config").get(module, None) == first(table, module)


@given(st.dictionaries(names | strange, st.integers(0, 2), min_size=1, max_size=6))
@settings(max_examples=300)
def test_a_table_gives_every_module_its_value(values: dict[str, int]) -> None:
    table = pattern_table(values, 1)
    read = Patterns(table, "config")
    for module, value in values.items():
        found = first(table, module)
        assert (1 if found is None else found) == read.get(module, 1) == value


def test_names_of_modules_stay_as_they_are() -> None:
    values = {"model.layers.0.q": 2, "model.layers.10.q": 3, "lm_head": 4, "other.lm_head": 5}
    assert pattern_table(values, 5) == {
        "model.layers.0.q": 2,
        "model.layers.10.q": 3,
        "^lm_head": 4,
    }


def test_many_names_take_no_time_by_pairs() -> None:
    table = {f"model.layers.{layer}.experts.{i}.up": 1 for layer in range(40) for i in range(400)}
    read, start = Patterns(table, "config"), time.monotonic()
    assert all(read.get(f"base.{name}", 0) for name in table)
    assert time.monotonic() - start < 20  # by pairs it takes minutes


def test_all_matches_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_MOST_WORK", 1_000_000)
    read = Patterns({"[a.]*[a.]*b": 1}, "config")
    assert read.get("a.a", 0) == 0
    with pytest.raises(UnsupportedFeature, match="too many"):
        asked(read, "a." * 20 + "c")
    plain = Patterns({"a.b": 1}, "config")
    with pytest.raises(UnsupportedFeature, match="too many"):
        asked(plain, "a.c")


@pytest.mark.parametrize("names", [5, True, 1.5, {"a": 1}])
def test_names_that_are_no_names(names: object) -> None:
    with pytest.raises(ConfigError, match="neither"):
        names_match("a.b", names, "config")


def test_a_list_of_names() -> None:
    assert names_match("a.b", ["c", 5, "b"], "config")
    assert not names_match("a.b", ["c", None], "config")
    assert not names_match("a.b", None, "config")
