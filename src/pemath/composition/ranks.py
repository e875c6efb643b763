"""Which rank to write at each site."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from pemath.composition.plan import RANKED, Plan, simplified
from pemath.kinds import refuse_non_finite
from pemath.kinds._dora import Dora
from pemath.kinds._full_rank import is_full
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LOSSLESS, LowRank
from pemath.threads import Progress, on_threads


def choose_ranks(plan: Plan, progress: Progress) -> dict[str, int]:
    """The rank to write at each site: one for all in the portable profile.

    Without --rank or --max-error it is the sum of the ranks, less what is redundant.
    """
    if plan.kind.name not in RANKED:
        return dict.fromkeys(plan.exact, 0)
    step = math.lcm(*(value.geometry.site_rank(1) for value in plan.exact.values()))
    portable = plan.request.profile == "portable"
    needed: dict[str, int] = {}

    def fitting(rank: int, unit: int) -> int:
        return max(1, -(-rank // unit)) * unit

    if plan.request.rank is not None and portable:
        largest = max(_upper_rank(plan, site) for site in plan.exact)
        return dict.fromkeys(plan.exact, fitting(min(plan.request.rank, largest), step))
    # A site that needs the largest rank there can be settles the rank of all.
    order = sorted(plan.exact, key=lambda site: -_upper_rank(plan, site))
    if portable and plan.request.max_error is None:
        for site in order:
            highest = max(needed.values(), default=0)
            if _upper_rank(plan, site) <= highest:
                break
            needed[site] = _needed_rank(plan, site)
    else:

        def one(site: str) -> None:
            needed[site] = _needed_rank(plan, site)

        on_threads(
            one,
            order,
            what="finding ranks",
            progress=progress,
            footprint=footprint(plan),
        )
    if portable:
        return dict.fromkeys(plan.exact, fitting(max(needed.values(), default=0), step))
    units = {site: value.geometry.site_rank(1) for site, value in plan.exact.items()}
    # A pattern names an expert parameter by a name that the file does not have: these get r itself.
    experts = [site for site, value in plan.exact.items() if value.geometry.layout == "experts"]
    needed |= dict.fromkeys(experts, max(needed.values()))
    return {site: fitting(needed[site], units[site]) for site in plan.exact}


def _needed_rank(plan: Plan, site: str) -> int:
    """The smallest rank at this site that keeps to the request."""
    if plan.request.max_error is None and not plan.is_linear:
        return min(_upper_rank(plan, site), plan.request.rank or 1 << 30)
    value = plan.value(site)
    if not math.isfinite(value.norm()):
        refuse_non_finite(plan.adapters.values(), site)
    if plan.request.max_error is None:
        ranks = [_lossless_rank(block) for block in value.blocks]
    else:
        ranks = [_rank_for_error(plan, site, value, plan.request.max_error)]
    needed: int = value.geometry.site_rank(max(ranks))
    return needed if plan.request.rank is None else min(needed, plan.request.rank)


def _lossless_rank(block: LowRank) -> int:
    """The rank that holds the whole block; a matrix beside the identity is taken as it is."""
    if is_full(block) and block.rank == min(block.shape):
        return block.rank
    return block.decomposed().rank_within(LOSSLESS) if block.is_redundant() else block.rank


def _rank_for_error(plan: Plan, site: str, value: Lora | Dora, allowed: float) -> int:
    """The smallest block rank that keeps the stored site within `allowed`.

    Rounding costs at most 2u + u², and is orthogonal to truncation up to second order. It mostly
    costs less: the ranks between are stored and measured.
    """
    roundoff = plan.dtype.roundoff
    rounding = (2 + roundoff) * roundoff
    # Where rounding alone may take it all, nothing is truncated, and the certificate decides.
    budget = max(math.sqrt(max(allowed**2 - rounding**2, 0.0)), LOSSLESS)
    sufficient = _rank_within(value, budget)
    exact = simplified(plan.exact[site])
    for rank in range(_rank_within(value, max(allowed, LOSSLESS)), sufficient):
        site_rank = value.geometry.site_rank(rank)
        stored = plan.folders.store(site, value.recomposed(site_rank), site_rank, plan.dtype)
        deviation, norm = stored.value.gap(exact)
        if deviation <= allowed * norm:
            return rank
    return sufficient


def _rank_within(value: Lora | Dora, error: float) -> int:
    """The smallest rank of every block with which the whole site, bias included, is within `error`."""
    spectra = [block.decomposed().values for block in value.blocks]
    tails = np.zeros(max(map(len, spectra)) + 1)
    for values in spectra:
        tails[: len(values)] += np.cumsum(values[::-1] ** 2)[::-1]
    bias = 0.0 if value.bias is None else value.bias.norm()
    total = math.sqrt(tails[0] + bias**2) if isinstance(value, Lora) else value.norm()
    return int(np.count_nonzero(np.sqrt(tails) > error * total))


def largest_rank(plan: Plan) -> int:
    """No site is written at more than this rank; 0 for a kind without ranks."""
    if plan.kind.name not in RANKED:
        return 0
    largest = max(_upper_rank(plan, site) for site in plan.exact)
    return min(largest, plan.request.rank or largest)


def _upper_rank(plan: Plan, site: str) -> int:
    """No rank above this is ever needed: that of the expression, and the matrix's own size."""
    geometry = plan.exact[site].geometry
    bound = geometry.block_rank(plan.evaluator.rank(plan.expression, site))
    return int(geometry.site_rank(min(bound, *geometry.block_shape)))


def footprint(plan: Plan, ranks: Mapping[str, int] | None = None) -> Callable[[str], int]:
    """Bytes that a site may need beyond the mapped inputs, roughly; `ranks` are those written."""

    def bytes_of(site: str) -> int:
        value = plan.exact[site]
        # Gram matrices of data-driven methods are read in float64, and added up.
        measured = 16 * sum(s.gram_size(site) for s in plan.evaluator.statistics.values())
        if isinstance(value, FullDelta):
            return math.prod(value.shape) * plan.dtype.size + measured
        if not isinstance(value, Lora | Dora):
            return measured
        rank = ranks[site] if ranks else value.rank
        outputs, inputs = value.geometry.outputs, math.prod(value.geometry.inputs)
        # Gram matrices, their factors, and a singular value decomposition with its work space.
        grams = 16 * sum(block.rank**2 for block in value.blocks)
        return 8 * ((outputs + inputs) * rank * len(value.blocks) + grams) + measured

    return bytes_of
