"""A task vector: the dense change of every parameter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pemath.composition.certificate import Certificate
from pemath.conversion._beside import Beside, changes_of
from pemath.conversion._deltas import Delta, of_full, opened
from pemath.conversion._registry import Outcome, target
from pemath.conversion._source import Source
from pemath.conversion._streaming import certified, write_delta
from pemath.errors import RequestError
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import BY_NAME, FloatType
from pemath.formats.peft import PREFIX, write_json
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.kinds._difference import difference
from pemath.names import listing
from pemath.references import CONFIG, WEIGHTS
from pemath.threads import Progress


@target(summary="a task vector: the dense change of each parameter, of an adapter or a checkpoint")
def full(
    source: Source,
    out: Path,
    *,
    base_weights: Checkpoint | None = None,
    dtype: str | None = None,
    base_model: str | None = None,
) -> Outcome:
    """θ_finetuned - θ_base for every parameter that changes (Ilharco et al. 2023).

    An adapter's change is computed from its factors, and from the base weights where it depends on
    them; a checkpoint's is its difference from them. float32 unless `dtype` says otherwise: what is
    lost by rounding is in the certificate. Parameters that only the checkpoint has, or has in
    another shape, are kept whole as heads.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    kind = BY_NAME[dtype or "float32"]
    if source.is_adapter:
        adapter = opened(source, base_weights)
        heads, name, notes = Beside.of(adapter), adapter.kind.name, list[str]()
        changes, beside = changes_of(adapter, heads, base_weights), heads.named()
        config = {
            "base_model_name_or_path": base_model or adapter.folder.base_model,
            "task_type": adapter.folder.config.get("task_type"),
        }
    else:
        name = "checkpoint"
        changes, beside, notes = _of_checkpoint(source, base_weights)
        model = str(base_weights.path) if base_weights else None
        config = {"base_model_name_or_path": base_model or model, "task_type": None}
    if not changes:
        raise RequestError(
            "nothing has changed but whole modules", found=listing(beside.saved or [])
        )
    certificate = _write(out, changes, beside, kind, progress=source.progress)
    write_json(out / CONFIG, {**config, "peft_type": "FULL", "modules_to_save": beside.saved})
    return Outcome(name, certificate, notes=[*notes, *beside.notes], facts={"dtype": kind.name})


def _of_checkpoint(
    source: Source, base: Checkpoint | None
) -> tuple[dict[str, Delta], Beside, list[str]]:
    """What changed, what is kept whole, and what is to be said of it."""
    if base is None:
        raise RequestError(
            "the change of a checkpoint is its difference from the base weights",
            hint="add --base-weights FOLDER",
        )
    tuned = Checkpoint.open(source.path)
    found = difference(tuned, base)
    whole = [*found.new, *found.resized]
    modules = {name.rpartition(".")[0] for name in whole}
    # A module is a head or it is not: what else changed in it is kept whole too.
    heads = [name for name in tuned.shards if name.rpartition(".")[0] in modules]
    changes = {n: of_full(n, value) for n, value in found.changed.items() if n not in heads}
    notes = [f"{found.same} parameters are the same in both checkpoints and left out"]
    for what, names in (
        ("only in the fine-tuned checkpoint, kept whole in modules_to_save", found.new),
        ("of another shape in the base, kept whole in modules_to_save", found.resized),
        ("only in the base, and left out", found.gone),
    ):
        if names:
            notes.append(f"{len(names)} {what}: {listing(names)}")
    return changes, Beside.kept(tuned, heads), notes


def _write(
    out: Path,
    changes: Mapping[str, Delta],
    beside: Beside,
    dtype: FloatType,
    *,
    progress: Progress,
) -> Certificate:
    specs = [Spec(PREFIX + name, dtype.code, delta.shape) for name, delta in changes.items()]
    writer = TensorWriter(out / WEIGHTS, [*specs, *beside.specs()], {"format": "pt"})
    try:
        beside.write(writer)
        certificate = certified(
            changes,
            lambda name: write_delta(writer, PREFIX + name, changes[name], dtype),
            progress,
        )
        writer.close()
    finally:
        writer.abandon()
    return certificate
