"""The judge: dense float64 arrays."""

from __future__ import annotations

import numpy as np

from pemath.formats.floats import Array
from pemath.testing import Family

TOLERANCE = 1e-10


def assert_equal(found: Array, wanted: Array, terms: float) -> None:
    """Equal within 1e-10 of `terms`, the sum of the norms of all that was added up."""
    assert found.shape == wanted.shape
    error = float(np.linalg.norm(found - wanted))
    assert error <= TOLERANCE * terms, (error, terms)


def sizes(family: Family) -> list[float]:
    """Norm of each value's delta."""
    return [float(np.linalg.norm(family.delta(value))) for value in family.values]
