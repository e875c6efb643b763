"""Module patterns of a PEFT config, matched without trusting them.

PEFT treats many config strings as regular expressions. A stranger's expression can take for ever,
so only those with few quantifiers, none of them nested, are run; others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pemath.errors import ConfigError, UnsupportedFeature
from pemath.names import display

_LITERAL = re.compile(r"\^?[\w.-]+")
_QUANTIFIER = re.compile(r"(?<!\\)[*+{]")
_NESTED = re.compile(r"(?<!\\)\)[*+{?]")
_MOST_QUANTIFIERS = 3


def compiled(pattern: str, where: str) -> re.Pattern[str]:
    """The expression, if it is harmless. Raises ConfigError or UnsupportedFeature."""
    if len(pattern) > 4096 or (
        not _LITERAL.fullmatch(pattern)
        and (len(_QUANTIFIER.findall(pattern)) > _MOST_QUANTIFIERS or _NESTED.search(pattern))
    ):
        raise UnsupportedFeature(
            f"the module pattern `{display(pattern)}` is too complex to be matched safely",
            where=where,
            expected=f"at most {_MOST_QUANTIFIERS} of * + {{ }}, none behind a parenthesis",
            hint="write the module's name instead",
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        raise ConfigError(
            f"`{display(pattern)}` is not a valid module pattern", where=where
        ) from None


class Patterns:
    r"""A `rank_pattern` or `alpha_pattern`: the first key that matches the end of a module's name
    gives the value (PEFT's rule: `(.*\.)?(key)$`, a leading ^ anchors at the start).
    """

    def __init__(self, table: Any, where: str) -> None:
        if not isinstance(table or {}, Mapping):
            raise ConfigError("a pattern table is not a JSON object", where=where)
        self._entries = []
        for key, value in (table or {}).items():
            compiled(key, where)
            self._entries.append((re.compile(rf"(.*\.)?({key})$"), value))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def get(self, module: str, default: Any) -> Any:
        """The value for `module`, or `default`."""
        for pattern, value in self._entries:
            if pattern.match(module):
                return value
        return default


def names_match(module: str, names: Any, where: str) -> bool:
    """Whether `module` is one of `names`: a list of name endings, or one regular expression."""
    if isinstance(names, str):
        return compiled(names, where).fullmatch(module) is not None
    return any(isinstance(name, str) and module.endswith(name) for name in names or ())
