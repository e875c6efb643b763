"""Sites computed and written one at a time, on a few threads, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pemath.composition.certificate import Certificate, SiteReport
from pemath.composition.plan import Plan, simplified
from pemath.composition.ranks import choose_ranks, footprint
from pemath.errors import ErrorTooLarge, OutOfRange
from pemath.formats.safetensors import TensorWriter
from pemath.kinds import StoredSite, refuse_non_finite
from pemath.kinds._dora import Dora
from pemath.kinds.lora import Lora
from pemath.names import display
from pemath.references import WEIGHTS
from pemath.threads import Progress, on_threads, one_blas_thread


@dataclass(frozen=True)
class Written:
    """The weights on disk: the rank of each site, the certificate, and the file's SHA-256."""

    ranks: Mapping[str, int]
    certificate: Certificate
    sha256: str


def stream(plan: Plan, folder: Path, progress: Progress) -> Written:
    """Write the weights of `plan` into `folder`.

    Raises: NonFiniteValue, ErrorTooLarge, OperandError, StorageError.
    """
    with one_blas_thread(), np.errstate(all="ignore"):
        ranks = choose_ranks(plan, progress)
        specs = plan.folders.layout(plan.exact, ranks, plan.dtype)
        specs += [spec for head in plan.heads for spec in head.specs()]
        writer = TensorWriter(folder / WEIGHTS, specs, {"format": "pt"})
        try:
            for head in plan.heads:
                head.check_finite()
                for spec in head.specs():
                    for offset, data in head.slabs(spec.name):
                        writer.write(spec.name, data, offset)
            reports: dict[str, SiteReport] = {}

            def one(site: str) -> None:
                try:
                    stored, reports[site] = _site(plan, site, ranks[site])
                except np.linalg.LinAlgError:  # NaN or infinity went into a decomposition
                    refuse_non_finite(plan.adapters.values(), site)
                for name, offset, data in stored.pieces:
                    writer.write(name, data, offset)

            def measure(site: str) -> None:
                reports[site] = replace(reports[site], norm=_norm(plan, site))

            room = footprint(plan, ranks)
            on_threads(one, plan.exact, what="composing", progress=progress, footprint=room)
            if any(report.deviation for report in reports.values()):
                bare = [site for site, report in reports.items() if report.norm is None]
                on_threads(measure, bare, what="measuring", progress=progress, footprint=room)
            digest = writer.close()
        finally:
            writer.abandon()
    certificate = Certificate({site: reports[site] for site in plan.exact})
    _check_bound(plan, certificate)
    return Written(ranks, certificate, digest)


def _site(plan: Plan, site: str, rank: int) -> tuple[StoredSite, SiteReport]:
    """One site's bytes and its report; the norm is left out where the bytes are the exact sum."""
    exact = simplified(plan.exact[site])
    value = exact if plan.is_linear else plan.value(site)
    if isinstance(value, Dora):
        return _stored(plan, site, value.truncated(rank), exact, rank)
    if not isinstance(value, Lora):
        return _stored(plan, site, value, exact, rank)
    compact = value.truncated(rank)
    best = _stored(plan, site, compact, exact, rank)
    # Rounding the parts of a sum that cancels costs more than rounding the sum itself, which costs
    # at most 2u + u².
    roundoff = plan.dtype.roundoff
    if not plan.is_linear:
        cut = 0.0 if compact is value else compact.distance(value)
        left_out = math.hypot(value.left_out, cut)
        made = math.hypot(value.left_out, value.norm())
        return best[0], replace(best[1], made=made, left_out=left_out)
    if compact is value and best[1].error > (2 + roundoff) * roundoff:
        other = _stored(plan, site, value.recomposed(rank), exact, rank)
        best = min(best, other, key=lambda found: found[1].deviation)
    return best


def _stored(
    plan: Plan, site: str, value: Any, exact: Any, rank: int
) -> tuple[StoredSite, SiteReport]:
    stored = plan.folders.store(site, value, rank, plan.dtype)
    deviation, norm = stored.value.gap(exact)
    if not (math.isfinite(deviation) and math.isfinite(norm)) and not exact.is_finite():
        refuse_non_finite(plan.adapters.values(), site)
    if not math.isfinite(deviation):
        raise OutOfRange(
            f"the result does not fit into {plan.dtype.name}",
            where=f"site `{display(site)}`",
            hint="choose a wider type with --dtype",
        )
    written = min(rank, value.rank) if isinstance(value, Lora | Dora) else 0
    return stored, SiteReport(written, deviation, norm if math.isfinite(norm) else None)


def _norm(plan: Plan, site: str) -> float:
    return float(simplified(plan.exact[site]).norm())


def _check_bound(plan: Plan, certificate: Certificate) -> None:
    bound = plan.request.max_error
    worst = certificate.sites[certificate.worst]
    if bound is None or worst.error <= bound:
        return
    cause, hint = f"the result stored in {plan.dtype.name}", "a wider --dtype"
    if not plan.is_linear:
        cause, hint = f"the result of `{display(plan.expression)}`", "the exact arithmetic"
    raise ErrorTooLarge(
        f"{cause} is further from the exact sum than allowed",
        where=f"site `{display(certificate.worst)}`",
        found=f"{100 * worst.error:.4g} %",
        expected=f"at most {100 * bound:.4g} %",
        hint=f"allow a larger error, or use {hint}",
    )
