"""How many compositions follow expressions over a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pemath.lab.recipes.curves import Curve, spans_of
from pemath.lab.search import combinations


def compositions_of(curves: Mapping[str, Curve], weights: Any, pem: str) -> int:
    """Every curve of this kind of module at every weight."""
    drawn = sum(curve.holds_for(pem) for curve in curves.values())
    return drawn * len(combinations(spans_of(weights)))
