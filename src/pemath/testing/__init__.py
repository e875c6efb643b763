"""What tests of pemath and of its extensions share. Needs hypothesis, which pemath itself does not.

`families(kind, size)` draws values of a kind that belong to one site, `register_families` adds a
kind of your own; `factors`, `scalars`, `expressions` and `float_types` are the parts they are made
of. `check_kind` and `check_method` try a kind or a method on such values, and say all that is wrong
with it.
"""

from __future__ import annotations

from pemath.testing._conformance import ConformanceError, Failure
from pemath.testing.kind_conformance import check_kind
from pemath.testing.method_conformance import check_method
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
    "ConformanceError",
    "Factors",
    "Failure",
    "Family",
    "check_kind",
    "check_method",
    "expressions",
    "factors",
    "families",
    "float_types",
    "register_families",
    "scalars",
]
