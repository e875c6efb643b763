"""What the expressions of a recipe call."""

from __future__ import annotations

from collections.abc import Iterator

from pemath.expression.linear import call_weights
from pemath.expression.parser import parse
from pemath.expression.tree import Call, Expression, Scaled, Sum, thaw
from pemath.lab.search import Span, every, fill
from pemath.methods import named_method

OPERANDS = {"a": "a", "b": "b"}
"""The modules that a composition combines: of the two halves of a task, or of the two tasks."""


def check_composition(text: str) -> None:
    """Refuse what does not parse, unknown methods and options. Raises UsageError."""
    _check(parse(text, OPERANDS))


def check_sweep(text: str, spans: dict[str, Span]) -> None:
    """The same with every combination of weights filled in. Raises UsageError."""
    for weights in every(spans):
        _check(fill(text, OPERANDS, weights))


def is_data_driven(text: str, spans: dict[str, Span] | None = None) -> bool:
    """Whether the expression calls a method that needs statistics of its operands."""
    tree = fill(text, OPERANDS, next(every(spans or {})))
    return any(named_method(call.method).needs for call in _calls(tree))


def _check(expression: Expression) -> None:
    for call in _calls(expression):
        options = {name: thaw(value) for name, value in call.options if name != "weights"}
        named_method(call.method).bind(options)
        call_weights(call)


def _calls(expression: Expression) -> Iterator[Call]:
    stack = [expression]
    while stack:
        node = stack.pop()
        match node:
            case Call():
                yield node
                stack.extend(reversed(node.arguments))
            case Scaled():
                stack.append(node.term)
            case Sum():
                stack.extend(reversed(node.terms))
