"""Scorers: how toxic, or how negative, a text is, as one number from 0 to 1.

One file is one scorer; everything else asks `load_scorer`. A package adds its own under the
entry-point group `pemath.scorers`: a callable that takes the data folder (or None) and returns a
`Scorer`.
"""

from __future__ import annotations

from pemath.lab.scorers.contract import Scorer, scored
from pemath.lab.scorers.quality import ABOVE, Quality, auc, quality
from pemath.lab.scorers.registry import DEFAULT, SCORERS, load_scorer, scorer_names

__all__ = [
    "ABOVE",
    "DEFAULT",
    "SCORERS",
    "Quality",
    "Scorer",
    "auc",
    "load_scorer",
    "quality",
    "scored",
    "scorer_names",
]
