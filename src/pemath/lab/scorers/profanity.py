"""alt-profanity-check: a linear model of words, calibrated, that a package of 0.8 MB carries.

It was trained on Jigsaw's Wikipedia comments and on Davidson's tweets, so it cannot be judged by
either. Its two pickles are checked by their digest, and read as data all the same (`data_pickle`):
no code of the package runs, and scikit-learn is not needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.lab import assets
from pemath.lab.scorers.data_pickle import Thing, read_data

ASSET = "pip:profanity"

_WORD = re.compile(r"(?u)\b\w\w+\b")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profanity:
    """Several linear models of one bag of words [v], each with its calibration; their mean counts.

    `weights` is [k, v], `intercepts`, `slopes` and `offsets` are [k].
    """

    words: Mapping[str, int]
    idf: Floats
    weights: Floats
    intercepts: Floats
    slopes: Floats
    offsets: Floats

    name = "profanity"
    title = "alt-profanity-check (linear model of words, trained on Jigsaw and Davidson)"
    version = assets.ASSETS[ASSET].version
    unseen = ("toxic/surge", "toxic/hatecheck", "toxic/olid")

    def score(self, texts: Sequence[str]) -> list[float]:
        """The calibrated probability that each text is profane."""
        return [self._probability(text) for text in texts]

    def _probability(self, text: str) -> float:
        # Stop words were left out of the vocabulary, so they need no list here.
        counts = Counter(filter(self.words.__contains__, _WORD.findall(text.lower())))
        columns = [self.words[word] for word in counts]
        values = np.fromiter(counts.values(), np.float64, len(counts)) * self.idf[columns]
        norm = np.sqrt(values @ values) or 1.0
        margins = self.weights[:, columns] @ (values / norm) + self.intercepts
        # Platt's sigmoid; the model's margins are far too small for exp to overflow.
        return float(np.mean(1 / (1 + np.exp(self.slopes * margins + self.offsets))))


def load_profanity(data_dir: Path | None = None) -> Profanity:
    """The model out of the installed package. Raises: MissingExtra, VerificationFailed."""
    files = {path.stem: path for path in assets.files(ASSET)}
    vectorizer: Thing = read_data(files["vectorizer"].read_bytes())
    model: Thing = read_data(files["model"].read_bytes())
    parts: list[Thing] = model["calibrated_classifiers_"]

    def stacked(values: list[Any]) -> Floats:
        return np.stack([np.asarray(value, np.float64).reshape(-1) for value in values])

    calibrators = [part["calibrators"][0] for part in parts]
    return Profanity(
        words=vectorizer["vocabulary_"],
        idf=vectorizer["_tfidf"]["idf_"],
        weights=stacked([part["estimator"]["coef_"] for part in parts]),
        intercepts=stacked([part["estimator"]["intercept_"] for part in parts])[:, 0],
        slopes=stacked([calibrator["a_"] for calibrator in calibrators])[:, 0],
        offsets=stacked([calibrator["b_"] for calibrator in calibrators])[:, 0],
    )
