"""What a fine-tuned checkpoint has beside its base, before any number is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pemath.errors import LayoutError, RequestError, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import BY_NAME, FLOAT_TYPES
from pemath.formats.peft import PeftFolder
from pemath.kinds._contract import Adapter
from pemath.kinds.full import KIND, FullDelta
from pemath.names import display, listing

# Bytes compared in one go.
_SLAB = 4 << 20


@dataclass(frozen=True, eq=False)
class Difference:
    """`changed` are parameters of both, by their names in the fine-tuned checkpoint, whose bytes
    differ; `same` counts those that do not. `new` are only in the fine-tuned one, `resized` have
    another shape in it, and `gone` are only in the base.
    """

    changed: Mapping[str, FullDelta]
    new: list[str]
    resized: list[str]
    gone: list[str]
    same: int


def difference(tuned: Checkpoint, base: Checkpoint) -> Difference:
    """Compare two checkpoints; names may differ by a wrapper's prefix. The bytes are compared, and
    the changes are sums of two views.

    Raises: LayoutError if they have nothing in common, UnsupportedFeature if a tensor that is not of
    floating point differs, RequestError if nothing differs.
    """
    partners = {name: base.find(name) for name in tuned.shards}
    if not any(partners.values()):
        raise LayoutError(
            "the two checkpoints have no parameter in common",
            where=f"{display(tuned.path)} and {display(base.path)}",
            found=f"{listing(list(tuned.shards), 2)} and {listing(list(base.shards), 2)}",
        )
    changed, new, resized, same = {}, [], [], 0
    for name, partner in partners.items():
        if partner is None:
            new.append(name)
        elif tuned.entry(name).shape != base.entry(partner).shape:
            resized.append(name)
        elif _same(tuned, name, base, partner):
            same += 1
        else:
            changed[name] = _change(tuned, name, base, partner)
    taken = {partner for partner in partners.values() if partner}
    gone = [name for name in base.shards if name not in taken]
    if not changed and not new and not resized:
        raise RequestError(
            "the two checkpoints hold the same weights",
            where=f"{display(tuned.path)} and {display(base.path)}",
        )
    return Difference(changed, new, resized, gone, same)


def task_vector(tuned: Checkpoint, base: Checkpoint) -> Adapter:
    """A fine-tuned checkpoint as an adapter of kind full, to be stored in float32.

    Raises: UnsupportedFeature where parameters are not those of the base, besides what `difference`
    raises.
    """
    found = difference(tuned, base)
    foreign = [*found.new, *found.resized]
    if foreign:
        raise UnsupportedFeature(
            f"{listing(foreign)} are not in the base, or not of that shape",
            where=display(tuned.path),
            hint="`pemath convert --to full` keeps them as heads: convert first, then compose",
        )
    config = {"peft_type": "FULL", "base_model_name_or_path": str(base.path)}
    folder = PeftFolder(tuned.path, config, next(iter(tuned.files.values())))
    notes = [f"{found.same} parameters are those of the base"]
    return Adapter(folder, KIND, found.changed, {}, BY_NAME["float32"], notes=notes)


def _same(tuned: Checkpoint, name: str, base: Checkpoint, partner: str) -> bool:
    if tuned.entry(name).dtype != base.entry(partner).dtype:
        return False
    one, other = (
        np.frombuffer(file.raw_bytes(tensor), np.uint8)
        for file, tensor in ((tuned.file(name), name), (base.file(partner), partner))
    )
    return all(
        np.array_equal(one[start : start + _SLAB], other[start : start + _SLAB])
        for start in range(0, len(one), _SLAB)
    )


def _change(tuned: Checkpoint, name: str, base: Checkpoint, partner: str) -> FullDelta:
    for checkpoint, tensor in ((tuned, name), (base, partner)):
        entry = checkpoint.entry(tensor)
        if entry.dtype not in FLOAT_TYPES:
            raise UnsupportedFeature(
                f"parameter `{display(tensor)}` differs and is not of floating point",
                where=display(checkpoint.path),
                found=entry.dtype,
                hint="quantised checkpoints must be dequantised by the tool that made them",
            )
    after, before = tuned.stored(name), base.stored(partner)
    return FullDelta(after.shape, ((1.0, after), (-1.0, before)))
