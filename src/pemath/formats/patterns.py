"""Module patterns of a PEFT config, matched without trusting them.

PEFT treats many config strings as regular expressions. A stranger's expression can take for ever:
before one is run on a name, an upper bound of the ways to match it is computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pemath.errors import ConfigError, UnsupportedFeature
from pemath.limits import LIMITS
from pemath.names import display

_LITERAL = re.compile(r"[\w-]+(\.[\w-]+)*")
_PIECE = re.compile(r"\\.|\(\?:|[*+?]|\{[^}]*\}|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_MOST_WAYS = 10_000_000


class Pattern:
    """One regular expression, run only on names that it cannot take long on.

    Raises: ConfigError if it is malformed, UnsupportedFeature if it is too complex.
    """

    def __init__(self, text: str, form: str, where: str) -> None:
        self._text, self._where = text, where
        self._loops, self._branches = 0, 1
        self._count()
        try:
            self._compiled = re.compile(form.format(text))
            re.compile(text)
        except (re.error, OverflowError, RecursionError):
            raise ConfigError(
                f"`{display(text)}` is not a valid module pattern", where=where
            ) from None

    def _count(self) -> None:
        if len(self._text) > 1024:
            raise self._refusal()
        before = ""
        for piece in _PIECE.findall(self._text):
            if piece in ("*", "+", "?") or (piece[0] == "{" and len(piece) > 1):
                if before == ")" or (before == "(" and piece == "?"):
                    raise self._refusal()
                if piece == "?":
                    self._branches *= 2
                else:
                    self._loops += 1
            elif piece == "|":
                self._branches *= 2
            elif re.fullmatch(r"\\[1-9]", piece):
                raise self._refusal()
            before = piece

    def match(self, name: str) -> bool:
        """Whether the whole pattern matches at the start of `name`."""
        if (len(name) + 1) ** (self._loops + 1) * self._branches > _MOST_WAYS:
            raise self._refusal()
        return self._compiled.match(name) is not None

    def _refusal(self) -> UnsupportedFeature:
        return UnsupportedFeature(
            f"the module pattern `{display(self._text)}` is too complex to be matched safely",
            where=self._where,
            expected="few of * + ? | { }, none of them behind a parenthesis",
            hint="write the module's name instead",
        )


class Patterns:
    r"""A `rank_pattern` or `alpha_pattern`: the first key that matches the end of a module's name
    gives the value (PEFT's rule: `(.*\.)?(key)$`, a leading ^ anchors at the start).
    """

    def __init__(self, table: Any, where: str) -> None:
        table = {} if table is None else table
        if not isinstance(table, Mapping):
            raise ConfigError("a pattern table is not a JSON object", where=where)
        if len(table) > LIMITS.patterns:
            raise ConfigError(
                "a pattern table has too many entries",
                where=where,
                found=len(table),
                expected=f"at most {LIMITS.patterns}",
            )
        self._entries = [(_end(key, where), value) for key, value in table.items()]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def get(self, module: str, default: Any) -> Any:
        """The value for `module`, or `default`."""
        for end, value in self._entries:
            if isinstance(end, Pattern):
                if end.match(module):
                    return value
            elif end.fullmatch(module):
                return value
        return default


class _Literal:
    """A key without operators; its dots match any character, as in PEFT."""

    def __init__(self, key: str) -> None:
        self._parts, self._length = key.split("."), len(key)

    def fullmatch(self, module: str) -> bool:
        start = len(module) - self._length
        if start < 0 or (start and module[start - 1] != "."):
            return False
        for part in self._parts:
            if not module.startswith(part, start):
                return False
            start += len(part) + 1
        return True


def _end(key: str, where: str) -> Pattern | _Literal:
    return _Literal(key) if _LITERAL.fullmatch(key) else Pattern(key, r"(.*\.)?({})$", where)


def names_match(module: str, names: Any, where: str) -> bool:
    """Whether `module` is one of `names`: a list of name endings, or one regular expression."""
    if isinstance(names, str):
        return Pattern(names, r"(?:{})\Z", where).match(module)
    return any(isinstance(name, str) and module.endswith(name) for name in names or ())
