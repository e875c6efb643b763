"""PEFT's folders, from files in other layouts."""

from __future__ import annotations

from pathlib import Path

from pemath.conversion._parts import check_finite, file_of, folders_in, open_checked
from pemath.conversion._registry import Outcome, target
from pemath.conversion._source import Source
from pemath.errors import RequestError
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.peft import write_json
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.names import display, listing
from pemath.references import CONFIG, WEIGHTS


@target(summary="a PEFT folder, from a file in kohya's or diffusers' layout")
def peft(
    source: Source,
    out: Path,
    *,
    component: str | None = None,
    base_weights: Checkpoint | None = None,
    base_model: str | None = None,
) -> Outcome:
    """One component of the file as a PEFT folder: names and places change, no byte of a factor.

    Ranks and alphas go into the config, as patterns where they differ. `component` is needed where
    the file has several; `base_weights` says the names of modules where the file has kohya's.
    `base_model` is the name to write. The file's own metadata is not kept.
    Raises: UsageError, InputError.
    """
    path = file_of(source)
    if path is None:
        raise RequestError(
            "the source is no single file",
            where=display(source.path),
            expected="a file in kohya's or diffusers' layout",
            hint="a folder of PEFT needs no conversion" if source.is_adapter else None,
        )
    folders = folders_in(path, component, base_weights)
    if len(folders) > 1:
        raise RequestError(
            "the file has several parts, and a PEFT folder holds one",
            where=display(path),
            found=listing(list(folders)),
            hint="choose one with --component, and convert once for each",
        )
    ((name, folder),) = folders.items()
    adapter = open_checked(folder)
    check_finite(adapter)
    tensors = folder.tensors
    specs = [Spec(tensor, e.dtype, e.shape) for tensor, e in tensors.entries.items()]
    writer = TensorWriter(out / WEIGHTS, specs, {"format": "pt"})
    try:
        for tensor in tensors.entries:
            writer.write(tensor, tensors.raw_bytes(tensor))
        writer.close()
    finally:
        writer.abandon()
    named = {"base_model_name_or_path": base_model} if base_model else {}
    write_json(out / CONFIG, {**folder.config, **named})
    foreign = len(tensors.metadata.keys() - {"format"})
    notes = [f"{foreign} entries of the file's own metadata are not kept"] if foreign else []
    if folder.config.get("rank_pattern") or folder.config.get("alpha_pattern"):
        notes.append(
            "ranks or alphas differ between sites: the config has patterns, which servers ignore; "
            "`pemath compose` folds them in"
        )
    return Outcome(
        kind=adapter.kind.name,
        notes=notes,
        facts={"part": name, "sites": str(len(adapter.sites))},
    )
