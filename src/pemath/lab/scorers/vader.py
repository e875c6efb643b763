"""VADER: how negative a text is, by a lexicon and rules (Hutto and Gilbert, ICWSM 2014).

It knows nothing of toxicity. It is for experiments on what packages carry, where negative reviews
take the place of toxic texts.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pemath.errors import VerificationFailed
from pemath.lab import assets
from pemath.names import display

ASSET = "pip:vader"


@dataclass(frozen=True, eq=False)
class Vader:
    """The compound sentiment of a text from -1 to 1, turned into negativity from 0 to 1."""

    analyzer: Any

    name = "vader"
    title = "VADER negativity (lexicon and rules, not trained)"
    version = assets.ASSETS[ASSET].version
    unseen = ("packages/amazon",)

    def score(self, texts: Sequence[str]) -> list[float]:
        """(1 - compound) / 2 for each text: 0.5 where it finds no sentiment."""
        return [(1 - self.analyzer.polarity_scores(text)["compound"]) / 2 for text in texts]


def load_vader(data_dir: Path | None = None) -> Vader:
    """The scorer of the installed package. Raises: MissingExtra, VerificationFailed."""
    checked = {path.name: path for path in assets.files(ASSET)}["vaderSentiment.py"]
    spec = find_spec("vaderSentiment")  # before anything of it runs
    _same(Path(str(spec.origin)).with_name(checked.name) if spec else Path(), checked)
    module = importlib.import_module("vaderSentiment.vaderSentiment")
    _same(Path(str(module.__file__)), checked)
    return Vader(module.SentimentIntensityAnalyzer())


def _same(found: Path, checked: Path) -> None:
    if found.resolve() != checked.resolve():
        raise VerificationFailed(
            "another module stands before the one that was checked",
            where=display(found),
            expected=display(checked),
            hint="take its folder out of PYTHONPATH",
        )
