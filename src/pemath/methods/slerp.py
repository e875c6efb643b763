"""The arc between two deltas."""

from __future__ import annotations

from typing import Any

import numpy as np

from pemath.errors import OperandError, PemathError, RequestError
from pemath.methods._directions import arc, combined, cosines, gram
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import check_finite, fitting, operand_count, refuse_number
from pemath.names import display

_NAME = "slerp"


def _two(stack: Stack) -> PemathError | None:
    if operand_count(stack) != 2:
        return refuse_number(stack, _NAME, "two operands, the ends of the arc")
    if len(stack.values) == 1 and _place(stack) is None:
        return OperandError(
            f"`{_NAME}` cannot tell which of two expressions lacks a site",
            where=f"site `{display(stack.site)}`",
            hint="name an adapter as one of the ends, or use `nuslerp`, whose weights say it",
        )
    return fitting(stack)


@method(
    space="core",
    source="Shoemake 1985 (SIGGRAPH), as mergekit applies it to weights; angles from the factors",
    check=_two,
    any_kind=True,
)
def slerp(stack: Stack, *, t: float = 0.5) -> Any:
    """Spherical interpolation: sin((1−t)θ)/sin θ Δ₁ + sin(tθ)/sin θ Δ₂, θ the angle between both.

    `t` goes from 0, the first, to 1, the second. The straight line (1−t)Δ₁ + tΔ₂ stands in where
    there is no arc: one delta is zero, or the two are opposite, to 1.8°. mergekit takes it for angles
    below 1.8° too, off by up to 1e-4 there, and treats a zero as if at right angles. Each site is one
    vector. Weights scale the deltas before. LoRA ranks add up, and nothing is lost.
    """
    if not 0 <= t <= 1:
        raise RequestError("`t` must be between 0 and 1", found=t)
    check_finite(stack)
    if len(stack.values) == 1:
        return combined(stack, [t if _place(stack) == 1 else 1 - t])
    norms, cosine = cosines(gram(stack.values) * np.outer(stack.weights, stack.weights))
    between = cosine[0, 1] if norms.all() else 1.0
    return combined(stack, [float(c) for c in arc(np.array(between), t)])


def _place(stack: Stack) -> int | None:
    """Which of two operands the only value is of. The other may have the site too, where weights by
    layer make it zero.
    """
    held = [o is not None and o.sites.get(stack.site) is stack.values[0] for o in stack.operands]
    if held.count(True) == 1:
        return held.index(True)
    is_known = stack.operands.count(None) == 1 and not any(held)
    return stack.operands.index(None) if is_known else None
