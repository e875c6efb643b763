"""The linear normal form of an expression: {atom: coefficient}.

An atom is an operand or a method call. Terms whose coefficients cancel are gone, so `a - a` reads
no tensor. With weights by layer there is one normal form for each site.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from pemath.errors import RequestError, UsageError
from pemath.expression.tree import (
    Call,
    Expression,
    Layered,
    Operand,
    Scaled,
    Sum,
    exact_number,
    varies,
)
from pemath.methods import named_method

Atom = Operand | Call


def normal_form(expression: Expression, site: str | None = None) -> dict[Atom, Fraction]:
    """Coefficients of the atoms of `expression`, in order of first appearance, without zeros.

    Where they vary by layer they are those at `site`; a term that no key matches there is left out.
    Raises: UsageError where they vary and no site is given.
    """
    coefficients: dict[Atom, Fraction] = {}
    stack: list[tuple[Fraction, Expression]] = [(Fraction(1), expression)]
    while stack:
        factor, node = stack.pop()
        match node:
            case Operand() | Call():
                coefficients[node] = coefficients.get(node, Fraction(0)) + factor
            case Scaled():
                stack.append((factor * node.coefficient, node.term))
            case Layered():
                if site is None:
                    raise UsageError("weights by layer have a normal form at a site only")
                decided = node.weights.decides(site)
                if decided is not None:
                    stack.append((factor * decided[1], node.term))
            case Sum():
                stack.extend((factor, term) for term in reversed(node.terms))
            case _:
                raise TypeError(type(node).__name__)
    return {atom: number for atom, number in coefficients.items() if number}


def weight(number: Fraction) -> float:
    """A coefficient as a number to compute with. Raises UsageError if it is out of range."""
    return float(exact_number(number))


def call_weights(call: Call) -> list[Fraction]:
    """The weights of a call's arguments: its `weights` option, or the method's usual ones.

    Raises: RequestError if they are not one number per argument.
    """
    given = dict(call.options).get("weights")
    if given is None:
        return named_method(call.method).default_weights(len(call.arguments))
    numbers = given if isinstance(given, tuple) else (given,)
    if len(numbers) != len(call.arguments) or not all(type(n) is Fraction for n in numbers):
        raise RequestError(
            f"`weights` of `{call.method}` must be one number per operand",
            found=f"{len(numbers)} for {len(call.arguments)} operands",
        )
    return [number for number in numbers if isinstance(number, Fraction)]


def linearised(expression: Expression) -> Expression:
    """The expression with every method call replaced by the weighted sum of its arguments.

    This is the exact sum that a result is measured against.
    """
    match expression:
        case Call():
            weights = call_weights(expression)
            terms = [
                Scaled(weight, linearised(argument))
                for weight, argument in zip(weights, expression.arguments, strict=True)
            ]
            return terms[0] if len(terms) == 1 else Sum(tuple(terms))
        case Scaled():
            return Scaled(expression.coefficient, linearised(expression.term))
        case Layered():
            return Layered(expression.weights, linearised(expression.term))
        case Sum():
            return Sum(tuple(linearised(term) for term in expression.terms))
    return expression


def applied(method: Call, expression: Expression) -> Expression:
    """The whole expression computed by one method: its normal form becomes operands and weights.

    With weights by layer each operand keeps its coefficients, and its weight is one.
    """
    if "weights" in dict(method.options):
        raise RequestError("an arithmetic takes its weights from the expression, not as an option")
    if varies(expression):
        parts = [p for p in _by_atom(expression) if varies(p) or normal_form(p)]
        ones = (Fraction(1),) * len(parts)
        options = dict(method.options) | {"weights": ones}
        return Call(method.method, tuple(parts), tuple(sorted(options.items())))
    terms = normal_form(expression)
    if not terms:
        return expression
    options = dict(method.options) | {"weights": tuple(terms.values())}
    return Call(method.method, tuple(terms), tuple(sorted(options.items())))


def _by_atom(expression: Expression) -> list[Expression]:
    """The expression as summands of one atom each, in order of first appearance."""
    parts: dict[Atom, list[Expression]] = {}
    stack: list[tuple[tuple[Scaled | Layered, ...], Expression]] = [((), expression)]
    while stack:
        factors, node = stack.pop()
        match node:
            case Operand() | Call():
                term: Expression = node
                for factor in reversed(factors):
                    term = replace(factor, term=term)
                parts.setdefault(node, []).append(term)
            case Scaled() | Layered():
                stack.append(((*factors, node), node.term))
            case Sum():
                stack.extend((factors, term) for term in reversed(node.terms))
    return [terms[0] if len(terms) == 1 else Sum(tuple(terms)) for terms in parts.values()]
