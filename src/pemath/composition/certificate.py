"""How far a stored result is from the exact sum that was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Below this an error is the roundoff of its own computation in float64.
_ROUNDOFF = 1e-15


@dataclass(frozen=True)
class SiteReport:
    """One site: the rank written, the Frobenius norm of (stored - exact), and that of the exact sum.

    Both are of the delta weight (for (IA)³ of l - 1), rounding included. `norm` is None where
    nothing deviates anywhere: then it has not been needed. `made` is the norm of what a method made
    and `left_out` the norm of what of that the rank has no room for: estimates where the method works
    on single entries. Both are zero where there is no method.
    """

    rank: int
    deviation: float
    norm: float | None = None
    made: float = 0.0
    left_out: float = 0.0

    @property
    def error(self) -> float:
        """Relative error: deviation / norm; infinite if the exact sum is zero and the stored is not."""
        return _relative(self.deviation, self.norm)


@dataclass(frozen=True)
class Certificate:
    """The reports of all sites, and their total."""

    sites: Mapping[str, SiteReport] = field(repr=False)

    @property
    def norm(self) -> float | None:
        """Frobenius norm of the exact sum over all sites; None where it has not been needed."""
        norms = [site.norm for site in self.sites.values() if site.norm is not None]
        return math.hypot(*norms) if len(norms) == len(self.sites) else None

    @property
    def deviation(self) -> float:
        """Frobenius norm of (stored - exact) over all sites."""
        return math.hypot(*(site.deviation for site in self.sites.values()))

    @property
    def error(self) -> float:
        """Relative Frobenius error in total."""
        return _relative(self.deviation, self.norm)

    @property
    def left_out(self) -> float:
        """Of what methods made, the share (in norm) that the rank has no room for: an estimate."""
        return _relative(
            math.hypot(*(site.left_out for site in self.sites.values())),
            math.hypot(*(site.made for site in self.sites.values())),
        )

    @property
    def worst(self) -> str:
        """The site with the largest relative error."""
        return max(self.sites, key=lambda name: self.sites[name].error)

    def as_dict(self) -> dict[str, Any]:
        """For the lock file and `--json`. An infinite error is null, and so are norms where the
        stored result is the exact sum everywhere: then none was needed.
        """
        return {
            "error": _plain(self.error),
            "norm": self.norm,
            "worst_site": self.worst,
            "worst_error": _plain(self.sites[self.worst].error),
            **({"left_out": self.left_out} if self.left_out else {}),
            "sites": {
                name: {"rank": s.rank, "norm": s.norm, "error": _plain(s.error)}
                | ({"left_out": s.left_out / s.made} if s.left_out else {})
                for name, s in self.sites.items()
            },
        }


def percent(error: float) -> str:
    """An error as a percentage with three digits; `exact` for zero."""
    if error < _ROUNDOFF:
        return "exact"
    if not math.isfinite(error):
        return "infinite (the exact sum is zero)"
    return f"{100 * error:.3g} %"


def _relative(deviation: float, norm: float | None) -> float:
    if deviation == 0:
        return 0.0
    return deviation / norm if norm else math.inf


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None
