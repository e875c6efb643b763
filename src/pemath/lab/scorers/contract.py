"""What a scorer is, and what is checked of its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pemath.errors import ConfigError
from pemath.names import display


@runtime_checkable
class Scorer(Protocol):
    """Scores texts, each by itself. `version` changes whenever a score could."""

    @property
    def name(self) -> str:
        """What recipes call it."""
        ...

    @property
    def title(self) -> str:
        """What tables call it: what it is, and what it was trained on."""
        ...

    @property
    def version(self) -> str:
        """What its scores depend on; part of the key under which scored texts are kept."""
        ...

    @property
    def unseen(self) -> tuple[str, ...]:
        """The labelled sets it was neither trained nor tuned on, by which it can be judged."""
        ...

    def score(self, texts: Sequence[str]) -> list[float]:
        """One number from 0 to 1 for each text; any text is allowed, the empty one too."""
        ...


def scored(scorer: Scorer, texts: Sequence[str]) -> list[float]:
    """The scores of `texts`, checked. Raises: ConfigError (not one number in 0..1 for each)."""
    scores = [float(score) for score in scorer.score(texts)]
    if len(scores) != len(texts):
        raise ConfigError(
            f"the scorer `{display(scorer.name)}` lost count",
            found=f"{len(scores)} scores",
            expected=f"{len(texts)}, one for each text",
        )
    odd = [score for score in scores if not 0 <= score <= 1]  # NaN is odd too
    if odd:
        raise ConfigError(
            f"the scorer `{display(scorer.name)}` gave a score that is none",
            found=odd[0],
            expected="a number from 0 to 1",
        )
    return scores
