"""The expression language, by a Pratt parser. Nothing is ever evaluated as code.

expression = term { ("+" | "-") term }         term = unary { ("*" | "/") unary }
unary      = "-" unary | atom                  atom = number | name | "reference" | call | (…) | layers
call       = name "(" arguments ")"            option = name "=" value
layers     = "{" "key": number, … "}"
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv

from pemath.errors import ExpressionError, UsageError
from pemath.expression.layers import OTHERS, layer_key
from pemath.expression.tree import (
    Call,
    Expression,
    LayerWeights,
    Operand,
    Option,
    exact_number,
)
from pemath.limits import LIMITS
from pemath.names import display, listing

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'[^']*')"
    r"|(?P<sign>[-+*/()\[\]{},:=]))"
)
_BINDING = {"+": 10, "-": 10, "*": 20, "/": 20}
_UNARY = 30
_ARITHMETIC = {"+": add, "-": sub, "*": mul, "/": truediv}
_LONGEST_NUMBER = 100
Value = Expression | Fraction | LayerWeights


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def parse(text: str, operands: Mapping[str, str] | None = None, /, **bound: str) -> Expression:
    """The tree of `text`. `operands` and keywords bind names to references; a quoted reference
    needs no name.

    Raises: ExpressionError with the place, UsageError for an expression that is too long.
    """
    if len(text) > LIMITS.expression_length:
        raise UsageError(
            "the expression is too long",
            found=f"{len(text)} characters",
            expected=f"at most {LIMITS.expression_length}",
        )
    return _Parser(text, {**(operands or {}), **bound}).whole()


def parse_call(text: str) -> Call:
    """A method's name with options but no operands, such as `paper(normalize=true)`.

    Raises: ExpressionError.
    """
    parser = _Parser(text, {})
    token = parser.take()
    if token.kind != "name":
        raise parser.error("a method's name must come first", token)
    call = parser.call(token) if parser.sees("(") else Call(token.text, ())
    parser.end()
    if call.arguments:
        raise parser.error("an arithmetic takes options only, no operands", token)
    return call


class _Parser:
    def __init__(self, text: str, operands: dict[str, str]) -> None:
        self.text = text
        self.operands = operands
        self.tokens = list(self._scan())
        self.next = 0
        self.depth = 0

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        position, end = 0, len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                start = position + len(self.text[position:]) - len(self.text[position:].lstrip())
                raise self._unreadable(start)
            if len(tokens) >= LIMITS.expression_tokens:
                raise self._at("the expression has too many parts", match.start())
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            position = match.end()
        tokens.append(_Token("end", "", end))
        return tokens

    def _at(self, what: str, position: int) -> ExpressionError:
        return ExpressionError(what, text=self.text, position=position)

    def _unreadable(self, start: int) -> ExpressionError:
        character = self.text[start]
        if character in "\"'":
            what, hint = "a quotation is not closed", "end it with the same quotation mark"
        elif character.isdigit() or re.match(r"\.\d", self.text[start : start + 2]):
            what, hint = (
                "this is not a number",
                "write numbers as 2, 0.5 or 1e-3, and products as 2*a",
            )
        else:
            what = f"`{display(character)}` has no meaning in an expression"
            hint = (
                "paths and repository names are quoted, or bound on the command line as NAME=PATH"
            )
        return ExpressionError(what, text=self.text, position=start, hint=hint)

    def error(self, what: str, token: _Token, hint: str | None = None) -> ExpressionError:
        return ExpressionError(what, text=self.text, position=token.position, hint=hint)

    @property
    def here(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.here
        self.next += 1
        return token

    def sees(self, sign: str) -> bool:
        return self.here.kind == "sign" and self.here.text == sign

    def expect(self, sign: str, why: str) -> None:
        if not self.sees(sign):
            raise self.error(f"`{sign}` is missing {why}", self.here)
        self.next += 1

    def end(self) -> None:
        if self.here.kind != "end":
            what = f"`{display(self.here.text)}` was not expected here"
            raise self.error(what, self.here, "an operator (+ - * /) is missing, or a parenthesis")

    def whole(self) -> Expression:
        start = self.here
        value = self.expression(0)
        self.end()
        return self.adapter(value, start)

    def adapter(self, value: Value, token: _Token) -> Expression:
        if isinstance(value, Fraction):
            raise self.error("this is a number, and an adapter is needed", token)
        if isinstance(value, LayerWeights):
            raise self.error("these are weights by layer, and an adapter is needed", token)
        return value

    def expression(self, binding: int) -> Value:
        self.depth += 1
        if self.depth > LIMITS.expression_depth:
            raise self.error("the expression is nested too deeply", self.here)
        left = self.unary()
        while self.here.kind == "sign" and _BINDING.get(self.here.text, -1) > binding:
            operator = self.take()
            right = self.expression(_BINDING[operator.text])
            left = self.combine(operator, left, right)
        self.depth -= 1
        return left

    def unary(self) -> Value:
        if self.sees("-"):
            self.next += 1
            return -self.expression(_UNARY)
        if self.sees("+"):
            self.next += 1
            return self.expression(_UNARY)
        return self.atom()

    def atom(self) -> Value:
        token = self.take()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "text":
            return Operand(self.unquote(token))
        if token.kind == "name":
            return self.call(token) if self.sees("(") else self.operand(token)
        if token.text == "(":
            value = self.expression(0)
            self.expect(")", "for the parenthesis opened before")
            return value
        if token.text == "{":
            return self.layers(token)
        self.next -= 1
        what = "the expression ends too early" if token.kind == "end" else "an operand is missing"
        raise self.error(what, token, "write a name, a quoted reference, a number or `(`")

    def number(self, token: _Token) -> Fraction:
        try:
            if len(token.text) > _LONGEST_NUMBER:
                raise UsageError("a number is too long", expected=f"{_LONGEST_NUMBER} characters")
            size = float(token.text)
            number = Fraction(token.text) if math.isfinite(size) and size else Fraction(0)
            if size == 0 and re.search("[1-9]", re.split("[eE]", token.text)[0]):
                raise UsageError("a coefficient is out of range")
            exact_number(size)
            return exact_number(number)
        except UsageError as error:
            raise self.error(error.what, token, error.expected) from None

    def layers(self, opened: _Token) -> LayerWeights:
        weights: dict[str, Fraction] = {}
        while not self.sees("}"):
            token = self.take()
            if token.kind != "text":
                hint = 'write {"layers.0-15": 0.3, "*": 0.8}'
                raise self.error("a quoted key is missing", token, hint)
            key = self.unquote(token)
            try:
                if key != OTHERS:
                    layer_key(key)
            except UsageError as error:
                raise self.error(error.what, token, error.expected) from None
            if key in weights:
                raise self.error(f"the key `{display(key, 60)}` is given twice", token)
            self.expect(":", "behind the key")
            start = self.here
            value = self.expression(0)
            if not isinstance(value, Fraction):
                raise self.error("a weight by layer must be a number", start)
            weights[key] = value
            if not self.sees("}"):
                self.expect(",", "or `}` in the weights by layer")
        self.next += 1
        try:
            return LayerWeights(tuple(weights.items()))
        except UsageError as error:
            raise self.error(error.what, opened, error.expected) from None

    def operand(self, token: _Token) -> Operand:
        if token.text not in self.operands:
            bound = listing(list(self.operands)) or "none"
            raise self.error(
                f"`{display(token.text, 40)}` is not bound to an adapter",
                token,
                f"bind it as {display(token.text, 40)}=PATH, or quote a reference "
                f"(bound now: {bound})",
            )
        return Operand(self.operands[token.text], token.text)

    def combine(self, operator: _Token, left: Value, right: Value) -> Value:
        kinds = _kind(left), _kind(right)
        try:
            match operator.text, *kinds:
                case (_, "number", "number"):
                    return exact_number(_ARITHMETIC[operator.text](left, right))
                case ("+", "adapter", "adapter"):
                    return left + right  # type: ignore[operator]
                case ("-", "adapter", "adapter"):
                    return left - right  # type: ignore[operator]
                case ("*", _, _) if "number" in kinds or kinds.count("layers") == 1:
                    return left * right  # type: ignore[operator]
                case ("/", _, "number"):
                    return left / right  # type: ignore[operator]
        except ZeroDivisionError:
            raise self.error("division by zero", operator) from None
        except UsageError as error:
            raise self.error(error.what, operator) from None
        both = "two adapters" if kinds[0] == "adapter" else "weights by layer"
        what = {
            "*": f"{both} cannot be multiplied",
            "/": "only a number can stand behind `/`",
        }.get(operator.text, "an adapter and a number cannot be added")
        if operator.text in "+-" and "layers" in kinds:
            what = "weights by layer cannot be added"
        raise self.error(what, operator, "multiply adapters by numbers, and add adapters")

    def call(self, name: _Token) -> Call:
        self.expect("(", "behind the method's name")
        arguments: list[Expression] = []
        options: dict[str, Option] = {}
        while not self.sees(")"):
            if self.here.kind == "name" and self.tokens[self.next + 1].text == "=":
                option = self.take()
                self.next += 1
                if option.text in options:
                    raise self.error(f"option `{display(option.text, 40)}` is given twice", option)
                options[option.text] = self.option()
            else:
                start = self.here
                if options:
                    raise self.error("operands come before options", start)
                arguments.append(self.adapter(self.expression(0), start))
            if not self.sees(")"):
                self.expect(",", f"or `)` in the call of `{display(name.text, 40)}`")
        self.next += 1
        return Call(name.text, tuple(arguments), tuple(sorted(options.items())))

    def option(self) -> Option:
        token = self.here
        if token.text == "[":
            self.next += 1
            self.depth += 1
            if self.depth > LIMITS.expression_depth:
                raise self.error("the expression is nested too deeply", token)
            items: list[Option] = []
            while not self.sees("]"):
                items.append(self.option())
                if not self.sees("]"):
                    self.expect(",", "or `]` in the list")
            self.next += 1
            self.depth -= 1
            return tuple(items)
        if token.kind == "text":
            return self.unquote(self.take())
        if token.kind == "name":
            if token.text.lower() not in ("true", "false"):
                raise self.error(
                    f"`{display(token.text, 40)}` is not a value",
                    token,
                    "write numbers, true, false, or quoted text",
                )
            return self.take().text.lower() == "true"
        value = self.expression(0)
        if not isinstance(value, Fraction):
            raise self.error("an option takes numbers, true, false, text or a list", token)
        return value

    def unquote(self, token: _Token) -> str:
        if token.text[0] == "'":
            return token.text[1:-1]
        try:
            text = json.loads(token.text)
        except ValueError:
            raise self.error("the quoted text has a bad escape", token) from None
        return str(text)


def _kind(value: Value) -> str:
    if isinstance(value, Fraction):
        return "number"
    return "layers" if isinstance(value, LayerWeights) else "adapter"
