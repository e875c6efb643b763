"""Two adapters side by side: how large, how aligned, and what existing arithmetic makes of them.

Everything is found from the factors. At each site the factors of both LoRAs are first expressed in
one orthonormal basis for the rows of A and one for the columns of B: matrices of size Σr that have
the same norms, inner products and angles, and on which the methods run unchanged, since they mix
whole rows of A and whole columns of B.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pemath.composition.certificate import percent
from pemath.composition.plan import make_plan
from pemath.composition.request import request_of
from pemath.diagnose.comparison import (
    Angles,
    Combination,
    Comparison,
    Initialisation,
    Outcome,
    Pair,
    SiteComparison,
    Verdict,
)
from pemath.diagnose.inspect import flips
from pemath.diagnose.subspaces import ROUNDOFF, angles, core, pair
from pemath.errors import OperandError
from pemath.expression.parser import parse_call
from pemath.expression.tree import Operand, thaw
from pemath.kinds import Adapter, refuse_non_finite
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods import Method, Stack, named_method
from pemath.names import display, listing
from pemath.threads import Progress, on_threads, silent

METHODS = ("paper", "paper(normalize=true)", "peft_linear")
COMBINATIONS = (
    ("{a} + {b}", (1.0, 1.0)),
    ("0.5*{a} + 0.5*{b}", (0.5, 0.5)),
    ("{a} - {b}", (1.0, -1.0)),
)
_MEAN = 1

# Independent draws of N numbers have a cosine of about 1 / √N; training rarely brings one below
# this that began at 1.
_SAME_COSINE = 0.2


def compare(a: str | Operand, b: str | Operand, *, progress: Progress = silent) -> Comparison:
    """Compare the adapters that two references, or operands with names, stand for.

    Raises: KindMismatch, ShapeMismatch, NonFiniteValue, UnsupportedFeature for an adapter that
    cannot be composed, and what opening an adapter raises.
    """
    first, second = _named(a, "a"), _named(b, "b")
    if first.name == second.name:
        first, second = Operand(first.reference, "a"), Operand(second.reference, "b")
    # Looking is allowed where base models are spelled differently: hence a base model by request.
    both = first if first == second else first + second
    plan = make_plan(request_of(both, heads="drop", base_model=""))
    adapters = (plan.adapters[first], plan.adapters[second])
    names = (str(first.name), str(second.name))
    methods = [_bound(text) for text in METHODS]
    found: dict[str, _Found] = {}

    def one(site: str) -> None:
        # What overflows is refused by name, and needs no warning beside that.
        with np.errstate(all="ignore"):
            found[site] = _look(site, adapters, names, methods)

    on_threads(one, plan.exact, what="comparing", progress=progress)
    looks = [found[site] for site in plan.exact]
    sites = {site: c for site in plan.exact if (c := found[site].comparison) is not None}
    delta = _total(look.delta for look in looks)
    combinations = tuple(
        _combination(index, looks, list(plan.exact), names, delta)
        for index in range(len(COMBINATIONS))
    )
    is_lora = plan.kind.name == "lora"
    both_flips = [site.flips for site in sites.values() if site.flips is not None]
    return Comparison(
        a=names[0],
        b=names[1],
        references=(first.reference, second.reference),
        kind=plan.kind.name,
        sites=sites,
        only_a={s: found[s].delta.norm_a for s in adapters[0].sites if s not in adapters[1].sites},
        only_b={s: found[s].delta.norm_b for s in adapters[1].sites if s not in adapters[0].sites},
        delta=delta,
        rows=_pooled(site.rows for site in sites.values()),
        columns=_pooled(site.columns for site in sites.values()),
        initialisation=_initialisation(adapters, sites, combinations[_MEAN]) if is_lora else None,
        flips=(sum(x for x, _ in both_flips), sum(y for _, y in both_flips))
        if both_flips
        else None,
        combinations=combinations,
        notes=_notes(adapters, names),
    )


def _named(adapter: str | Operand, name: str) -> Operand:
    if isinstance(adapter, str):
        return Operand(adapter, name)
    return adapter if adapter.name else Operand(adapter.reference, name)


def _notes(adapters: tuple[Adapter, Adapter], names: tuple[str, str]) -> tuple[str, ...]:
    bases = [adapter.folder.base_model for adapter in adapters]
    if None in bases or bases[0] == bases[1]:
        return ()
    shown = " and ".join(f"{n}: `{display(base)}`" for n, base in zip(names, bases, strict=True))
    return (f"the base models have different names ({shown}): only on the same weights do these "
            "numbers mean anything",)  # fmt: skip


# ------------------------------------------------------------------------------------- one site


@dataclass(frozen=True)
class _Bound:
    """A method with its options."""

    method: Method
    options: Mapping[str, Any]


def _bound(text: str) -> _Bound:
    call = parse_call(text)
    method = named_method(call.method)
    return _Bound(method, method.bind({name: thaw(value) for name, value in call.options}))


@dataclass(frozen=True)
class _Merge:
    """A method's result at one site: its norm, inner product with the exact one, distance to it."""

    norm: float
    inner: float
    deviation: float


