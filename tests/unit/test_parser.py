"""The expression parser: what trees it builds, and what it says where it cannot."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest

from pemath.errors import ExpressionError, UsageError
from pemath.expression import parser as parser_module
from pemath.expression.linear import normal_form
from pemath.expression.parser import parse, parse_call
from pemath.expression.tree import (
    Call,
    Expression,
    Layered,
    LayerWeights,
    Operand,
    Scaled,
    Sum,
)
from pemath.limits import LIMITS

A, B, C = (Operand(f"folder/{name}", name) for name in "abc")
BOUND = {name: f"folder/{name}" for name in "abc"}
HALF, TWO, MINUS = Fraction(1, 2), Fraction(2), Fraction(-1)


def weights(*pairs: tuple[str, float | Fraction], **named: float) -> LayerWeights:
    return LayerWeights(tuple((key, Fraction(c)) for key, c in (*pairs, *named.items())))


SPLIT = weights(("layers.0-3", HALF), ("*", 2))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a", A),
        ("(a)", A),
        ("((a))", A),
        ("+a", A),
        ("-a", Scaled(MINUS, A)),
        ("a + b", Sum((A, B))),
        ("a - b", Sum((A, Scaled(MINUS, B)))),
        ("a + b + c", Sum((A, B, C))),
        ("(a + b) + c", Sum((A, B, C))),
        ("a + (b + c)", Sum((A, Sum((B, C))))),
        ("a - b - c", Sum((A, Scaled(MINUS, B), Scaled(MINUS, C)))),
        ("a - (b - c)", Sum((A, Scaled(MINUS, Sum((B, Scaled(MINUS, C))))))),
        ("2*a", Scaled(TWO, A)),
        ("a*2", Scaled(TWO, A)),
        ("a/2", Scaled(HALF, A)),
        ("2*a + b", Sum((Scaled(TWO, A), B))),
        ("a + b*2", Sum((A, Scaled(TWO, B)))),
        ("2*(a + b)", Scaled(TWO, Sum((A, B)))),
        ("(a + b)/2", Scaled(HALF, Sum((A, B)))),
        ("-2*a", Scaled(-TWO, A)),
        ("1/2*a", Scaled(HALF, A)),
        ("1/2/2*a", Scaled(Fraction(1, 4), A)),
        ("(1 + 2*3 - 4/2)*a", Scaled(Fraction(5), A)),
        ("2*3*a", Scaled(Fraction(6), A)),
        ("0*a", Scaled(Fraction(0), A)),
        ("\n a\t+\n b ", Sum((A, B))),
        ("a+b", Sum((A, B))),
        ('"some/where:x@1"', Operand("some/where:x@1")),
        ("'some where'", Operand("some where")),
        (r'"a\"\\b\u00e9"', Operand('a"\\bé')),
        (r"'a\b'", Operand(r"a\b")),
        ("''", Operand("")),
        ("paper(a, b)", Call("paper", (A, B))),
        ("paper(a,)", Call("paper", (A,))),
        ("paper()", Call("paper", ())),
        ("paper(a + b, 2*c)", Call("paper", (Sum((A, B)), Scaled(TWO, C)))),
        ("exact(paper(a), b)", Call("exact", (Call("paper", (A,)), B))),
        ("a(b)", Call("a", (B,))),
        ("m(a, x=1)", Call("m", (A,), (("x", Fraction(1)),))),
        ("m(a, x=-1/2 + 1)", Call("m", (A,), (("x", HALF),))),
        ("m(a, x=true, y=False)", Call("m", (A,), (("x", True), ("y", False)))),
        ("m(a, y=1, x=2)", Call("m", (A,), (("x", TWO), ("y", Fraction(1))))),
        ("m(a, x='t', y=\"u\")", Call("m", (A,), (("x", "t"), ("y", "u")))),
        ("m(a, x=[])", Call("m", (A,), (("x", ()),))),
        ("m(a, x=[1, [true, 't']])", Call("m", (A,), (("x", (Fraction(1), (True, "t"))),))),
        ("m(x=1)", Call("m", (), (("x", Fraction(1)),))),
        ('a*{"layers.0-3": 0.5, "*": 2}', Layered(SPLIT, A)),
        ('{"layers.0-3": 1/2, "*": 2,} * a', Layered(SPLIT, A)),
        ("{'layers.0-3': 1 - 0.5, '*': 2}*(a + b)", Layered(SPLIT, Sum((A, B)))),
        ('2*{"layers.0-3": 0.25, "*": 1}*a', Layered(SPLIT, A)),
        ('-{"layers.0-3": -0.5, "*": -2}*a', Layered(SPLIT, A)),
        ('{"layers.0-3": 1, "*": 4}/2*a', Layered(SPLIT, A)),
        ('2*a*{"layers.0-3": 0.5, "*": 2}', Layered(SPLIT, Scaled(TWO, A))),
        ('b - {"layers.0-3": 0.5, "*": 2}*a', Sum((B, Scaled(MINUS, Layered(SPLIT, A))))),
        ('a*{"layers.0-3": 0.5, "*": 2}/2', Scaled(HALF, Layered(SPLIT, A))),
        ('a*{"*": 2}*{"x": 1}', Layered(weights(x=1), Layered(weights(("*", 2)), A))),
        ('m(a*{"*": 2}, b)', Call("m", (Layered(weights(("*", 2)), A), B))),
    ],
)
def test_trees(text: str, tree: Expression) -> None:
    assert parse(text, BOUND) == tree


@pytest.mark.parametrize(
    ("text", "coefficients"),
    [
        ("--a", {A: 1}),
        ("-(2*a)", {A: -2}),
        ("2*-a", {A: -2}),
        ("-a*2", {A: -2}),
        ("a*2*3", {A: 6}),
        ("a/2/2", {A: Fraction(1, 4)}),
        ("a*2/4", {A: HALF}),
        ("-(a - (b - 2*c))/2", {A: -HALF, B: HALF, C: -1}),
        ("a - paper(b)/2", {A: 1, Call("paper", (B,)): -HALF}),
        ("a - a", {}),
        ("0*a", {}),
    ],
)
def test_factors(text: str, coefficients: dict[Expression, Fraction]) -> None:
    assert normal_form(parse(text, BOUND)) == coefficients


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("0", 0),
        ("007", 7),
        ("0.1", Fraction(1, 10)),
        (".5", HALF),
        ("5.", 5),
        ("1e3", 1000),
        ("1E+3", 1000),
        ("1.5e-2", Fraction(3, 200)),
        ("0.333", Fraction(333, 1000)),
        ("123456789.123456789", Fraction(123456789123456789, 10**9)),
        ("1e30", 10**30),
        ("1e-30", Fraction(1, 10**30)),
        ("0e99", 0),
    ],
)
def test_numbers_are_the_decimals_that_are_written(text: str, number: Fraction) -> None:
    assert parse(f"{text}*a", BOUND) == Scaled(Fraction(number), A)


@pytest.mark.parametrize(
    "name", ["x", "_", "x1", "X_y", "weights", "true", "exact", "naïve", "Ω", "x" * 500]
)
def test_names(name: str) -> None:
    assert parse(f"2*{name}", {name: "folder"}) == Scaled(TWO, Operand("folder", name))


def test_names_are_kept_for_display() -> None:
    tree = parse("a + b", BOUND)
    assert isinstance(tree, Sum)
    assert [term.name for term in tree.terms if isinstance(term, Operand)] == ["a", "b"]
    assert parse("a + b", a="same", b="same") == Sum((Operand("same"), Operand("same")))


def test_bindings_by_keyword_and_by_table() -> None:
    assert parse("a + b", {"a": "1"}, b="2") == Sum((Operand("1"), Operand("2")))
    assert parse("a", {"a": "1"}, a="2") == Operand("2")
    assert parse("text", text="1") == Operand("1")


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 0, "ends too early"),
        ("a +", 3, "ends too early"),
        ("a + ", 3, "ends too early"),
        ("a *", 3, "ends too early"),
        ("(", 1, "ends too early"),
        ("+", 1, "ends too early"),
        ("* a", 0, "operand is missing"),
        ("a + * b", 4, "operand is missing"),
        ("()", 1, "operand is missing"),
        ("a + )", 4, "operand is missing"),
        ("[a]", 0, "operand is missing"),
        ("a b", 2, "not expected"),
        ("a 2", 2, "not expected"),
        ("2a", 0, "not a number"),
        ("a)", 1, "not expected"),
        ("a = b", 2, "not expected"),
        ("a, b", 1, "not expected"),
        ("(a", 2, r"`\)` is missing"),
        ("(a + b", 6, r"`\)` is missing"),
        ("(a b)", 3, r"`\)` is missing"),
        ("d", 0, "`d` is not bound"),
        ("a + bb", 4, "`bb` is not bound"),
        ("a + 1", 2, "adapter and a number"),
        ("1 - a", 2, "adapter and a number"),
        ("a * b", 2, "two adapters"),
        ("a * (b + c)", 2, "two adapters"),
        ("a / b", 2, "only a number"),
        ("1 / a", 2, "only a number"),
        ("a / 0", 2, "zero"),
        ("1 / 0 * a", 2, "zero"),
        ("a / (2 - 2)", 2, "zero"),
        ("2", 0, "a number, and an adapter"),
        ("1 + 1", 0, "a number, and an adapter"),
        (" (2)", 1, "a number, and an adapter"),
        ("1e31*a", 0, "out of range"),
        ("a*1e-31", 2, "out of range"),
        ("1e999*a", 0, "finite"),
        ("1.2.3*a", 0, "not a number"),
        ("1..2*a", 0, "not a number"),
        ("1e*a", 0, "not a number"),
        ("0x1*a", 0, "not a number"),
        ("1_0*a", 0, "not a number"),
        ("a $ b", 2, r"`\$` has no meaning"),
        ("a @ b", 2, "`@` has no meaning"),
        ("a ; b", 2, "`;` has no meaning"),
        ("a . b", 2, "not a number|no meaning"),
        ("a + 'x", 4, "not closed"),
        ('a + "x', 4, "not closed"),
        ('"\\q"', 0, "bad escape"),
        ('"\n"', 0, "bad escape"),
        ("m(a", 3, "missing"),
        ("m(a b)", 4, "missing"),
        ("m(,a)", 2, "operand is missing"),
        ("m(a,,b)", 4, "operand is missing"),
        ("m(2)", 2, "a number, and an adapter"),
        ("m(a, x=1, b)", 10, "come before options"),
        ("m(a, x=1, x=2)", 10, "given twice"),
        ("m(a, x=)", 7, "missing"),
        ("m(a, x=a)", 7, "not a value"),
        ("m(a, x=none)", 7, "not a value"),
        ("m(a, x=(a))", 7, "takes numbers"),
        ("m(a, x=[a])", 8, "not a value"),
        ("m(a, x=[1)", 9, r"`\]`"),
        ("m(a, x=[1", 9, r"`\]`"),
        ("m(a, =1)", 5, "operand is missing"),
        ("a + 'x' (b)", 8, "not expected"),
        ('{"x": 1}', 0, "weights by layer, and an adapter"),
        ('m({"x": 1})', 2, "weights by layer, and an adapter"),
        ('m(a, x={"x": 1})', 7, "takes numbers"),
        ('{"x": 1}*{"y": 2}*a', 8, "weights by layer cannot be multiplied"),
        ('{"x": 1} + {"y": 2}', 9, "weights by layer cannot be added"),
        ('a + {"x": 1}', 2, "weights by layer cannot be added"),
        ('{"x": 1} - 1', 9, "weights by layer cannot be added"),
        ('a/{"x": 1}', 1, "only a number"),
        ('{"x": 1}/0*a', 8, "zero"),
        ('1/{"x": 1}*a', 1, "only a number"),
        ('{"x": 1e30}*1e30*a', 11, "out of range"),
        ("{}*a", 0, "need keys"),
        ("a*{x: 1}", 3, "quoted key is missing"),
        ("a*{1: 1}", 3, "quoted key is missing"),
        ('a*{"x" 1}', 7, "`:` is missing"),
        ('a*{"x"= 1}', 6, "`:` is missing"),
        ('a*{"x": }', 8, "operand is missing"),
        ('a*{"x": b}', 8, "must be a number"),
        ('a*{"x": true}', 8, "not bound"),
        ('a*{"x": {"y": 1}}', 8, "must be a number"),
        ('a*{"x": 1', 9, "`}` in the weights"),
        ('a*{"x": 1 "y": 2}', 10, "`,` is missing"),
        ('a*{"x": 1, "x": 2}', 11, "given twice"),
        ('a*{"": 1}', 3, "not a key"),
        ('a*{"layers.3-1": 1}', 3, "not a key"),
        ('a*{"3": 1}', 3, "not a key"),
        ('a*{"a..b": 1}', 3, "not a key"),
        ('a*{".a": 1}', 3, "not a key"),
        ('a*{"layers.*": 1}', 3, "not a key"),
        ('a*{"q_proj ": 1}', 3, "not a key"),
        ("a : b", 2, "not expected"),
        ("a } b", 2, "not expected"),
    ],
)
def test_errors_show_their_place(text: str, position: int, what: str) -> None:
    with pytest.raises(ExpressionError, match=what) as refused:
        parse(text, BOUND)
    error = refused.value
    assert (error.position, error.exit_code, error.code) == (position, 2, "expression")
    first, shown, caret, *_ = str(error).split("\n")
    assert first.endswith(":")
    assert shown == f"    {text}".replace("\n", " ") or "\n" in text
    assert caret == " " * (4 + position) + "^"
    assert error.as_dict()["position"] == position
    assert error.as_dict()["expression"] == text


def test_an_unbound_name_tells_what_is_bound() -> None:
    with pytest.raises(ExpressionError) as refused:
        parse("toxic", BOUND)
    assert "toxic=PATH" in str(refused.value)
    assert "`a`, `b`, `c`" in str(refused.value)
    with pytest.raises(ExpressionError, match="none"):
        parse("toxic")


def test_a_path_without_quotes_is_explained() -> None:
    for text in ("./adapter", "user/repo", "~/adapter"):
        with pytest.raises(ExpressionError, match="quote"):
            parse(text)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="too long"):
        parse("a" * (LIMITS.expression_length + 1), BOUND)
    deep = LIMITS.expression_depth - 1
    assert parse("(" * deep + "a" + ")" * deep, BOUND) == A
    for text in ("(" * 300 + "a" + ")" * 300, "-" * 300 + "a", "m(" * 300 + "a" + ")" * 300):
        with pytest.raises(ExpressionError, match="deep"):
            parse(text, BOUND)
    braces = ('a*{"x": ' + "(" * 300 + "1" + ")" * 300 + "}", 'a*{"x": ' * 300)
    for text in braces:
        with pytest.raises(ExpressionError, match="deep"):
            parse(text, BOUND)
    keys = [f'"k{index}": 1' for index in range(LIMITS.layer_keys + 1)]
    assert isinstance(parse("a*{" + ",".join(keys[1:]) + "}", BOUND), Layered)
    with pytest.raises(ExpressionError, match="need keys"):
        parse("a*{" + ",".join(keys) + "}", BOUND)
    with pytest.raises(ExpressionError, match="too long"):
        parse('a*{"' + "k" * (LIMITS.layer_key_length + 1) + '": 1}', BOUND)
    monkeypatch.setattr(parser_module, "LIMITS", dataclasses.replace(LIMITS, expression_depth=3))
    with pytest.raises(ExpressionError, match="deep"):
        parse("((((a))))", BOUND)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("exact", Call("exact", ())),
        (" paper ", Call("paper", ())),
        ("paper()", Call("paper", ())),
        ("paper(normalize=true)", Call("paper", (), (("normalize", True),))),
        ("m(x=[1, 2], y='t')", Call("m", (), (("x", (Fraction(1), TWO)), ("y", "t")))),
    ],
)
def test_calls_without_operands(text: str, call: Call) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "'paper'",
        "paper(",
        "paper)",
        "paper(a)",
        "paper('x')",
        "paper exact",
        "paper + exact",
        "-paper",
    ],
)
def test_what_is_no_arithmetic(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_call(text)
