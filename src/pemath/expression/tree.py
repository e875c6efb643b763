"""The tree of an expression: operands, terms scaled by a number or by layer, sums, method calls.

Coefficients are rational numbers, so that `0.1*a + 0.2*a - 0.3*a` is exactly nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from numbers import Real

from pemath.errors import UsageError
from pemath.expression.layers import OTHERS, LayerKey, layer_key
from pemath.limits import LIMITS
from pemath.names import display

Number = int | float | Fraction
Option = bool | Fraction | str | tuple["Option", ...]


class Expression:
    """Something that evaluates to a PEM. `+ - * /` build larger expressions; nothing is computed.

    `*` takes a number, or weights by layer: `a * {"layers.0-15": 0.3, "*": 0.8}`.
    Raises: TypeError for anything that is neither expression nor number, UsageError for a number
    that is not finite.
    """

    # numpy's scalars leave the arithmetic to this class instead of making arrays of it.
    __array_ufunc__ = None

    def __add__(self, other: Expression) -> Expression:
        if not isinstance(other, Expression):
            return NotImplemented
        left = self.terms if isinstance(self, Sum) else (self,)
        return Sum((*left, other))

    def __radd__(self, other: int) -> Expression:
        # sum() starts from the number zero.
        return self if other == 0 else NotImplemented

    def __sub__(self, other: Expression) -> Expression:
        if not isinstance(other, Expression):
            return NotImplemented
        return self + (-other)

    def __neg__(self) -> Expression:
        return Scaled(Fraction(-1), self)

    def __pos__(self) -> Expression:
        return self

    def __mul__(self, factor: Number | Mapping[str, Number] | LayerWeights) -> Expression:
        if isinstance(factor, LayerWeights):
            return Layered(factor, self)
        if isinstance(factor, Mapping):
            return Layered(LayerWeights.of(factor), self)
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return Scaled(exact_number(factor), self)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> Expression:
        if isinstance(divisor, bool) or not isinstance(divisor, Real):
            return NotImplemented
        number = exact_number(divisor)
        if number == 0:
            raise UsageError("an adapter cannot be divided by zero")
        return Scaled(1 / number, self)

    def __str__(self) -> str:
        return to_text(self)


@dataclass(frozen=True)
class Operand(Expression):
    """An adapter, by reference. Two operands are equal when their references are.

    `name` is what the expression calls it, for display only.
    """

    reference: str
    name: str | None = field(default=None, compare=False)

    __str__ = Expression.__str__


@dataclass(frozen=True)
class LayerWeights:
    """Numbers by key: which one a site is multiplied by. The first key that matches decides, and
    `*` stands for all sites that no other key matches.

    Raises: UsageError for a key that is none or comes twice, and for too many keys.
    """

    weights: tuple[tuple[str, Fraction], ...]
    _keys: tuple[tuple[str, LayerKey, Fraction], ...] = field(init=False, compare=False, repr=False)
    _others: Fraction | None = field(init=False, compare=False, repr=False)
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        known = dict(self.weights)
        if not self.weights or len(self.weights) > LIMITS.layer_keys:
            raise UsageError(
                "weights by layer need keys",
                found=len(self.weights),
                expected=f"1 to {LIMITS.layer_keys} keys",
            )
        if len(known) < len(self.weights):
            raise UsageError("a key of weights by layer is given twice")
        parsed = [(text, layer_key(text), c) for text, c in self.weights if text != OTHERS]
        object.__setattr__(self, "_keys", tuple(parsed))
        object.__setattr__(self, "_others", known.get(OTHERS))
        object.__setattr__(self, "_hash", hash(self.weights))

    @classmethod
    def of(cls, weights: Mapping[str, Number]) -> LayerWeights:
        """The weights of a dictionary. Raises UsageError."""
        for key, number in weights.items():
            if not isinstance(key, str):
                raise UsageError(f"`{display(key, 60)}` is not a key", expected="text")
            if isinstance(number, bool) or not isinstance(number, Real):
                raise UsageError(
                    f"the weight of `{display(key, 60)}` is not a number", found=display(number, 60)
                )
        return cls(tuple((key, exact_number(number)) for key, number in weights.items()))

    def decides(self, site: str) -> tuple[str, Fraction] | None:
        """The key that decides about a site, and its number; None where no key matches."""
        for text, key, number in self._keys:
            if key.matches(site):
                return text, number
        return None if self._others is None else (OTHERS, self._others)

    def only(self, key: str) -> LayerWeights:
        """The weight of one key alone."""
        return LayerWeights(((key, dict(self.weights)[key]),))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        # Another process hashes text differently.
        return LayerWeights, (self.weights,)

    def __mul__(self, factor: Number) -> LayerWeights:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        scale = exact_number(factor)
        return LayerWeights(tuple((key, exact_number(c * scale)) for key, c in self.weights))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> LayerWeights:
        return self * (1 / exact_number(divisor))

    def __neg__(self) -> LayerWeights:
        return self * -1

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        # Every site asks for it, as a part of an operand's name.
        items = (f"{_quoted(key)}: {number_text(number)}" for key, number in self.weights)
        return "{" + ", ".join(items) + "}"


@dataclass(frozen=True)
class Scaled(Expression):
    """A number times an expression."""

    coefficient: Fraction
    term: Expression
    depth: int = field(init=False, compare=False, repr=False)
    varies: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(self.term))
        object.__setattr__(self, "varies", varies(self.term))

    __str__ = Expression.__str__


@dataclass(frozen=True)
class Layered(Expression):
    """Weights by layer times an expression."""

    weights: LayerWeights
    term: Expression
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(self.term))

    __str__ = Expression.__str__


@dataclass(frozen=True)
class Sum(Expression):
    """The sum of two or more terms."""

    terms: tuple[Expression, ...]
    depth: int = field(init=False, compare=False, repr=False)
    varies: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(*self.terms))
        object.__setattr__(self, "varies", any(varies(term) for term in self.terms))

    __str__ = Expression.__str__


@dataclass(frozen=True)
class Call(Expression):
    """A merge method applied to expressions. Options are sorted by name."""

    method: str
    arguments: tuple[Expression, ...]
    options: tuple[tuple[str, Option], ...] = ()
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(*self.arguments))

    __str__ = Expression.__str__


def _deeper(*parts: Expression) -> int:
    """One more than the depth of the deepest part. Raises UsageError."""
    depth = 1 + max((getattr(part, "depth", 0) for part in parts), default=0)
    if depth > LIMITS.expression_depth:
        raise UsageError(
            "the expression is nested too deeply", expected=f"at most {LIMITS.expression_depth}"
        )
    return depth


def varies(expression: Expression) -> bool:
    """Whether the coefficients of `expression` depend on the site; those within calls do not count:
    a call is one operand of the sum around it.
    """
    return isinstance(expression, Layered) or bool(getattr(expression, "varies", False))


def adapter(reference: str) -> Operand:
    """The adapter at `reference` as an expression; nothing is read before it is needed.

    `reference` is a folder, folder:subfolder, example:NAME or user/repo@revision:subfolder.
    """
    return Operand(str(reference))


def call(method: str, *arguments: Expression, **options: object) -> Call:
    """The node that applies the registered method `method`; options are numbers, booleans,
    strings or lists of them.

    Raises: UsageError for an option of another type.
    """
    frozen = tuple((name, _freeze(name, value)) for name, value in sorted(options.items()))
    return Call(method, arguments, frozen)


def exact_number(value: Number) -> Fraction:
    """The number as its shortest decimal says it: 0.1 is one tenth.

    Raises: UsageError if it is not finite, out of range, or a quotient of too many digits.
    """
    if isinstance(value, int | Fraction):
        number = Fraction(value)
    elif math.isfinite(float(value)):
        number = Fraction(repr(float(value)))
    else:
        raise UsageError("a coefficient must be finite", found=float(value))
    limit = Fraction(LIMITS.number_magnitude)
    if number and not 1 / limit <= abs(number) <= limit:
        raise UsageError(
            "a coefficient is out of range",
            expected=f"{1 / LIMITS.number_magnitude:g} to {LIMITS.number_magnitude:g}",
        )
    if number.denominator.bit_length() > LIMITS.number_bits:
        raise UsageError("a coefficient has too many digits", expected="a shorter number")
    return number


def _freeze(name: str, value: object) -> Option:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | Fraction):
        return exact_number(value)
    if isinstance(value, Iterable):
        return tuple(_freeze(name, item) for item in value)
    raise UsageError(
        f"option `{name}` has a value of type {type(value).__name__}",
        expected="a number, true or false, text, or a list of these",
    )


def thaw(value: Option) -> bool | float | str | list[object]:
    """An option as a plain Python value, with floats for rationals."""
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    return float(value) if isinstance(value, Fraction) else value


def operands(expression: Expression) -> list[Operand]:
    """All operands of `expression`, each reference once, in order of first appearance."""
    return list(dict.fromkeys(occurrences(expression)))


def occurrences(expression: Expression) -> Iterator[Operand]:
    """Every operand node of `expression`: one reference may stand under several names."""
    return (node for node in nodes(expression) if isinstance(node, Operand))


def nodes(expression: Expression) -> Iterator[Expression]:
    """Every node of `expression`, from the left, each before those below it."""
    stack = [expression]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Scaled | Layered):
            stack.append(node.term)
        elif isinstance(node, Sum):
            stack.extend(reversed(node.terms))
        elif isinstance(node, Call):
            stack.extend(reversed(node.arguments))


def to_text(expression: Expression) -> str:
    """The expression as text that parses back to the same tree."""
    match expression:
        case Operand():
            return expression.name or _quoted(expression.reference)
        case Scaled():
            return _scaled(expression)
        case Layered():
            return f"{expression.weights}*{_atom(expression.term)}"
        case Sum():
            return _sum(expression)
        case Call():
            parts = [to_text(argument) for argument in expression.arguments]
            parts += [f"{name}={_option(value)}" for name, value in expression.options]
            return f"{expression.method}({', '.join(parts)})"
    raise TypeError(type(expression).__name__)


def number_text(number: Fraction) -> str:
    """A rational as a decimal where that is exact and short, else as a quotient."""
    if number.denominator == 1:
        return str(number.numerator)
    decimal = repr(float(number))
    if Fraction(decimal) == number:
        return decimal
    return f"{number.numerator}/{number.denominator}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _atom(expression: Expression) -> str:
    text = to_text(expression)
    return text if isinstance(expression, Operand | Call) else f"({text})"


def _scaled(expression: Scaled) -> str:
    if expression.coefficient == -1:
        return f"-{_atom(expression.term)}"
    text = number_text(expression.coefficient)
    return f"{text}*{_atom(expression.term)}"


def _sum(expression: Sum) -> str:
    text = ""
    for position, term in enumerate(expression.terms):
        shown = f"({to_text(term)})" if isinstance(term, Sum) else to_text(term)
        if position == 0:
            text = shown
        elif isinstance(term, Scaled) and term.coefficient == -1:
            inner = to_text(term.term)
            text += f" - ({inner})" if isinstance(term.term, Sum) else f" - {inner}"
        else:
            text += f" + {shown}"
    return text


def _option(value: Option) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_option(item) for item in value)}]"
    return number_text(value)
