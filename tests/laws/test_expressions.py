"""Laws of the expression language: printing, normal form and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pemath.composition.evaluate import Evaluator
from pemath.expression.linear import applied, linearised, normal_form
from pemath.expression.parser import parse, parse_call
from pemath.expression.tree import (
    Call,
    Expression,
    Operand,
    Scaled,
    Sum,
    adapter,
    call,
    operands,
)
from pemath.kinds import kinds
from pemath.testing import Family, expressions, families

from .dense import assert_equal, sizes

BOUND = {"a": "here/a", "b": "here/b", "_c1": "there/c"}
NAMED = [Operand(reference, name) for name, reference in BOUND.items()]
QUOTED = [adapter(r"C:\new \"folder\""), adapter("it's/ünï code@1:sub"), adapter("")]
METHODS = ["paper", "exact", "unknown_yet"]

linear = expressions(NAMED, leaves=6)
any_tree = expressions([*NAMED, *QUOTED], methods=METHODS, leaves=5)
small_tree = expressions([*NAMED, *QUOTED], methods=METHODS, leaves=3)


def counted(tree: Expression) -> dict[Expression, Fraction]:
    """The coefficients by the definition of each node, without the code under test."""
    match tree:
        case Scaled():
            return {atom: c * tree.coefficient for atom, c in counted(tree.term).items()}
        case Sum():
            total: dict[Expression, Fraction] = {}
            for term in tree.terms:
                for atom, c in counted(term).items():
                    total[atom] = total.get(atom, Fraction(0)) + c
            return total
    return {tree: Fraction(1)}


@given(any_tree)
def test_text_parses_back_to_the_tree(tree: Expression) -> None:
    again = parse(str(tree), BOUND)
    assert again == tree
    assert str(again) == str(tree)
    assert [o.name for o in operands(again)] == [o.name for o in operands(tree)]


@given(any_tree)
def test_normal_form_counts_every_atom(tree: Expression) -> None:
    wanted = {atom: c for atom, c in counted(tree).items() if c}
    assert normal_form(tree) == wanted
    assert 0 not in normal_form(tree).values()


Rewriting = Callable[[Expression, Expression, Fraction], tuple[Expression, Expression]]
REWRITINGS: Mapping[str, Rewriting] = {
    "commuted": lambda x, y, c: (x + y, y + x),
    "associated": lambda x, y, c: ((x + y) + x, x + (y + x)),
    "distributed over the sum": lambda x, y, c: ((x + y) * c, c * x + c * y),
    "distributed over scalars": lambda x, y, c: (x * (c + 2), x * c + 2 * x),
    "nested factors": lambda x, y, c: ((c * x) * 3, x * (3 * c)),
    "quotient": lambda x, y, c: (x / 8 * c, c * x * Fraction(1, 8)),
    "difference": lambda x, y, c: (x - y, x + (-1) * y),
    "negated twice": lambda x, y, c: (-1 * -x + y, x + y),
    "negated sum": lambda x, y, c: (-(x - y), y - x),
    "added nothing": lambda x, y, c: (x + (y - y), x),
    "times one": lambda x, y, c: (1 * x, x),
    "times zero": lambda x, y, c: (x + 0 * y, x),
    "thirds": lambda x, y, c: (x / 3 + x / 3 + x / 3, x),
    "tenths": lambda x, y, c: (0.1 * x + 0.2 * x - 0.3 * x + y, y),
}


@given(
    st.sampled_from(sorted(REWRITINGS)),
    small_tree,
    small_tree,
    st.fractions(-5, 5, max_denominator=99),
)
def test_normal_form_is_invariant_under_rewriting(
    name: str, x: Expression, y: Expression, c: Fraction
) -> None:
    one, other = REWRITINGS[name](x, y, c)
    assert normal_form(one) == normal_form(other)


@given(linear)
def test_normal_form_is_a_fixed_point(tree: Expression) -> None:
    form = normal_form(tree)
    if form:
        again = Sum(tuple(Scaled(c, atom) for atom, c in form.items()))
        assert normal_form(again) == form
        assert list(normal_form(again)) == list(form)


# ------------------------------------------------------------------------------------ evaluating


def evaluator(family: Family, *, missing: int) -> Evaluator:
    """Adapters with one site `s`, and the site `t` that only some have."""
    adapters: dict[Operand, Any] = {}
    for index, (operand, value) in enumerate(zip(NAMED, family.values, strict=True)):
        sites = {"s": value} if missing & 1 << index else {"s": value, "t": value}
        adapters[operand] = SimpleNamespace(sites=sites)
    return Evaluator(adapters)


def evaluated(tree: Expression, values: Mapping[Operand, Any], zero: Any) -> Any:
    """Node by node, with the operators of the values."""
    match tree:
        case Operand():
            return values.get(tree, zero)
        case Scaled():
            return evaluated(tree.term, values, zero) * float(tree.coefficient)
        case Sum():
            total = zero
            for term in tree.terms:
                total = total + evaluated(term, values, zero)
            return total
    raise TypeError


def sizes_of(family: Family) -> dict[Operand, float]:
    return dict(zip(NAMED, sizes(family), strict=True))


def terms(tree: Expression, norms: Mapping[Operand, float]) -> float:
    """Sizes of all that is added up."""
    match tree:
        case Scaled():
            return abs(float(tree.coefficient)) * terms(tree.term, norms)
        case Sum():
            return sum(terms(term, norms) for term in tree.terms)
    return norms[tree] if isinstance(tree, Operand) else 0.0


any_kind = st.one_of([families(kind, 3) for kind in kinds()])


@given(any_kind, linear, st.integers(0, 7))
def test_a_tree_is_worth_its_normal_form(family: Family, tree: Expression, missing: int) -> None:
    """Evaluating node by node equals evaluating; a site that an operand lacks is zero."""
    found = evaluator(family, missing=missing)
    zero = family.values[0] * 0.0
    for site, lacking in (("s", 0), ("t", missing)):
        values = {
            operand: value
            for index, (operand, value) in enumerate(zip(NAMED, family.values, strict=True))
            if not lacking & 1 << index
        }
        wanted = evaluated(tree, values, zero)
        result = found.value(tree, site)
        if result is None:
            assert not normal_form(tree).keys() & values.keys()
            result = zero
        present = {o: norm if o in values else 0.0 for o, norm in sizes_of(family).items()}
        size = terms(tree, present)
        assert_equal(family.delta(result), family.delta(wanted), size)


@given(families("lora", 3), linear)
def test_a_linear_method_distributes(family: Family, tree: Expression) -> None:
    """exact(x, b) and the arithmetic `exact()` are worth the sum itself."""
    found = evaluator(family, missing=0)
    zero = family.values[0] * 0.0
    norms = sizes_of(family)
    wrapped = call("exact", tree, NAMED[1], weights=[2, -0.5])
    size = 2 * terms(tree, norms) + norms[NAMED[1]]
    plain = found.value(2 * tree - 0.5 * NAMED[1], "s") or zero
    assert_equal(family.delta(found.value(wrapped, "s") or zero), family.delta(plain), size)
    whole = found.value(applied(parse_call("exact"), tree), "s") or zero
    assert_equal(family.delta(whole), family.delta(found.value(tree, "s") or zero), size)


def _weighted(tree: Expression) -> Expression:
    """The tree with weights as the only option of its calls."""
    match tree:
        case Scaled():
            return Scaled(tree.coefficient, _weighted(tree.term))
        case Sum():
            return Sum(tuple(_weighted(term) for term in tree.terms))
        case Call():
            arguments = tuple(_weighted(argument) for argument in tree.arguments)
            weights = tuple(Fraction(number, 7) for number in range(-1, len(arguments) - 1))
            return Call(tree.method, arguments, (("weights", weights),))
    return tree


calls = expressions(NAMED, methods=["exact"], leaves=4).map(_weighted)


@given(families("lora", 3), calls)
def test_linearised_is_the_sum_that_exact_calls_compute(family: Family, tree: Expression) -> None:
    found = evaluator(family, missing=0)
    zero = family.values[0] * 0.0
    norms = sizes_of(family)
    flat = linearised(tree)
    assert all(isinstance(atom, Operand) for atom in normal_form(flat))
    one = family.delta(found.value(tree, "s") or zero)
    other = family.delta(found.value(flat, "s") or zero)
    assert_equal(one, other, terms(flat, norms))