@dataclass(frozen=True)
class _Found:
    """One site. `merges[i][j]` is what method j makes of combination i, or why it refuses."""

    delta: Pair
    comparison: SiteComparison | None
    exact: Sequence[float]
    flips: Sequence[int] | None
    merges: Sequence[Sequence[_Merge | OperandError]]


def _look(
    site: str,
    adapters: tuple[Adapter, Adapter],
    names: tuple[str, str],
    methods: Sequence[_Bound],
) -> _Found:
    having = [index for index, adapter in enumerate(adapters) if site in adapter.sites]
    values: list[Any] = [adapters[index].sites[site] for index in having]
    if all(isinstance(value, Lora) for value in values):
        values = core(values)
    zero = values[0] * 0.0
    a, b = (values[having.index(index)] if index in having else zero for index in (0, 1))
    delta = Pair(a.norm(), b.norm(), a.inner(b), a.distance(b))
    if not all(map(math.isfinite, (delta.norm_a, delta.norm_b, delta.inner, delta.distance))):
        refuse_non_finite((adapters[index] for index in having), site)
    exact, merges = [], []
    for _, weights in COMBINATIONS:
        stack = Stack(
            site, values, [weights[index] for index in having], [names[index] for index in having]
        )
        wanted = named_method("exact").function(stack)
        exact.append(wanted)
        merges.append([_merged(method, stack, wanted) for method in methods])
    comparison = _compared(a, b, delta) if len(having) == 2 else None
    crossed = [flips(value) for value in exact] if isinstance(a, Ia3) else None
    return _Found(delta, comparison, [value.norm() for value in exact], crossed, merges)


def _compared(a: Any, b: Any, delta: Pair) -> SiteComparison:
    if isinstance(a, Ia3) and isinstance(b, Ia3):
        return SiteComparison(delta, None, None, None, None, (flips(a), flips(b)))
    if not (isinstance(a, Lora) and isinstance(b, Lora)):
        return SiteComparison(delta, None, None, None, None, None)
    pairs = [(x.parts[0], y.parts[0]) for x, y in zip(a.blocks, b.blocks, strict=True)]
    rows = [(x.a.widen(), y.a.widen()) for x, y in pairs]
    columns = [(x.b.widen().T, y.b.widen().T) for x, y in pairs]
    return SiteComparison(
        delta=delta,
        ranks=(a.rank, b.rank),
        rows=_pooled(angles(x, y) for x, y in rows),
        columns=_pooled(angles(x, y) for x, y in columns),
        factor_a=_total(pair(x, y) for x, y in rows) if a.rank == b.rank else None,
        flips=None,
    )


def _merged(method: _Bound, stack: Stack, exact: Any) -> _Merge | OperandError:
    error = method.method.check(stack)
    if isinstance(error, OperandError):
        return error
    value = method.method.function(stack, **method.options)
    return _Merge(value.norm(), value.inner(exact), value.distance(exact))


# -------------------------------------------------------------------------------------- in total


def _total(pairs: Iterable[Pair]) -> Pair:
    parts = list(pairs)
    return Pair(
        math.hypot(*(pair.norm_a for pair in parts)),
        math.hypot(*(pair.norm_b for pair in parts)),
        math.fsum(pair.inner for pair in parts),
        math.hypot(*(pair.distance for pair in parts)),
    )


def _pooled(angles: Iterable[Angles | None]) -> Angles | None:
    """The angles of several pairs of spaces as if they were one list."""
    parts = [part for part in angles if part is not None]
    count = sum(part.count for part in parts)
    if count == 0:
        return None
    return Angles(
        math.fsum(part.mean * part.count for part in parts) / count,
        max(part.largest for part in parts),
        math.fsum(part.similarity * part.count for part in parts) / count,
        count,
    )


