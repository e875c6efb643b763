"""kohya's layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pemath.conversion._parts import alpha_for, factors, parts_of, public_name
from pemath.conversion._registry import Outcome, target
from pemath.conversion._source import Source
from pemath.errors import LayoutError
from pemath.formats import kohya as layout
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import FLOAT_TYPES, Stored
from pemath.formats.module_names import underscored
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.names import display, listing


@target(summary="one LoRA file in kohya's layout, for ComfyUI, WebUI and sd-scripts", output="file")
def kohya(
    source: Source,
    out: Path,
    *,
    component: str | None = None,
    base_weights: Checkpoint | None = None,
) -> Outcome:
    """One safetensors file with names such as `lora_unet_…_to_q.lora_down.weight`.

    The factors keep their bytes; `.alpha` (float32, or float64 where that rounds) is chosen so that
    alpha / rank is the scale. `component` says what a PEFT folder belongs to, or which part of a
    file to take; `base_weights` says the names of modules where the source has kohya's. UNets get
    diffusers' names, not those of the original code.
    Raises: UsageError, InputError, KindMismatch.
    """
    parts = parts_of(source, component, base_weights)
    tensors: dict[str, Stored] = {}
    ambiguous, differing = [], []
    for name, part in parts.items():
        part.refuse_non_finite()
        alphas = set()
        for site, value in part.values.items():
            spelled = underscored(public_name(name, site))
            stem = f"{_prefix(name, parts)}_{spelled}"
            if f"{stem}.alpha" in tensors:
                raise LayoutError(
                    f"two sites are called `{display(stem)}` in kohya's layout",
                    where=display(part.adapter.folder.path),
                    found=f"`{display(site)}` and another",
                )
            a, b, scale = factors(site, value)
            alpha = alpha_for(scale, a.shape[0])
            tensors |= {
                f"{stem}.lora_down.weight": a,
                f"{stem}.lora_up.weight": b,
                f"{stem}.alpha": _number(alpha),
            }
            alphas.add(alpha)
            if layout.spellings(spelled, name) != [public_name(name, site)]:
                ambiguous.append(site)
        if len(alphas) > 1:
            differing.append(name)
    specs = [Spec(name, stored.kind.code, stored.shape) for name, stored in tensors.items()]
    writer = TensorWriter(out, specs, {"format": "pt"})
    try:
        for tensor, stored in tensors.items():
            writer.write(tensor, stored.raw)
        writer.close()
    finally:
        writer.abandon()
    facts = {"parts": ", ".join(parts), "sites": str(len(tensors) // 3)}
    kind = next(iter(parts.values())).adapter.kind.name
    return Outcome(kind=kind, notes=_notes(ambiguous, differing), facts=facts)


def _number(value: float) -> Stored:
    """A tensor of one number in float32, or in float64 where that would round it."""
    kind = FLOAT_TYPES["F32" if float(np.float32(value)) == value else "F64"]
    return Stored(np.asarray(value, kind.carrier), kind)


def _notes(ambiguous: list[str], differing: list[str]) -> list[str]:
    notes = []
    if ambiguous:
        notes.append(
            f"{len(ambiguous)} names can be told back only with --base-weights: "
            f"{listing(ambiguous, 2)}"
        )
    if differing:
        notes.append(
            f"alphas differ between sites of the {' and the '.join(differing)}: diffusers (0.42) "
            "reads those of attention layers in this layout as if they were all the same; "
            "`--to diffusers` is right there"
        )
    return notes


def _prefix(component: str, parts: Iterable[str]) -> str:
    """`lora_te` is the only text encoder of SD 1 and 2; with others it is `lora_te1`."""
    prefixes = layout.PREFIXES[component]
    alone = not {"text_encoder_2", "text_encoder_3", "transformer"} & set(parts)
    return prefixes[0] if alone else prefixes[-1]
