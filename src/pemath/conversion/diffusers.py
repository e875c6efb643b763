"""diffusers' layout."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pemath.composition.certificate import Certificate, SiteReport
from pemath.conversion._parts import factors, parts_of, public_name
from pemath.conversion._registry import Outcome, target
from pemath.conversion._source import Source
from pemath.errors import LayoutError, OutOfRange
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import BY_NAME
from pemath.formats.peft import module_name
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.kinds.lora import LoraFolders
from pemath.names import display
from pemath.threads import one_blas_thread


@target(summary="one LoRA file in diffusers' layout, for `load_lora_weights`", output="file")
def diffusers(
    source: Source,
    out: Path,
    *,
    component: str | None = None,
    base_weights: Checkpoint | None = None,
    dtype: str | None = None,
) -> Outcome:
    """One safetensors file with names such as `unet.….to_q.lora_A.weight`.

    The scale goes into B and alpha is the rank, since only some readers look for an alpha in the
    header: this is exact where the scale is a power of two, and otherwise rounds B to the stored
    type, which the certificate says. `component` says what a PEFT folder belongs to, or which part
    of a file to take; `base_weights` says the names of modules where the source has kohya's.
    Raises: UsageError, InputError, KindMismatch, OutOfRange.
    """
    parts = parts_of(source, component, base_weights)
    layout, specs = LoraFolders(), []
    kinds = {name: BY_NAME[dtype] if dtype else part.adapter.dtype for name, part in parts.items()}
    for name, part in parts.items():
        part.refuse_non_finite()
        for site, value in part.values.items():
            factors(site, value)  # refuses what has no place
            spelled = public_name(name, site)
            if spelled != site and spelled in part.values:
                raise LayoutError(
                    f"two sites are called `{display(spelled)}` in diffusers' layout",
                    where=display(part.adapter.folder.path),
                    found=f"`{display(site)}` and another",
                )
        ranks = {site: value.rank for site, value in part.values.items()}
        specs += [
            Spec(_tensor(name, spec.name), spec.dtype, spec.shape)
            for spec in layout.layout(part.values, ranks, kinds[name])
        ]
    reports: dict[str, SiteReport] = {}
    writer = TensorWriter(out, specs, {"format": "pt"})
    try:
        with one_blas_thread(), np.errstate(all="ignore"):
            for name, part in parts.items():
                for site, value in part.values.items():
                    stored = layout.store(site, value, value.rank, kinds[name])
                    deviation, norm = stored.value.gap(value)
                    if not math.isfinite(deviation):
                        raise OutOfRange(
                            f"the result does not fit into {kinds[name].name}",
                            where=f"site `{display(site)}`",
                            hint="choose a wider type with --dtype",
                        )
                    norm = norm if math.isfinite(norm) else value.norm()
                    reports[f"{name}.{site}"] = SiteReport(value.rank, deviation, norm)
                    for tensor, at, raw in stored.pieces:
                        writer.write(_tensor(name, tensor), raw, at)
        writer.close()
    finally:
        writer.abandon()
    facts = {"parts": ", ".join(parts), "sites": str(len(reports))}
    kind = next(iter(parts.values())).adapter.kind.name
    return Outcome(kind=kind, certificate=Certificate(reports), facts=facts)


def _tensor(component: str, name: str) -> str:
    """A tensor's name in the file, from its name in a folder of PEFT."""
    return f"{component}.{public_name(component, module_name(name))}"
