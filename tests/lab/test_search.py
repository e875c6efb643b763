"""Free weights: their values, how they get into an expression, how the best are found."""

import itertools
import math
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.errors import ExpressionError, MissingExtra, RequestError
from pemath.expression.linear import normal_form
from pemath.expression.parser import parse
from pemath.lab.search import (
    Span,
    Tried,
    best,
    combinations,
    every,
    fill,
    plain,
    require,
    search,
    used_weights,
    weight_grid,
)

AB = {"a": "a", "b": "b"}
TENTHS = tuple(Fraction(n, 10) for n in range(11))


def test_steps_are_exact_decimals():
    span = weight_grid("0:1:0.1")
    assert span == Span(Fraction(0), Fraction(1), TENTHS)
    assert span.middle == Fraction(1, 2)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("0.3", ["0.3"]),
        ("-1:1:1", ["-1", "0", "1"]),
        ("2:2:0.5", ["2"]),
        (" 0 : 1e0 : 5e-1 ", ["0", "0.5", "1"]),
        ([0.1, 0.2, 1], ["0.1", "0.2", "1"]),
    ],
)
def test_values(given, values):
    assert [*weight_grid(given).values] == [Fraction(value) for value in values]


def test_a_range_without_a_step_has_ends_only():
    assert weight_grid("-0.5:1") == Span(Fraction(-1, 2), Fraction(1))
    assert weight_grid("-0.5:1").middle == Fraction(1, 4)


@pytest.mark.parametrize(
    "given",
    [
        "",
        ":",
        "0:1:0",
        "0:1:-0.1",
        "1:0:0.1",
        "1:0",
        "0:1:0.1:2",
        "nan",
        "0:inf:1",
        "1/2",
        "١",
        "0:1:1e-9",
        "1e400",
        "1e99999999",
        "1e31",
        [],
        [0.1, 0.1],
        [True],
        ["t"],
        [math.nan],
        "0:1:" + "1" * 100,
    ],
)
def test_what_gives_no_values_is_refused(given):
    with pytest.raises(RequestError):
        weight_grid(given)


def test_a_step_that_misses_the_end_is_refused_with_one_that_does_not():
    with pytest.raises(RequestError, match=r"did you mean 0:0\.9:0\.3\?"):
        weight_grid("0:1:0.3")


@settings(max_examples=200)
@given(
    st.integers(-50, 50),
    st.integers(0, 40),
    st.decimals("0.001", "5", places=3),
)
def test_a_grid_has_every_step_and_both_ends(low, steps, step):
    low_, high = Fraction(low), Fraction(low) + steps * Fraction(step)
    values = weight_grid(f"{low}:{float(high)!r}:{step}").values
    assert values[0] == low_
    assert values[-1] == high
    assert {b - a for a, b in itertools.pairwise(values)} <= {Fraction(step)}


def test_combinations_of_several_weights():
    found = combinations({"s": weight_grid([0, 1]), "t": weight_grid("0:1:0.5")})
    assert [plain(one) for one in found] == [
        {"s": s, "t": t} for s in (0.0, 1.0) for t in (0.0, 0.5, 1.0)
    ]


def test_too_many_combinations_are_refused():
    with pytest.raises(RequestError, match="too many combinations"):
        combinations({name: weight_grid("0:1:0.01") for name in "st"})


def test_a_grid_needs_steps():
    with pytest.raises(RequestError, match="0:1:STEP"):
        combinations({"t": weight_grid("0:1")})


@pytest.mark.parametrize("text", ["(1-t)*a + t*b", "a - t*a + t*b", "t*(b-a)+a", "a + (b-a)*t/1"])
@settings(max_examples=200)
@given(t=st.fractions(-2, 2, max_denominator=1000))
def test_a_weight_is_the_number_it_stands_for(text, t):
    form = normal_form(fill(text, AB, {"t": t}))
    wanted = {"a": 1 - t, "b": t}
    assert {op.reference: c for op, c in form.items()} == {n: c for n, c in wanted.items() if c}


def test_the_filled_expression_is_shown_without_weights():
    filled = fill("(1-t)*a + t*b", AB, {"t": 0.3})
    assert str(filled) == "0.7*a + 0.3*b"
    assert parse(str(filled), AB) == filled


def test_weights_stand_in_options_too():
    filled = fill("paper(a, b, weights=[1-t, t])", AB, {"t": Fraction(1, 4)})
    assert filled == parse("paper(a, b, weights=[0.75, 0.25])", AB)
    assert fill("paper(a, b, weights=[t, -t*2])", AB, {"t": 2}) == parse(
        "paper(a, b, weights=[2, -4])", AB
    )


