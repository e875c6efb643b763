"""`pemath compose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pemath.cli._bindings import bindings
from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_facts, show_json, size_text, span_text
from pemath.composition.certificate import percent
from pemath.composition.request import ComposeRequest, parse_error_bound, read_request
from pemath.composition.run import Composition, run
from pemath.errors import RequestError
from pemath.formats.commit import check_target
from pemath.names import display
from pemath.references import WEIGHTS
from pemath.threads import keep_freed_memory

if TYPE_CHECKING:
    from pemath.composition.plan import Plan


def compose(
    expression: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *operands: str,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    rank: int | None = None,
    max_error: str | None = None,
    arithmetic: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None,
    heads: str | None = None,
    profile: Literal["portable", "compact"] | None = None,
    base_model: str | None = None,
    base_weights: str | None = None,
    statistics: tuple[str, ...] = (),
    config: Path | None = None,
    dry_run: Flag = False,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Evaluate an expression over adapters and write the result as an adapter folder.

    Parameters
    ----------
    expression
        For example "0.5*a + 0.5*b". Operators: + - * /, parentheses, method calls such as
        paper(a, b, weights=[0.5, 0.5]). Operands are bound names or quoted references.
    operands
        Bindings NAME=REFERENCE. A reference is a folder, folder:subfolder, example:NAME or
        user/repo@revision:subfolder.
    out
        The folder to write. An existing one is replaced only with --force.
    rank
        Truncate to at most this rank; without it nothing is lost.
    max_error
        The smallest rank that keeps every site this close to the exact sum, for example 1%.
    arithmetic
        exact (default), or a method for the whole expression: paper, "paper(normalize=true)", …
    dtype
        The type to store; without it the operands' own.
    heads
        average, drop, or the operand whose heads (modules_to_save) to take.
    profile
        portable (default): one rank, alpha = r, no patterns. compact: a rank for each site.
    base_model
        The base model's name to write, where the operands name different ones.
    base_weights
        The folder of the base model's safetensors, for kinds whose update depends on them (DoRA).
    statistics
        NAME=FILE, any number: what regmean and fisher need to know about an operand, where it is
        not statistics.safetensors in its folder.
    config
        A YAML file with the same request; options given here win.
    dry_run
        Print what would be done, without reading a tensor, and stop.
    force
        Replace an existing adapter folder.
    json
        Print JSON, errors included.
    """
    fields: dict[str, Any] = read_request(config) if config else {}
    written = fields.pop("out", None)
    target = out if out is not None else written
    replace = bool(fields.pop("force", False)) or force
    if rank is not None or max_error is not None:
        fields.pop("rank", None)
        fields.pop("max_error", None)
    given = {
        "expression": expression,
        "rank": rank,
        "max_error": parse_error_bound(max_error) if max_error is not None else None,
        "arithmetic": arithmetic,
        "dtype": dtype,
        "heads": heads,
        "profile": profile,
        "base_model": base_model,
        "base_weights": base_weights,
    }
    fields |= {name: value for name, value in given.items() if value is not None}
    fields["operands"] = {**fields.get("operands", {}), **bindings(operands)}
    fields["statistics"] = {**fields.get("statistics", {}), **bindings(statistics)}
    if "expression" not in fields:
        raise RequestError(
            "no expression is given", hint='for example: pemath compose "a + b" a=A b=B --out C'
        )
    request = ComposeRequest(**fields)
    if target is None and not dry_run:
        raise RequestError("no output is given", hint="add --out FOLDER, or --dry-run")
    if dry_run:
        if target is not None:
            check_target(Path(target), force=replace)
        from pemath.composition.plan import make_plan

        _show_plan(make_plan(request), target, as_json=json)
        return
    keep_freed_memory()
    line = ProgressLine()
    try:
        done = run(request, Path(str(target)), force=replace, progress=line)
    finally:
        line.close()
    show_composition(done, as_json=json)


def show_composition(done: Composition, *, as_json: bool) -> None:
    """What was written, and its certificate."""
    certificate, plan = done.certificate, done.plan
    worst = certificate.sites[certificate.worst]
    if as_json:
        certified = certificate.as_dict()
        show_json(
            {
                "folder": str(done.folder),
                "kind": plan.kind.name,
                "dtype": plan.dtype.name,
                "base_model": plan.base_model,
                "notes": list(plan.notes),
                "certificate": certified,
            }
        )
        return
    size = (done.folder / WEIGHTS).stat().st_size
    error = percent(certificate.error)
    if error != "exact":
        error += (
            f" from the exact sum; worst site {percent(worst.error)}: {display(certificate.worst)}"
        )
    else:
        error = "none: the stored result is the exact sum"
    left_out = certificate.left_out
    lost = (
        f"{percent(left_out)} of what the method made, for which this rank has no room (estimate)"
    )
    show_facts(
        f"{display(plan.request.expression)} → {display(done.folder)}",
        [
            *_what(plan),
            ("rank", span_text([site.rank for site in certificate.sites.values()])),
            ("size", size_text(size)),
            *(("note", note) for note in plan.notes),
            ("error", error),
            ("left out", lost if left_out else ""),
        ],
    )


def _show_plan(plan: Plan, target: Path | str | None, *, as_json: bool) -> None:
    from pemath.composition.ranks import largest_rank

    sources = {
        plan.names[op]: {
            "reference": op.reference,
            "sites": len(adapter.sites),
            "dtype": adapter.dtype.name,
        }
        for op, adapter in plan.adapters.items()
    }
    rank = largest_rank(plan)
    facts = {
        "expression": str(plan.expression),
        "operands": sources,
        "kind": plan.kind.name,
        "sites": len(plan.exact),
        "dtype": plan.dtype.name,
        "base_model": plan.base_model,
        "largest_rank": rank,
        "max_error": plan.request.max_error,
        "out": None if target is None else str(target),
        "notes": list(plan.notes),
    }
    if as_json:
        show_json(facts)
        return
    limit = f"at most {rank}" if rank else ""
    bound = plan.request.max_error
    show_facts(
        f"would compose {display(plan.expression)}",
        [
            *(
                (name, f"{display(f['reference'])} ({f['sites']} sites, {f['dtype']})")
                for name, f in sources.items()
            ),
            *_what(plan),
            ("rank", limit),
            ("error", f"at most {percent(bound)} at every site" if bound is not None else ""),
            ("out", display(target) if target is not None else ""),
            *(("note", note) for note in plan.notes),
        ],
    )


def _what(plan: Plan) -> list[tuple[str, str]]:
    return [
        ("kind", f"{plan.kind.name}, {len(plan.exact)} sites, {plan.dtype.name}"),
        ("base", display(plan.base_model) if plan.base_model else ""),
    ]
