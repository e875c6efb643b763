"""Laws of the expression language: printing, normal form and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pemath.composition.evaluate import Evaluator
from pemath.expression.linear import applied, linearised, normal_form
from pemath.expression.parser import parse, parse_call
from pemath.expression.tree import (
    Call,
    Expression,
    Layered,
    Operand,
    Scaled,
    Sum,
    adapter,
    call,
    operands,
    varies,
)
from pemath.kinds import kinds
from pemath.testing import Family, expressions, families

from .dense import assert_equal, sizes

BOUND = {"a": "here/a", "b": "here/b", "_c1": "there/c"}
NAMED = [Operand(reference, name) for name, reference in BOUND.items()]
QUOTED = [adapter(r"C:\new \"folder\""), adapter("it's/ünï code@1:sub"), adapter("")]
METHODS = ["paper", "exact", "unknown_yet"]

# Two sites, and which keys mean which: written down, not computed.
S, T = "model.layers.0.self_attn.q_proj", "model.layers.12.mlp.up_proj"
MEANT = {
    "layers.0": {S},
    "layers.12.up_proj": {T},
    "layers.0-11": {S},
    "layers.2": set(),
    "layers.0-12": {S, T},
    "self_attn": {S},
    "model.mlp": {T},
    'a "quoted" kéy': set(),
    "*": {S, T},
}

linear = expressions(NAMED, leaves=6)
by_layer = expressions(NAMED, keys=list(MEANT), leaves=6)
any_tree = expressions([*NAMED, *QUOTED], methods=METHODS, keys=list(MEANT), leaves=5)
small_tree = expressions([*NAMED, *QUOTED], methods=METHODS, keys=list(MEANT), leaves=3)
some_site = st.sampled_from([S, T])
# Trees of this size are slow to draw.
fewer = settings(max_examples=settings().max_examples // 3)


def at(tree: Layered, site: str) -> Fraction:
    """The weight of the first key that means the site, of `*` if none does, or nothing."""
    meant = [c for key, c in tree.weights.weights if key != "*" and site in MEANT[key]]
    return (meant or [dict(tree.weights.weights).get("*", Fraction(0))])[0]


def counted(tree: Expression, site: str) -> dict[Expression, Fraction]:
    """The coefficients by the definition of each node, without the code under test."""
    match tree:
        case Scaled():
            return {atom: c * tree.coefficient for atom, c in counted(tree.term, site).items()}
        case Layered():
            return {atom: c * at(tree, site) for atom, c in counted(tree.term, site).items()}
        case Sum():
            total: dict[Expression, Fraction] = {}
            for term in tree.terms:
                for atom, c in counted(term, site).items():
                    total[atom] = total.get(atom, Fraction(0)) + c
            return total
    return {tree: Fraction(1)}


@given(any_tree)
@fewer
def test_text_parses_back_to_the_tree(tree: Expression) -> None:
    again = parse(str(tree), BOUND)
    assert again == tree
    assert str(again) == str(tree)
    assert [o.name for o in operands(again)] == [o.name for o in operands(tree)]


@given(any_tree, some_site)
@fewer
def test_normal_form_counts_every_atom(tree: Expression, site: str) -> None:
    wanted = {atom: c for atom, c in counted(tree, site).items() if c}
    assert normal_form(tree, site) == wanted
    assert 0 not in normal_form(tree, site).values()


def layered_outside_calls(tree: Expression) -> bool:
    match tree:
        case Layered():
            return True
        case Scaled():
            return layered_outside_calls(tree.term)
        case Sum():
            return any(map(layered_outside_calls, tree.terms))
    return False


@given(any_tree)
@fewer
def test_coefficients_vary_only_with_weights_by_layer(tree: Expression) -> None:
    assert varies(tree) is layered_outside_calls(tree)


def split(c: Fraction | int) -> dict[str, Fraction | int]:
    return {"layers.0-3": c, "*": 1}


def halves(c: Fraction) -> dict[str, Fraction | int]:
    return {"layers.12": 2, "self_attn": c}


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
    "by layer, all alike": lambda x, y, c: (x * {"*": c} + y, c * x + y),
    "by layer, from the left": lambda x, y, c: ({"layers.0": c, "*": 2} * x, x * halves(c)),
    "by layer, over the sum": lambda x, y, c: ((x + y) * split(c), x * split(c) + y * split(c)),
    "by layer, scaled": lambda x, y, c: (c * (x * split(1)), (c * x) * split(1)),
    "by layer, added up": lambda x, y, c: (
        x * split(c) + x * split(2) + y,
        y + x * {"layers.0-3": c + 2, "*": 2},
    ),
    "by layer, taken off": lambda x, y, c: (y - x * split(c) + split(c) * x, y),
    "by layer, cancelled": lambda x, y, c: (x * split(c) - c * x, x * {"layers.0": 0, "*": 1 - c}),
}


@given(
    st.sampled_from(sorted(REWRITINGS)),
    small_tree,
    small_tree,
    st.fractions(-5, 5, max_denominator=99),
    some_site,
)
@fewer
def test_normal_form_is_invariant_under_rewriting(
    name: str, x: Expression, y: Expression, c: Fraction, site: str
) -> None:
    one, other = REWRITINGS[name](x, y, c)
    assert normal_form(one, site) == normal_form(other, site)


@given(linear)
def test_normal_form_is_a_fixed_point(tree: Expression) -> None:
    form = normal_form(tree)
    if form:
        again = Sum(tuple(Scaled(c, atom) for atom, c in form.items()))
        assert normal_form(again) == form
        assert list(normal_form(again)) == list(form)


# ------------------------------------------------------------------------------------ evaluating


def evaluator(family: Family, *, missing: int) -> Evaluator:
    """Adapters with one site S, and the site T that only some have."""
    adapters: dict[Operand, Any] = {}
    for index, (operand, value) in enumerate(zip(NAMED, family.values, strict=True)):
        sites = {S: value} if missing & 1 << index else {S: value, T: value}
        adapters[operand] = SimpleNamespace(sites=sites)
    return Evaluator(adapters)


def evaluated(tree: Expression, values: Mapping[Operand, Any], zero: Any, site: str) -> Any:
    """Node by node, with the operators of the values."""
    match tree:
        case Operand():
            return values.get(tree, zero)
        case Scaled():
            return evaluated(tree.term, values, zero, site) * float(tree.coefficient)
        case Layered():
            return evaluated(tree.term, values, zero, site) * float(at(tree, site))
        case Sum():
            total = zero
            for term in tree.terms:
                total = total + evaluated(term, values, zero, site)
            return total
    raise TypeError


def in_range(tree: Expression) -> bool:
    """Whether no coefficient is refused: a product of several can be too large or too small."""
    found = [c for site in (S, T) for c in counted(linearised(tree), site).values() if c]
    return all(Fraction(1, 10**30) <= abs(c) <= 10**30 for c in found)


def sizes_of(family: Family) -> dict[Operand, float]:
    return dict(zip(NAMED, sizes(family), strict=True))


def terms(tree: Expression, norms: Mapping[Operand, float]) -> float:
    """Sizes of all that is added up."""
    match tree:
        case Scaled():
            return abs(float(tree.coefficient)) * terms(tree.term, norms)
        case Layered():
            largest = max(abs(float(c)) for _, c in tree.weights.weights)
            return largest * terms(tree.term, norms)
        case Sum():
            return sum(terms(term, norms) for term in tree.terms)
    return norms[tree] if isinstance(tree, Operand) else 0.0


any_kind = st.one_of([families(kind, 3) for kind in kinds()])


@given(any_kind, linear | by_layer, st.integers(0, 7))
def test_a_tree_is_worth_its_normal_form(family: Family, tree: Expression, missing: int) -> None:
    """Evaluating node by node equals evaluating; a site that an operand lacks is zero."""
    assume(in_range(tree))
    found = evaluator(family, missing=missing)
    zero = family.values[0] * 0.0
    for site, lacking in ((S, 0), (T, missing)):
        values = {
            operand: value
            for index, (operand, value) in enumerate(zip(NAMED, family.values, strict=True))
            if not lacking & 1 << index
        }
        wanted = evaluated(tree, values, zero, site)
        result = found.value(tree, site)
        if result is None:
            assert not normal_form(tree, site).keys() & values.keys()
            result = zero
        present = {o: norm if o in values else 0.0 for o, norm in sizes_of(family).items()}
        size = terms(tree, present)
        assert_equal(family.delta(result), family.delta(wanted), size)


@given(families("lora", 3), linear | by_layer, some_site)
def test_a_linear_method_distributes(family: Family, tree: Expression, site: str) -> None:
    """exact(x, b) and the arithmetic `exact()` are worth the sum itself."""
    wrapped = call("exact", tree, NAMED[1], weights=[2, -0.5])
    assume(in_range(tree) and in_range(wrapped))
    found = evaluator(family, missing=0)
    zero = family.values[0] * 0.0
    norms = sizes_of(family)
    size = 2 * terms(tree, norms) + norms[NAMED[1]]
    plain = found.value(2 * tree - 0.5 * NAMED[1], site) or zero
    assert_equal(family.delta(found.value(wrapped, site) or zero), family.delta(plain), size)
    whole = found.value(applied(parse_call("exact"), tree), site) or zero
    assert_equal(family.delta(whole), family.delta(found.value(tree, site) or zero), size)


def _weighted(tree: Expression) -> Expression:
    """The tree with weights as the only option of its calls."""
    match tree:
        case Scaled():
            return Scaled(tree.coefficient, _weighted(tree.term))
        case Layered():
            return Layered(tree.weights, _weighted(tree.term))
        case Sum():
            return Sum(tuple(_weighted(term) for term in tree.terms))
        case Call():
            arguments = tuple(_weighted(argument) for argument in tree.arguments)
            weights = tuple(Fraction(number, 7) for number in range(-1, len(arguments) - 1))
            return Call(tree.method, arguments, (("weights", weights),))
    return tree


calls = expressions(NAMED, methods=["exact"], keys=list(MEANT), leaves=4).map(_weighted)


@given(families("lora", 3), calls, some_site)
def test_linearised_is_the_sum_that_exact_calls_compute(
    family: Family, tree: Expression, site: str
) -> None:
    assume(in_range(tree))
    found = evaluator(family, missing=0)
    zero = family.values[0] * 0.0
    norms = sizes_of(family)
    flat = linearised(tree)
    assert all(isinstance(atom, Operand) for atom in normal_form(flat, site))
    one = family.delta(found.value(tree, site) or zero)
    other = family.delta(found.value(flat, site) or zero)
    assert_equal(one, other, terms(flat, norms))
