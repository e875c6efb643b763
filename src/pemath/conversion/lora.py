"""A plain LoRA of whatever changes weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pemath.composition.card import config_of
from pemath.composition.certificate import Certificate, SiteReport
from pemath.composition.plan import make_plan
from pemath.composition.request import ComposeRequest
from pemath.composition.stream import stream
from pemath.conversion._beside import Beside
from pemath.conversion._compress import Limit, compressed
from pemath.conversion._deltas import Delta, deltas, low_rank_rows, of_full, opened
from pemath.conversion._registry import Outcome, target
from pemath.conversion._selection import selected, turned
from pemath.conversion._source import Source
from pemath.conversion._streaming import certified, measured, norm
from pemath.errors import RequestError, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import BY_NAME, FloatType, Stored, narrow
from pemath.formats.peft import PeftFolder, write_json
from pemath.formats.safetensors import TensorFile, TensorWriter
from pemath.kinds import Adapter
from pemath.kinds._difference import difference
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import KIND, Lora, LoraFolders
from pemath.lowrank import LowRank, Part
from pemath.names import display, listing
from pemath.references import CONFIG, WEIGHTS
from pemath.threads import Progress

_FOLDERS = LoraFolders()
_MEASURED = "brought to low rank by a randomised decomposition; the error is measured row by row"


@dataclass(frozen=True, eq=False)
class _Parts:
    """What a dense source gives: the changes that become a LoRA, by module, those of biases, what
    is kept whole and what is left out.
    """

    kind: str
    sites: Mapping[str, Delta]
    beside: Beside
    config: Mapping[str, Any]
    tensors: TensorFile
    dtype: FloatType
    biases: Mapping[str, Delta] = field(default_factory=dict)
    left: Mapping[str, Delta] = field(default_factory=dict)
    notes: Sequence[str] = ()


@target(summary="a plain LoRA in PEFT's layout, of any adapter or of a fine-tuned checkpoint")
def lora(
    source: Source,
    out: Path,
    *,
    base_weights: Checkpoint | None = None,
    rank: int | None = None,
    max_error: float | None = None,
    dtype: str | None = None,
    target_modules: Sequence[str] = (),
    base_model: str | None = None,
) -> Outcome:
    """The change of each weight as B A.

    What has low rank by its kind is computed from its factors, without loss unless `rank` or
    `max_error` says otherwise. What has not (DoRA, (IA)³, full deltas, the difference of a
    fine-tuned checkpoint and `base_weights`) is brought to `rank`, or to the smallest rank within
    `max_error`, by a randomised singular value decomposition; the error is measured row by row.
    Of whole models, embeddings, heads, norms and biases are left out unless `target_modules` names
    them.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    adapter = opened(source, base_weights) if source.is_adapter else None
    is_model = adapter is None or any(isinstance(v, FullDelta) for v in adapter.sites.values())
    if target_modules and not is_model:
        raise RequestError("--target-modules is for whole models: an adapter has its own")
    if adapter is not None and adapter.kind is KIND:
        request = ComposeRequest(
            expression="source",
            operands={"source": source.reference},
            rank=rank,
            max_error=max_error,
            dtype=dtype,
            base_model=base_model,
        )
        return _from_factors(request, out, adapter.folder.peft_type.lower(), source.progress)
    if adapter is None:
        parts = _of_checkpoint(source, base_weights, target_modules)
    elif is_model:
        parts = _of_full(adapter, base_weights, target_modules)
    else:
        parts = _of_adapter(adapter, base_weights)
    if rank is None and max_error is None:
        raise RequestError(
            f"the change of kind {parts.kind} has no low rank of its own",
            hint="give --rank, or --max-error for the smallest rank that keeps to it",
        )
    limit = Limit(BY_NAME[dtype] if dtype else parts.dtype, rank, max_error)
    named = {"base_model_name_or_path": base_model} if base_model else {}
    certificate = _write(out, parts, limit, {**parts.config, **named}, progress=source.progress)
    return Outcome(
        parts.kind,
        certificate,
        left_out={name: norm(delta) for name, delta in parts.left.items()},
        notes=[*parts.notes, *parts.beside.notes, _MEASURED],
        facts={"dtype": limit.dtype.name},
    )


def _from_factors(request: ComposeRequest, out: Path, kind: str, progress: Progress) -> Outcome:
    """What `compose` makes of the adapter alone."""
    plan = make_plan(request)
    written = stream(plan, out, progress)
    write_json(out / CONFIG, config_of(plan, written.ranks))
    facts = {"dtype": plan.dtype.name}
    return Outcome(kind, written.certificate, notes=plan.notes, facts=facts)


def _of_adapter(adapter: Adapter, base: Checkpoint | None) -> _Parts:
    changes = deltas(adapter, base)
    biases = {n: d for n, d in changes.items() if n.endswith(".bias")}
    sites = {_site(name): delta for name, delta in changes.items() if name not in biases}
    beside = Beside.of(adapter)
    stated = adapter.folder.config
    config = {
        "base_model_name_or_path": adapter.folder.base_model,
        "task_type": stated.get("task_type") if beside.saved else None,
        "target_modules": stated.get("target_modules"),
    }
    return _Parts(
        adapter.kind.name,
        sites,
        beside,
        config,
        adapter.folder.tensors,
        adapter.dtype,
        {name.removesuffix(".bias"): delta for name, delta in biases.items()},
    )


