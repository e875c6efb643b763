"""What tests of pemath and of its extensions share. Needs hypothesis, which pemath itself does not.

`families(kind, size)` draws values of a kind that belong to one site, `register_families` adds a
kind of your own; `factors`, `scalars`, `expressions` and `float_types` are the parts they are made
of.
"""

from __future__ import annotations

from pemath.testing.strategies import (
    Factors,
    Family,
    expressions,
    factors,
    families,
    float_types,
    register_families,
    scalars,
)

__all__ = [
    "Factors",
    "Family",
    "expressions",
    "factors",
    "families",
    "float_types",
    "register_families",
    "scalars",
]
