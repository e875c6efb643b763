"""NAME=REFERENCE on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from pemath.errors import RequestError
from pemath.names import display


def bindings(words: Sequence[str], fallback: str | None = None) -> dict[str, str]:
    """The references by name; a word without a name gets `fallback`, if there is one.

    Raises: RequestError for a word that is no binding, or a name that is bound twice.
    """
    bound: dict[str, str] = {}
    for word in words:
        name, sign, reference = word.partition("=")
        if not sign and fallback is not None:
            name, reference = fallback, word
        if not name.isidentifier() or not reference:
            raise RequestError(
                f"`{display(word)}` is not a binding",
                expected="NAME=REFERENCE, for example a=./my-adapter",
            )
        if bound.setdefault(name, reference) != reference:
            raise RequestError(f"`{display(name)}` is bound twice")
    return bound
