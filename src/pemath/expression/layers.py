"""Keys of weights by layer: which sites `layers.0-15.q_proj` means.

A key is a path of name parts that occur in the site's name in this order. Between two names there
may be other parts; a number, or an inclusive range of numbers, stands right behind the name that it
counts. So `layers.0-3.q_proj` is `model.layers.2.self_attn.q_proj`, and `layers.3` is not
`model.layers.12.experts.3`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pemath.errors import UsageError
from pemath.limits import LIMITS
from pemath.names import display

OTHERS = "*"
_NUMBERS = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_Span = tuple[int, int]


@dataclass(frozen=True)
class LayerKey:
    """A key taken apart: each name with the ranges of numbers that stand right behind it."""

    runs: tuple[tuple[str, tuple[_Span, ...]], ...]

    def matches(self, site: str) -> bool:
        """Whether the key means the site of this name."""
        parts = site.split(".")
        start = 0
        for name, spans in self.runs:
            # The leftmost place of each run leaves the most room to those behind it.
            found = next(
                (at for at in range(start, len(parts)) if _stands(parts, at, name, spans)), None
            )
            if found is None:
                return False
            start = found + 1 + len(spans)
        return True


def layer_key(text: str) -> LayerKey:
    """The key that `text` writes. Raises UsageError."""
    shown = display(text, 60)
    if len(text) > LIMITS.layer_key_length:
        raise UsageError(
            f"the key `{shown}` is too long",
            expected=f"at most {LIMITS.layer_key_length} characters",
        )
    runs: list[tuple[str, tuple[_Span, ...]]] = []
    for part in text.split("."):
        numbers = _NUMBERS.fullmatch(part)
        if numbers is None:
            if not part or part != part.strip() or OTHERS in part:
                raise UsageError(
                    f"`{shown}` is not a key",
                    expected='name parts such as "layers.0-15" or "q_proj", or "*" for all others',
                )
            runs.append((part, ()))
            continue
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not runs or first > last:
            raise UsageError(
                f"`{shown}` is not a key",
                expected="a range that runs upwards, such as layers.0-15"
                if runs
                else "a name before the number, such as layers.3",
            )
        name, spans = runs.pop()
        runs.append((name, (*spans, (first, last))))
    return LayerKey(tuple(runs))


def _stands(parts: list[str], at: int, name: str, spans: tuple[_Span, ...]) -> bool:
    behind = parts[at + 1 : at + 1 + len(spans)]
    return (
        parts[at] == name
        and len(behind) == len(spans)
        and all(_within(part, span) for part, span in zip(behind, spans, strict=True))
    )


def _within(part: str, span: _Span) -> bool:
    # A name in a file may be a number of any length.
    return (
        part.isascii()
        and part.isdigit()
        and len(part) <= LIMITS.layer_key_length
        and span[0] <= int(part) <= span[1]
    )
