"""What the expressions of a recipe call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pemath.expression.linear import call_weights
from pemath.expression.parser import parse
from pemath.expression.tree import Call, Expression, nodes, occurrences, thaw
from pemath.lab.search import Span, every, fill
from pemath.methods import named_method

OPERANDS = {"a": "a", "b": "b"}
"""The modules that a composition combines: of the two halves of a task, or of the two tasks."""


def check_composition(text: str) -> None:
    """Refuse what does not parse, unknown methods and options. Raises UsageError."""
    _check(parse(text, OPERANDS))


def check_sweep(
    text: str, spans: dict[str, Span], operands: Mapping[str, str] | None = None
) -> None:
    """The same with every combination of weights filled in. Raises UsageError."""
    for weights in every(spans):
        _check(fill(text, operands or OPERANDS, weights))


def operands_in(text: str, spans: dict[str, Span], operands: Iterable[str]) -> list[str]:
    """Which of `operands` the expression uses, sorted. Raises UsageError."""
    tree = fill(text, {name: name for name in operands}, next(every(spans)))
    return sorted({str(operand.name) for operand in occurrences(tree)})


def is_data_driven(
    text: str, spans: dict[str, Span] | None = None, operands: Mapping[str, str] | None = None
) -> bool:
    """Whether the expression calls a method that needs statistics of its operands."""
    tree = fill(text, operands or OPERANDS, next(every(spans or {})))
    return any(named_method(call.method).needs for call in _calls(tree))


def _check(expression: Expression) -> None:
    for call in _calls(expression):
        options = {name: thaw(value) for name, value in call.options if name != "weights"}
        named_method(call.method).bind(options)
        call_weights(call)


def _calls(expression: Expression) -> Iterator[Call]:
    return (node for node in nodes(expression) if isinstance(node, Call))