def test_only_names_are_weights():
    """A method, an option, a part of a reference or of a longer name is none."""
    filled = fill('t(a, t=t, flag=true) + t*"t/b" + t*tt', {"a": "a", "tt": "c"}, {"t": 3})
    assert filled == parse('t(a, t=3, flag=true) + 3*"t/b" + 3*tt', {"a": "a", "tt": "c"})


def test_a_name_that_is_nothing_is_refused_with_its_place():
    with pytest.raises(ExpressionError) as caught:
        fill("(1-s)*a + t*b", AB, {"t": 0.5})
    assert caught.value.position == 3


@pytest.mark.parametrize("text", ["t", "a*b", "a/t", "1/t*a", "paper(a, x=t*a)", "t*a + t"])
def test_wrong_expressions_are_refused(text):
    with pytest.raises(ExpressionError):
        fill(text, AB, {"t": 0})


def test_a_weight_with_the_name_of_an_operand_is_refused():
    with pytest.raises(RequestError, match="`a`"):
        fill("a + b", AB, {"a": 1})


def test_used_weights():
    weights = {"s": 0.5, "t": 0.5, "u": 0.5}
    assert used_weights("s*a + paper(a, b, weights=[1, t])", AB, weights) == {"s", "t"}


def test_every_looks_at_the_ends_of_ranges():
    spans = {"s": weight_grid("0:1"), "t": weight_grid([0.1, 0.2])}
    found = [tuple(one.values()) for one in every(spans)]
    assert {s for s, _ in found} == {0, Fraction(1, 2), 1}
    assert {t for _, t in found} == {Fraction("0.1"), Fraction("0.2")}


def peak(at):
    return lambda weights: -float((weights["t"] - Fraction(at)) ** 2)


def test_a_grid_search_tries_every_weight_once_in_order():
    tried = search({"t": weight_grid("0:1:0.1")}, peak("0.7"))
    assert [one.weights["t"] for one in tried] == [*TENTHS]
    assert best(tried).weights == {"t": Fraction("0.7")}


def test_of_equal_scores_the_middle_of_the_plateau_wins():
    scores = [0.1, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.2]
    tried = [Tried({"t": Fraction(n, 7)}, score) for n, score in enumerate(scores)]
    assert best(tried).weights["t"] == Fraction(4, 7)


def test_a_score_that_is_no_number_never_wins():
    tried = [Tried({"t": Fraction(n)}, s) for n, s in enumerate([math.nan, -1.0, math.nan])]
    assert best(tried).weights["t"] == 1
    assert best(tried[:1]).weights["t"] == 0


def test_without_trials_there_is_no_best():
    with pytest.raises(RequestError):
        best([])


def test_optuna_missing_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("pemath.lab.search.find_spec", lambda name: None)
    require("grid")
    with pytest.raises(MissingExtra, match="grid"):
        require("optuna")
    with pytest.raises(MissingExtra):
        search({"t": weight_grid("0:1")}, pytest.fail, kind="optuna")


class TestOptuna:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("optuna")

    def test_it_begins_in_the_middle_and_finds_the_peak(self):
        tried = search({"t": weight_grid("0:1")}, peak("0.3"), kind="optuna", trials=40, seed=1)
        assert tried[0].weights["t"] == Fraction(1, 2)
        assert abs(best(tried).weights["t"] - Fraction("0.3")) < Fraction("0.05")
        assert all(one.weights["t"].denominator <= 10_000 for one in tried)

    def test_the_seed_decides(self):
        spans = {"s": weight_grid("0:1"), "t": weight_grid("0:1:0.1")}
        runs = [search(spans, peak("0.3"), kind="optuna", trials=12, seed=s) for s in (7, 7, 8)]
        assert runs[0] == runs[1] != runs[2]

    def test_weights_that_come_again_are_not_evaluated_again(self):
        calls = []

        def evaluate(weights):
            calls.append(weights["t"])
            return 0.0

        tried = search({"t": weight_grid([0, 0.5, 1])}, evaluate, kind="optuna", trials=20)
        assert len(calls) == len(set(calls)) == len(tried) <= 3

    def test_scores_that_are_no_numbers_do_not_stop_it(self):
        def evaluate(weights):
            return math.nan if weights["t"] < Fraction("0.6") else 1.0

        tried = search({"t": weight_grid("0:1")}, evaluate, kind="optuna", trials=15, seed=3)
        assert best(tried).score == 1.0
