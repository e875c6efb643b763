"""One step on the sphere from the mean of deltas."""

from __future__ import annotations

from typing import Any

from pemath.methods._directions import mean_on_sphere
from pemath.methods._registry import Stack, method
from pemath.methods._subtraction import check_finite, fitting, operand_count
from pemath.methods.exact import exact


@method(
    space="core",
    source="Goddard 2025 (goddard.blog/posts/multislerp-wow-what-a-cool-idea), with logarithms",
    check=fitting,
    weights="shares",
    any_kind=True,
)
def multislerp(stack: Stack) -> Any:
    """Multi-SLERP: exp_m(Σ|wᵢ| log_m(uᵢ)) at the normalised mean m of the directions uᵢ = Δᵢ/‖Δᵢ‖.

    Its norm is Σ|wᵢ|‖Δᵢ‖. Two operands of one norm give exactly `slerp`; it is the first step of
    `karcher`. mergekit projects the uᵢ on the tangent space instead of taking their logarithm: the
    weighted sum of these projections is always zero, so its result is m, which is `slerp` for two
    operands of equal weight only; `karcher(max_iter=0)` gives that. A negative weight turns its
    delta round; a zero, and directions that cancel, as in `karcher`. Each site is one vector.
    """
    if operand_count(stack) == 1:
        return exact(stack)
    check_finite(stack)
    return mean_on_sphere(stack, 1, 0.0)
