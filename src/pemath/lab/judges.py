"""Judges: models, or people, that prefer one of two replies to an instruction.

pemath brings none. A package adds one under the entry-point group `pemath.judges`: a callable
without arguments that returns a `Judge`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pemath import plugins
from pemath.errors import ConfigError, RequestError
from pemath.names import display, listing

GROUP = "pemath.judges"


@runtime_checkable
class Judge(Protocol):
    """Prefers one of two replies. `version` changes whenever a verdict could."""

    @property
    def name(self) -> str:
        """What recipes and tables call it."""
        ...

    @property
    def version(self) -> str:
        """What its verdicts depend on: the model, its prompt, its settings."""
        ...

    def prefer(self, instruction: str, first: str, second: str) -> float:
        """How much better `first` is than `second` as a reply: from -1 to 1, 0 for a tie."""
        ...


def load_judge(name: str) -> Judge:
    """The judge that an installed package registered as `name`.

    Raises: RequestError (no such judge), ConfigError (what is registered is no judge).
    """
    made = plugins.named(GROUP, name)
    if made is None:
        there = plugins.names(GROUP)
        raise RequestError(
            "there is no such judge",
            found=display(name),
            expected=listing(list(there)) if there else "none is installed",
            hint=f"a package adds one under the entry-point group `{GROUP}`",
        )
    judge = made() if callable(made) else made
    if not isinstance(judge, Judge):
        raise ConfigError(
            f"`{display(name)}` is no judge",
            where=f"entry points `{GROUP}`",
            found=type(judge).__name__,
            expected="`name`, `version` and `prefer(instruction, first, second)`",
        )
    return judge


def compare(
    judge: Judge, instructions: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
) -> list[float]:
    """How much better `ours` is than `theirs`, one number from -1 to 1 for each instruction.

    Each pair is shown in both orders and the verdicts are averaged, because language models prefer
    what stands first or second whatever it is (Zheng et al. 2023, "Judging LLM-as-a-judge").
    Raises: ConfigError (a verdict outside -1..1), ValueError (lists of different lengths).
    """
    return [
        (_verdict(judge, asked, our, their) - _verdict(judge, asked, their, our)) / 2
        for asked, our, their in zip(instructions, ours, theirs, strict=True)
    ]


def _verdict(judge: Judge, instruction: str, first: str, second: str) -> float:
    verdict = float(judge.prefer(instruction, first, second))
    if not (math.isfinite(verdict) and abs(verdict) <= 1):
        raise ConfigError(
            f"the judge `{display(judge.name)}` gave a verdict that is none",
            found=verdict,
            expected="a number from -1 to 1",
        )
    return verdict
