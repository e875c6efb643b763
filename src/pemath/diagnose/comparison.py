"""What a comparison of two adapters says: plain records, each ready for `--json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["identical", "same", "mixed", "independent", "unknown"]


@dataclass(frozen=True)
class Pair:
    """Two matrices a and b of one shape, or one such pair per site: their Frobenius norms, inner
    product and distance.
    """

    norm_a: float
    norm_b: float
    inner: float
    distance: float

    @property
    def relative_norm(self) -> float | None:
        """|b| / |a|; None where a is zero."""
        return self.norm_b / self.norm_a if self.norm_a > 0 else None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between a and b; None where one is zero."""
        scale = self.norm_a * self.norm_b
        return max(-1.0, min(1.0, self.inner / scale)) if scale > 0 else None

    @property
    def drift(self) -> float:
        """The distance relative to the norms' root mean square; √2 for orthogonal a and b."""
        size = math.hypot(self.norm_a, self.norm_b) / math.sqrt(2)
        return self.distance / size if size > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "norm_a": self.norm_a,
            "norm_b": self.norm_b,
            "relative_norm": self.relative_norm,
            "cosine": self.cosine,
            "distance": self.distance,
        }


@dataclass(frozen=True)
class Angles:
    """Principal angles between two spaces in degrees, `count` of them (the smaller dimension), and
    the spaces' similarity |Qaᵀ Qb|² / count: 1 if one contains the other, 0 if orthogonal.

    Source: Björck and Golub 1973, both formulas, so that small angles are accurate too.
    """

    mean: float
    largest: float
    similarity: float
    count: int


@dataclass(frozen=True)
class SiteComparison:
    """A site that both have. `delta` compares the delta weights ((IA)³: l - 1), `rows` the row
    spaces of A, `columns` the column spaces of B, `factor_a` the factors A element by element (None
    where the ranks differ). `flips` counts entries of each l that are zero or negative.

    A field is None for a kind that has no such thing, angles also where a factor is zero.
    """

    delta: Pair
    ranks: tuple[int, int] | None
    rows: Angles | None
    columns: Angles | None
    factor_a: Pair | None
    flips: tuple[int, int] | None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.delta.as_dict(),
            "ranks": self.ranks and list(self.ranks),
            "rows": _plain(self.rows),
            "columns": _plain(self.columns),
            "factor_a": self.factor_a
            and {"drift": self.factor_a.drift, "cosine": self.factor_a.cosine},
            "flips": self.flips and list(self.flips),
        }


@dataclass(frozen=True)
class Initialisation:
    """Whether the A of two LoRAs began as the same random numbers.

    `text` says it in words, `consequence` what that means for the paper's arithmetic. `drift` and
    `cosine` are of the factors A of the sites that share their start ("independent": of all).
    """

    verdict: Verdict
    text: str
    consequence: str
    drift: float | None
    cosine: float | None


@dataclass(frozen=True)
class Outcome:
    """What a method makes of a combination, over all sites.

    `error` is |method - exact| / |exact|, `projection` is <method, exact> / <exact, exact>: 2 is a
    doubled update, 0 one that vanished. Both are None where `remark` says why there is no number.
    """

    method: str
    error: float | None
    projection: float | None
    remark: str | None = None


@dataclass(frozen=True)
class Combination:
    """A sum of the two: the exact result's norm, its non-positive entries of l (None for other
    kinds), and what each method gives instead.
    """

    expression: str
    norm: float
    flips: int | None
    outcomes: tuple[Outcome, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "expression": self.expression,
            "norm": self.norm,
            "flips": self.flips,
            "methods": [asdict(outcome) for outcome in self.outcomes],
        }


@dataclass(frozen=True)
class Comparison:
    """Two adapters of one kind, per site and in total.

    `a` and `b` are their names, `references` what they stand for. `only_a` and `only_b` are the
    norms at sites that the other lacks; such a site counts as zero there, also in `delta`.
    """

    a: str
    b: str
    references: tuple[str, str]
    kind: str
    sites: Mapping[str, SiteComparison]
    only_a: Mapping[str, float]
    only_b: Mapping[str, float]
    delta: Pair
    rows: Angles | None
    columns: Angles | None
    initialisation: Initialisation | None
    flips: tuple[int, int] | None
    combinations: tuple[Combination, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "a": {"name": self.a, "reference": self.references[0]},
            "b": {"name": self.b, "reference": self.references[1]},
            "kind": self.kind,
            "total": {
                **self.delta.as_dict(),
                "rows": _plain(self.rows),
                "columns": _plain(self.columns),
                "flips": self.flips and list(self.flips),
            },
            "initialisation": _plain(self.initialisation),
            "combinations": [combination.as_dict() for combination in self.combinations],
            "only_a": dict(self.only_a),
            "only_b": dict(self.only_b),
            "notes": list(self.notes),
            "sites": {name: site.as_dict() for name, site in self.sites.items()},
        }


def _plain(facts: Angles | Initialisation | None) -> dict[str, Any] | None:
    return None if facts is None else asdict(facts)