def _of_full(adapter: Adapter, base: Checkpoint | None, target_modules: Sequence[str]) -> _Parts:
    changes = deltas(adapter, base)
    sites, left = selected(turned(changes, base), target_modules)
    beside = Beside.of(adapter)
    stated = adapter.folder.config
    config = {
        "base_model_name_or_path": adapter.folder.base_model,
        "task_type": stated.get("task_type") if beside.saved else None,
    }
    tensors = adapter.folder.tensors
    return _Parts("full", sites, beside, config, tensors, adapter.dtype, left=left)


def _of_checkpoint(
    source: Source, base: Checkpoint | None, target_modules: Sequence[str]
) -> _Parts:
    if source.path.is_file():
        raise RequestError(
            "a single file of another tool is first made a folder",
            where=display(source.path),
            hint="`pemath convert FILE --to peft`, then that folder `--to lora`",
        )
    if base is None:
        raise RequestError(
            "a LoRA of a checkpoint is made of its difference from the base weights",
            where=display(source.path),
            hint="add --base-weights FOLDER",
        )
    tuned = Checkpoint.open(source.path)
    found = difference(tuned, base)
    changes = {name: of_full(name, value) for name, value in found.changed.items()}
    sites, left = selected(turned(changes, tuned, base), target_modules)
    beside = Beside.kept(tuned, [*found.new, *found.resized])
    notes = []
    if beside.whole:
        notes.append(f"kept whole in modules_to_save: {listing([*beside.whole])}")
    if found.gone:
        notes.append(f"only in the base: {listing(found.gone)}")
    config = {"base_model_name_or_path": str(base.path), "target_modules": _endings(sites, tuned)}
    first = next(iter(tuned.files.values()))
    single = BY_NAME["float32"]
    return _Parts("checkpoint", sites, beside, config, first, single, left=left, notes=notes)


def _write(
    out: Path, parts: _Parts, limit: Limit, config: Mapping[str, Any], *, progress: Progress
) -> Certificate:
    """Compress and write all sites at one rank. The rounded factors are held until all are known."""
    values: dict[str, Lora] = {}

    def one(site: str) -> SiteReport:
        delta = parts.sites[site]
        block, report = compressed(delta, limit)
        bias = _bias(parts.biases.get(site), limit.dtype)
        assert delta.geometry is not None  # noqa: S101 - every one that comes here has one
        values[site] = Lora(delta.geometry, (block,), bias and bias[0])
        return report if bias is None else _both(report, bias[1])

    certificate = certified(parts.sites, one, progress)
    values = _FOLDERS.unify({site: values[site] for site in parts.sites})
    rank = max(1, *(value.rank for value in values.values()))
    specs = _FOLDERS.layout(values, dict.fromkeys(values, rank), limit.dtype)
    writer = TensorWriter(out / WEIGHTS, [*specs, *parts.beside.specs()], {"format": "pt"})
    try:
        for site, value in values.items():
            for name, offset, data in _FOLDERS.store(site, value, rank, limit.dtype).pieces:
                writer.write(name, data, offset)
        parts.beside.write(writer)
        writer.close()
    finally:
        writer.abandon()
    folder = PeftFolder(out, config, parts.tensors)
    described = Adapter(folder, KIND, {}, {}, limit.dtype)
    flipped = any(
        delta.transposed and delta.geometry is not None and delta.geometry.layout == "linear"
        for delta in parts.sites.values()
    )
    write_json(
        out / CONFIG,
        {
            **_FOLDERS.config([described], values, dict.fromkeys(values, rank)),
            "peft_type": "LORA",
            "fan_in_fan_out": flipped,
            "modules_to_save": parts.beside.saved,
            "bias": parts.beside.bias,
        },
    )
    return certificate


def _bias(delta: Delta | None, dtype: FloatType) -> tuple[LowRank, SiteReport] | None:
    """The change of a bias as a column, rounded to `dtype`, and its report."""
    if delta is None:
        return None
    column = np.concatenate([rows for _, rows in delta.blocks()])
    kept = Stored(narrow(column, dtype), dtype)
    value = LowRank((len(column), 1), (Part(Stored.of(np.ones((1, 1))), kept),))
    return value, measured(delta, low_rank_rows(value, transposed=False))


def _both(weight: SiteReport, bias: SiteReport) -> SiteReport:
    size = math.hypot(weight.norm or 0.0, bias.norm or 0.0)
    return SiteReport(weight.rank, math.hypot(weight.deviation, bias.deviation), size)


def _site(parameter: str) -> str:
    if not parameter.endswith(".weight"):
        raise UnsupportedFeature(f"`{display(parameter)}` has no form as a LoRA in PEFT's layout")
    return parameter.removesuffix(".weight")


def _endings(sites: Mapping[str, Delta], tuned: Checkpoint) -> list[str] | None:
    """The sites' last names, where no other module of the model is called so."""
    names = {site.rpartition(".")[2] for site in sites}
    for tensor in tuned.shards:
        module = tensor.rpartition(".")[0]
        if module not in sites and module.rpartition(".")[2] in names:
            return None
    return sorted(names)