def _combination(
    index: int, looks: Sequence[_Found], sites: Sequence[str], names: tuple[str, str], delta: Pair
) -> Combination:
    text, weights = COMBINATIONS[index]
    norm = math.hypot(*(look.exact[index] for look in looks))
    size = abs(weights[0]) * delta.norm_a + abs(weights[1]) * delta.norm_b
    if norm <= ROUNDOFF * size:
        norm = 0.0
    outcomes = []
    for position, method in enumerate(METHODS):
        merges = [look.merges[index][position] for look in looks]
        refused = {s: m for s, m in zip(sites, merges, strict=True) if isinstance(m, OperandError)}
        if refused:
            reason = next(iter(refused.values())).what
            remark = f"refused: {reason} ({len(refused)} site(s): {listing(list(refused), 2)})"
            outcomes.append(Outcome(method, None, None, remark))
        else:
            done = [merge for merge in merges if isinstance(merge, _Merge)]
            outcomes.append(_outcome(method, done, norm, size))
    crossed = [look.flips[index] for look in looks if look.flips is not None]
    return Combination(
        text.format(a=names[0], b=names[1]),
        norm,
        sum(crossed) if crossed else None,
        tuple(outcomes),
    )


def _outcome(method: str, merges: Sequence[_Merge], norm: float, size: float) -> Outcome:
    left = math.hypot(*(merge.norm for merge in merges))
    deviation = math.hypot(*(merge.deviation for merge in merges))
    if not (math.isfinite(left) and math.isfinite(deviation)):
        return Outcome(method, None, None, "the result overflows")
    if norm == 0.0:
        what = "so is this" if left <= ROUNDOFF * size else f"this has norm {left:.4g}"
        return Outcome(method, None, None, f"the exact result is zero, {what}")
    error = 0.0 if deviation <= ROUNDOFF * size else deviation / norm
    return Outcome(method, error, math.fsum(merge.inner / norm for merge in merges) / norm)


def _initialisation(
    adapters: tuple[Adapter, Adapter], sites: Mapping[str, SiteComparison], mean: Combination
) -> Initialisation:
    consequence = _consequence(mean)
    first = {name: v for name, v in adapters[0].sites.items() if isinstance(v, Lora)}
    # An embedding's A starts at zero: its B is what is drawn.
    drawn = [name for name in sites if first[name].geometry.layout != "embedding"]
    pairs = {n: p for n in drawn if (p := sites[n].factor_a) and p.cosine is not None}
    if not pairs:
        reason = "ranks differ" if drawn else "no site in common whose A is drawn at random"
        return Initialisation("unknown", f"cannot tell ({reason})", consequence, None, None)
    shared = [pair for name, pair in pairs.items() if _is_shared(pair, first[name])]
    total = _total(shared or pairs.values())
    drift, cosine = total.drift, total.cosine
    part = "" if len(pairs) == len(drawn) else f" at the {len(pairs)} site(s) of equal rank"
    verdict: Verdict
    if not shared:
        verdict, text = "independent", f"independent initialisations{part}"
    elif len(shared) < len(pairs):
        verdict = "mixed"
        text = (
            f"same initialisation at {len(shared)} of {len(pairs)} sites "
            f"(A drifted by {100 * drift:.3g} % there)"
        )
    elif total.distance == 0.0:
        verdict, text = "identical", f"identical A{part}"
    else:
        verdict, text = "same", f"same initialisation{part} (A drifted by {100 * drift:.3g} %)"
    return Initialisation(verdict, text, consequence, drift, cosine)


def _is_shared(pair: Pair, value: Lora) -> bool:
    elements = sum(block.rank * block.shape[1] for block in value.blocks)
    needed = min(0.9, max(_SAME_COSINE, 5 / math.sqrt(elements)))
    return pair.cosine is not None and pair.cosine > needed


def _consequence(mean: Combination) -> str:
    outcome = mean.outcomes[METHODS.index("paper")]
    if outcome.error is None:
        return f"paper arithmetic of `{mean.expression}`: {outcome.remark}"
    if outcome.error < 1e-6:
        return (
            "paper arithmetic is exact for weights whose absolute values sum to one, "
            "and with normalize=true for any weights"
        )
    off = f"it misses `{mean.expression}` by {percent(outcome.error)}"
    return f"paper arithmetic is not exact: {off}"
