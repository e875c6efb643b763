"""Hostile expressions: no code is run, none takes for ever, and each mistake shows its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pemath
from pemath.errors import ExpressionError, UsageError
from pemath.expression.parser import parse, parse_call

from . import attacks
from .attacks import Attack
from .judge import check_refused, leftovers, outcome


def by_name(attack: Attack) -> str:
    return attack.name


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("operands")
    return {name: str(attacks.lora(folder / name, seed=seed)) for seed, name in enumerate("ab")}


@pytest.mark.parametrize("attack", attacks.EXPRESSIONS, ids=by_name)
def test_compose(attack: Attack, bound: dict[str, str], tmp_path: Path) -> None:
    text = attack.data.decode()
    used = {name: path for name, path in bound.items() if name in text} or bound
    error = outcome(lambda: pemath.compose(text, tmp_path / "out", operands=used, heads="drop"))
    check_refused(error, attack.error)
    assert leftovers(tmp_path, "out") == []
    assert error is None or not (tmp_path / "out").exists()


@pytest.mark.parametrize("attack", attacks.EXPRESSIONS, ids=by_name)
def test_what_parses_prints_and_parses_again(attack: Attack) -> None:
    text = attack.data.decode()
    trees = []
    if outcome(lambda: trees.append(parse(text, a="x", b="y"))) is None:
        printed = []
        assert outcome(lambda: printed.append(str(trees[0]))) is None
        if len(printed[0]) < 100_000:
            assert outcome(lambda: trees.append(parse(printed[0], a="x", b="y"))) is None


@pytest.mark.parametrize("attack", attacks.EXPRESSIONS, ids=by_name)
def test_as_an_arithmetic(attack: Attack) -> None:
    """The text of --arithmetic comes from the same places."""
    error = outcome(lambda: parse_call(attack.data.decode()))
    assert error is None or isinstance(error, UsageError)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a + c", 4),
        ("a + * b", 4),
        ("(a + b", 6),
        ("a b", 2),
        ("a / 0", 2),
        ("  a * b", 4),
        ("paper(a, 2)", 9),
        ("a + 'x", 4),
        ("a +\n c", 5),
        ("1e31*a", 0),
    ],
)
def test_the_caret_stands_under_the_place(text: str, place: int) -> None:
    with pytest.raises(ExpressionError) as refused:
        parse(text, a="x", b="y")
    assert refused.value.position == place
    _, shown, caret, *_ = str(refused.value).split("\n")
    assert len(shown) >= len(caret) - 1
    assert caret.index("^") == 4 + place


def test_the_caret_in_a_long_text() -> None:
    with pytest.raises(ExpressionError) as refused:
        parse("a + " * 3_000 + "c", a="x")
    _, shown, caret, *_ = str(refused.value).split("\n")
    assert shown[caret.index("^")] == "c"
    assert len(shown) < 200


def test_a_tree_of_python_may_be_deep(bound: dict[str, str], tmp_path: Path) -> None:
    """A loop in a script builds what no parser would: it works, or is refused on purpose."""
    a, b = (pemath.adapter(bound[name]) for name in "ab")
    steps = {
        "factors": lambda x: 0.999 * x,
        "quotients": lambda x: x / 3,
        "signs": lambda x: -x,
        "sums to the left": lambda x: x + b,
        "sums to the right": lambda x: b + x,
        "differences": lambda x: b - x,
        "calls": lambda x: pemath.call("exact", x),
    }
    for step in steps.values():
        built = [a]

        def build(step: Callable[[Any], Any] = step, built: list[Any] = built) -> None:
            for _ in range(2000):
                built.append(step(built.pop()))

        if outcome(build) is None:
            (x,) = built
            outcome(lambda x=x: pemath.compose(x, tmp_path / "out", heads="drop", force=True))
            outcome(lambda x=x: str(x))
            outcome(lambda x=x: (hash(x), x == x + b))
