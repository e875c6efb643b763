"""How good a scorer is on texts that people labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from pemath.errors import RequestError
from pemath.lab.scorers.contract import Scorer, scored
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.data.labelled import Labelled

MIDDLE = 0.5
ABOVE = 0.8
"""The score above which a text counts as toxic, as in Ilharco et al. (2023)."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A scorer against one labelled set; all but the counts are shares in 0..1.

    `auc` is the probability that a positive scores higher than a negative, `accuracy` is that of
    the threshold 0.5, `above_positives` and `above_negatives` are the shares scored above 0.8.
    """

    set: str
    rows: int
    positives: int
    auc: float
    accuracy: float
    above_positives: float
    above_negatives: float


def quality(scorer: Scorer, labelled: Labelled) -> Quality:
    """`scorer` judged by the labels of `labelled`; 1 is what it should score high.

    Raises: RequestError (only one of the two labels occurs), ConfigError (scores that are none).
    """
    labels = np.asarray(labelled.labels)
    positive = labels == 1
    if not (positive.any() and (~positive).any()):
        raise RequestError(
            f"`{display(labelled.name)}` cannot judge a scorer",
            found=f"{int(positive.sum())} positives among {labels.size} texts",
            expected="some of both",
        )
    scores = np.asarray(scored(scorer, labelled.texts))
    return Quality(
        set=labelled.name,
        rows=int(labels.size),
        positives=int(positive.sum()),
        auc=auc(scores[positive], scores[~positive]),
        accuracy=float(np.mean((scores > MIDDLE) == positive)),
        above_positives=float(np.mean(scores[positive] > ABOVE)),
        above_negatives=float(np.mean(scores[~positive] > ABOVE)),
    )


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """The share of pairs in which the positive scores higher; a tie counts half.

    That is the area under the ROC curve: Hanley and McNeil, Radiology 143 (1982), 29-36.
    """
    high, low = np.asarray(positives, dtype=np.float64), np.sort(np.asarray(negatives, np.float64))
    below = np.searchsorted(low, high, side="left")
    not_above = np.searchsorted(low, high, side="right")
    return float(np.mean(below + not_above) / 2 / low.size)
