"""The sum of deltas, each weighted by its own size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from pemath.kinds import Adapter, refuse_non_finite
from pemath.methods._directions import combined, gram
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import check_finite, fitting, operand_count
from pemath.methods.exact import exact

_squares: WeakKeyDictionary[Adapter, float] = WeakKeyDictionary()
_measuring = Lock()


@method(
    space="factor",
    source="Zhou et al. 2024 (arXiv 2406.11385), the closed form of the scaling coefficients",
    check=fitting,
    any_kind=True,
)
def metagpt(stack: Stack) -> Any:
    """MetaGPT: Σ λᵢ Δᵢ with λᵢ = ‖Δᵢ‖² / Σ‖Δ‖², the norms those of whole adapters.

    It departs least from every operand's own loss, where losses are quadratic, of equal curvature,
    and the deltas orthogonal. The norms are over all sites, as the paper's are over the whole model:
    one λ for each adapter. Where an operand is an expression, its other sites are not known, and the
    norms are those of each site for all operands. A weight, or a coefficient in the expression, is
    no part of the norms: it scales its term besides.
    """
    if operand_count(stack) == 1:
        return exact(stack)
    check_finite(stack)
    shares = _shares(stack)
    return combined(stack, shares)


def _shares(stack: Stack) -> Sequence[float]:
    """λ of the values."""
    known = [operand for operand in stack.operands if operand is not None]
    if len(known) < operand_count(stack):
        squares = total = [float(x) for x in gram(stack.values).diagonal()]
    else:
        total = [_square(adapter) for adapter in known]
        rest = iter(zip(total, known, strict=True))  # weights by layer leave out what has the site
        squares = [
            next(square for square, adapter in rest if adapter.sites.get(stack.site) is value)
            for value in stack.values
        ]
    whole = sum(total)
    return [square / whole if whole else 0.0 for square in squares]


def _square(adapter: Adapter) -> float:
    """The squared norm over all sites; measured once."""
    with _measuring:
        if adapter not in _squares:
            total = 0.0
            for site, value in adapter.sites.items():
                square = float(gram([value])[0, 0])
                if not math.isfinite(square):
                    refuse_non_finite([adapter], site)
                total += square
            _squares[adapter] = total
        return _squares[adapter]
