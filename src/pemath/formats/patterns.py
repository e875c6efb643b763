"""Module patterns of a PEFT config, matched without trusting them.

PEFT treats many config strings as regular expressions. A stranger's expression can take for ever:
before one is run on a name, an upper bound of the ways to match it is computed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, TypeVar

from pemath.errors import ConfigError, UnsupportedFeature
from pemath.limits import LIMITS
from pemath.names import display

_LITERAL = re.compile(r"[\w-]+(\.[\w-]+)*")
_PIECE = re.compile(r"\\.|\(\?:|[*+?]|\{[^}]*\}|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_MOST_WAYS = 10_000_000
# All matches with one table: seconds, by what a way takes. A look into a table takes as long as many.
_MOST_WORK = 30_000_000_000
_WAYS_OF_A_LOOK = 10_000

Number = TypeVar("Number", int, float)


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

    def ways(self, name: str) -> int:
        """An upper bound of the ways to match `name`. Raises UnsupportedFeature if it is too large."""
        ways: int = (len(name) + 1) ** (self._loops + 1) * self._branches
        if ways > _MOST_WAYS:
            raise self._refusal()
        return ways

    def match(self, name: str) -> bool:
        """Whether the whole pattern matches at the start of `name`."""
        return self.ways(name) > 0 and self._compiled.match(name) is not None

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

    Keys without operators are looked up by their length, the places of their dots (which match any
    character, as in PEFT) and what stands between these; the others are tried one by one.
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
        self._where, self._work = where, 0
        self._values = list(table.values())
        self._expressions: list[tuple[int, Pattern]] = []
        self._plain: dict[int, dict[tuple[int, ...], dict[tuple[str, ...], int]]] = {}
        for place, key in enumerate(table):
            if _LITERAL.fullmatch(key):
                cuts = _cuts(key)
                alike = self._plain.setdefault(len(key), {}).setdefault(cuts, {})
                alike.setdefault(_between(key, cuts), place)
            else:
                pattern = Pattern(key, r"(.*\.)?({})$", where)
                self._expressions.append((place, pattern))

    def __bool__(self) -> bool:
        return bool(self._values)

    def get(self, module: str, default: Any) -> Any:
        """The value for `module`, or `default`. Raises UnsupportedFeature where that, and what was
        asked before, takes too long.
        """
        first = min(self._looked_up(module), default=len(self._values))
        for place, pattern in self._expressions:
            if place > first:
                break
            self._spend(pattern.ways(module))
            if pattern.match(module):
                return self._values[place]
        return self._values[first] if first < len(self._values) else default

    def _looked_up(self, module: str) -> Iterator[int]:
        """The places of the keys without operators that match."""
        for end in _ends(module):
            for cuts, keys in self._plain.get(len(end), {}).items():
                self._spend(_WAYS_OF_A_LOOK)
                place = keys.get(_between(end, cuts))
                if place is not None:
                    yield place

    def _spend(self, ways: int) -> None:
        self._work += ways
        if self._work > _MOST_WORK:
            raise UnsupportedFeature(
                "the module patterns are too many and too complex to be matched with every site",
                where=self._where,
                hint="write the modules' names instead",
            )


def pattern_table(values: Mapping[str, Number], usual: Number) -> dict[str, Number]:
    """The `rank_pattern` or `alpha_pattern` of modules by name, without those that have `usual`.

    PEFT takes the first key that matches the end of a module's name, so a module whose name
    another's ends with is anchored at the start; and keys are expressions, whose dots match any
    character, so one that would match otherwise than the name that it is stands escaped.
    """
    inner = {end for module in values for end in _ends(module)[1:] if end in values}
    lengths = {len(module) for module, value in values.items() if value != usual}
    ends = _Names(end for module in values for end in _ends(module) if len(end) in lengths)
    table = {}
    for module, value in values.items():
        if value != usual:
            plain = _LITERAL.fullmatch(module) and ends.is_only(module)
            key = module if plain else re.escape(module)
            table[f"^{key}" if module in inner else key] = value
    return table


class _Names:
    """Names, and whether a key whose dots match any character is one of them and no other."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_length: dict[int, set[str]] = {}
        self._seen: dict[tuple[int, ...], Counter[tuple[str, ...]]] = {}
        for name in names:
            self._by_length.setdefault(len(name), set()).add(name)

    def is_only(self, key: str) -> bool:
        """Whether `key` matches one name of its length."""
        cuts = _cuts(key)
        if cuts not in self._seen:
            alike = self._by_length[len(key)]
            self._seen[cuts] = Counter(_between(name, cuts) for name in alike)
        return self._seen[cuts][_between(key, cuts)] == 1


def _cuts(key: str) -> tuple[int, ...]:
    """The places of its dots, and of its ends."""
    return (-1, *(at for at, letter in enumerate(key) if letter == "."), len(key))


def _between(name: str, cuts: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(name[start + 1 : stop] for start, stop in pairwise(cuts))


def _ends(module: str) -> list[str]:
    """The name, and what is left of it without its first parts."""
    return [module[at + 1 :] for at in _cuts(module)[:-1]]


def names_match(module: str, names: Any, where: str) -> bool:
    """Whether `module` is one of `names`: a list of name endings, one regular expression, or None.

    Raises: ConfigError if it is something else, UnsupportedFeature.
    """
    if isinstance(names, str):
        return Pattern(names, r"(?:{})\Z", where).match(module)
    if names is not None and not isinstance(names, list):
        raise ConfigError(
            "names of modules are neither a list nor an expression",
            where=where,
            found=display(names, 40),
        )
    return module.endswith(tuple(name for name in names or () if isinstance(name, str)))
