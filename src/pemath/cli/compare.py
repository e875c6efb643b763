"""`pemath compare`."""

from __future__ import annotations

from pemath.cli._bindings import bindings
from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_facts, show_json, show_table
from pemath.composition.certificate import percent
from pemath.diagnose.compare import compare as look
from pemath.diagnose.comparison import Angles, Comparison, Outcome
from pemath.errors import RequestError
from pemath.expression.tree import Operand
from pemath.names import display
from pemath.threads import keep_freed_memory


def compare(
    *adapters: str,
    sites: Flag = False,
    json: Flag = False,
) -> None:
    """Say how two adapters relate, and what each arithmetic would do to them.

    Parameters
    ----------
    adapters
        Two references, or bindings NAME=REFERENCE.
    sites
        List every site.
    json
        Print JSON, errors included.
    """
    if len(adapters) != 2:
        raise RequestError(
            "two adapters are compared", found=f"{len(adapters)} given", expected="A B, or a=A b=B"
        )
    bound = [
        Operand(reference, name)
        for word, fallback in zip(adapters, "ab", strict=True)
        for name, reference in bindings((word,), fallback).items()
    ]
    keep_freed_memory()
    line = ProgressLine()
    try:
        found = look(*bound, progress=line)
    finally:
        line.close()
    if json:
        show_json(found.as_dict())
        return
    show_comparison(found)
    if sites:
        print()
        _show_sites(found)


def show_comparison(found: Comparison) -> None:
    """How two adapters relate, and the table of what each arithmetic makes of them."""
    delta, start = found.delta, found.initialisation
    facts = [
        ("a", display(found.references[0])),
        ("b", display(found.references[1])),
        ("sites", f"{len(found.sites)} shared" + _only(found)),
        (
            "norms",
            f"{delta.norm_a:.4g} and {delta.norm_b:.4g}, ratio {_number(delta.relative_norm)}",
        ),
        ("cosine", f"{_number(delta.cosine)} between the updates"),
        ("A spaces", _angles(found.rows)),
        ("B spaces", _angles(found.columns)),
    ]
    if start is not None:
        facts += [("initial A", start.text), ("", start.consequence)]
    if found.flips is not None and any(found.flips):
        facts.append(("l ≤ 0", f"{found.flips[0]} and {found.flips[1]} entries flip or silence"))
    facts += [("note", note) for note in found.notes]
    show_facts(f"{display(found.a)} and {display(found.b)}, {found.kind}", facts)
    print()
    methods = [outcome.method for outcome in found.combinations[0].outcomes]
    show_table(
        "Distance to the exact result (× is the projection on it: × 1 keeps its size)",
        ["combination", "exact norm", *methods],
        [
            (c.expression, f"{c.norm:.4g}", *(_outcome(outcome) for outcome in c.outcomes))
            for c in found.combinations
        ],
    )


def _show_sites(found: Comparison) -> None:
    show_table(
        "Sites",
        ["site", "|a|", "|b|", "cosine", "A angle", "B angle"],
        [
            (
                display(name),
                f"{site.delta.norm_a:.4g}",
                f"{site.delta.norm_b:.4g}",
                _number(site.delta.cosine),
                f"{site.rows.mean:.1f}°" if site.rows else "",
                f"{site.columns.mean:.1f}°" if site.columns else "",
            )
            for name, site in found.sites.items()
        ],
    )


def _outcome(outcome: Outcome) -> str:
    if outcome.error is None or outcome.projection is None:
        return outcome.remark or ""
    return f"{percent(outcome.error)}, × {outcome.projection:.3g}"


def _angles(angles: Angles | None) -> str:
    if angles is None:
        return ""
    return (
        f"{angles.mean:.1f}° apart on average, at most {angles.largest:.1f}° "
        f"(similarity {angles.similarity:.3g})"
    )


def _only(found: Comparison) -> str:
    parts = [
        f", {len(sites)} only in {display(name, 40)}"
        for name, sites in ((found.a, found.only_a), (found.b, found.only_b))
        if sites
    ]
    return "".join(parts)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"
