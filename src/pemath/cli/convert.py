"""`pemath convert`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_facts, show_json, show_table, span_text
from pemath.composition.certificate import percent
from pemath.composition.request import parse_error_bound
from pemath.errors import RequestError
from pemath.names import display
from pemath.threads import keep_freed_memory

if TYPE_CHECKING:
    from pemath.conversion.run import Conversion


def convert(
    source: str | None = None,
    /,
    *,
    to: str | None = None,
    out: Path | None = None,
    base_weights: str | None = None,
    base_gguf: Path | None = None,
    rank: int | None = None,
    max_error: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None,
    target_modules: tuple[str, ...] = (),
    component: str | None = None,
    base_model: str | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Convert an adapter or a checkpoint to another form; without --to, list the forms.

    Parameters
    ----------
    source
        An adapter (a folder, folder:subfolder, example:NAME or user/repo@revision), the folder of a
        fine-tuned checkpoint, or a LoRA file of another tool.
    to
        The form: lora, full, checkpoint and others; `pemath convert` lists them.
    out
        The folder or file to write. An existing one is replaced only with --force.
    base_weights
        The folder of the base model's safetensors, where the conversion needs them.
    base_gguf
        The base model's GGUF file, for --to gguf.
    rank
        The rank of the LoRA that is written.
    max_error
        The smallest rank that keeps every site this close, for example 1%.
    dtype
        The type to store.
    target_modules
        Which weights of a checkpoint to take, by the ends of their modules' names; any number.
    component
        The part of a pipeline: unet, transformer, text_encoder, text_encoder_2.
    base_model
        The base model's name to write.
    force
        Replace what is there.
    json
        Print JSON, errors included.
    """
    from pemath.conversion import targets
    from pemath.conversion.run import convert as run

    if source is None and to is None:
        _show_targets(as_json=json)
        return
    if source is None or to is None or out is None:
        missing = "source" if source is None else "--to" if to is None else "--out"
        raise RequestError(
            f"{missing} is not given",
            expected=f"pemath convert SOURCE --to {to or '|'.join(targets())} --out OUT",
        )
    keep_freed_memory()
    line = ProgressLine()
    try:
        done = run(
            source,
            to,
            out,
            force=force,
            progress=line,
            base_weights=base_weights,
            base_gguf=base_gguf,
            rank=rank,
            max_error=parse_error_bound(max_error) if max_error is not None else None,
            dtype=dtype,
            target_modules=target_modules,
            component=component,
            base_model=base_model,
        )
    finally:
        line.close()
    _show(source, done, as_json=json)


def _show_targets(*, as_json: bool) -> None:
    from pemath.conversion import targets

    if as_json:
        show_json(
            {
                "targets": [
                    {
                        "name": t.name,
                        "summary": t.summary,
                        "output": t.output,
                        "options": [*t.options],
                    }
                    for t in targets().values()
                ]
            }
        )
        return
    rows = [
        (t.name, t.summary, " ".join(f"--{name.replace('_', '-')}" for name in t.options))
        for t in targets().values()
    ]
    show_table("Targets of convert", ["--to", "what is written", "options"], rows, text_columns=3)


def _show(source: str, done: Conversion, *, as_json: bool) -> None:
    outcome, certificate = done.outcome, done.outcome.certificate
    if as_json:
        show_json(
            {
                "source": source,
                "to": done.target.name,
                "out": str(done.path),
                "kind": outcome.kind,
                "facts": dict(outcome.facts),
                "notes": list(outcome.notes),
                "left_out": {
                    n: x if math.isfinite(x) else None for n, x in outcome.left_out.items()
                },
                "certificate": certificate.as_dict() if certificate else None,
            }
        )
        return
    facts = [("from", outcome.kind), *outcome.facts.items()]
    if certificate is not None and certificate.sites:
        ranks = [site.rank for site in certificate.sites.values()]
        worst = certificate.sites[certificate.worst]
        error = percent(certificate.error)
        if error != "exact":
            error += f"; worst site {percent(worst.error)}: {display(certificate.worst)}"
        facts += [
            ("sites", str(len(certificate.sites))),
            ("rank", span_text(ranks)),
            ("error", error),
        ]
    if outcome.left_out:
        facts.append(
            ("left out", _left_out(outcome.left_out, certificate.norm if certificate else None))
        )
    show_facts(
        f"{display(source)} → {display(done.path)}",
        [*facts, *(("note", note) for note in outcome.notes)],
    )


def _left_out(left_out: Mapping[str, float], norm: float | None) -> str:
    names = ", ".join(display(name, 60) for name in [*left_out][:6])
    more = f" and {len(left_out) - 6} more" if len(left_out) > 6 else ""
    lost = math.hypot(*left_out.values())
    if norm is None or not math.isfinite(lost):
        return names + more
    total = math.hypot(norm, lost)
    return f"{percent(lost / total) if total else '0'} of the change's norm: {names}{more}"
