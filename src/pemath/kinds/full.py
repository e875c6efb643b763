"""Full delta: the change of every weight as a dense array, θ_finetuned - θ_base.

Source: Ilharco et al. 2023 (arXiv 2212.04089), who call it a task vector; Zhang et al. 2023 (arXiv
2306.14870) merge full fine-tunings in the same way. The arithmetic is elementwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pemath.errors import LayoutError, ShapeMismatch
from pemath.formats.floats import Array, FloatType, Raw, Stored, common_type, narrow
from pemath.formats.peft import PREFIX, PeftFolder, module_name
from pemath.formats.safetensors import Spec
from pemath.kinds._contract import (
    Adapter,
    FolderFormat,
    Kind,
    StoredSite,
    heads_of,
    refuse_unknown,
)
from pemath.kinds._registry import register
from pemath.names import display, listing
from pemath.references import WEIGHTS

# Elements computed in one go: in float64 they stay in a core's cache, whatever the site's size.
_SLAB = 1 << 15
_OTHER_KINDS = re.compile(r"\.(lora_\w+|ia3_l)(\.|$)")


@dataclass(frozen=True, eq=False)
class FullDelta:
    """sum_i scale_i W_i, each W_i a dense delta of the site's `shape`."""

    shape: tuple[int, ...]
    terms: tuple[tuple[float, Stored], ...] = ()

    def __add__(self, other: FullDelta) -> FullDelta:
        if self.shape != other.shape:
            raise ShapeMismatch(
                "full deltas differ in shape", found=other.shape, expected=self.shape
            )
        return FullDelta(self.shape, self.terms + other.terms)

    def __mul__(self, factor: float) -> FullDelta:
        terms = tuple((scale * factor, w) for scale, w in self.terms) if factor else ()
        return FullDelta(self.shape, terms)

    def slabs(self) -> Iterator[tuple[slice, Array]]:
        """The flat delta in float64, piece by piece: where it belongs, and a buffer that is the
        caller's until the next piece.
        """
        size = math.prod(self.shape)
        flat = [(scale, weight.flat()) for scale, weight in self.terms]
        total, term = np.zeros(min(_SLAB, size)), np.empty(min(_SLAB, size))
        for start in range(0, size, _SLAB):
            place = slice(start, min(start + _SLAB, size))
            length = place.stop - start
            total[:length] = 0.0  # the caller may have written into it
            for index, (scale, weight) in enumerate(flat):
                part = weight[place].widen((term if index else total)[:length])
                if scale != 1.0:
                    part *= scale
                if index:
                    total[:length] += part
            yield place, total[:length]

    def delta_weight(self, base: Array | None = None) -> Array:
        """The delta itself, of the site's shape."""
        dense = np.empty(math.prod(self.shape))
        for place, part in self.slabs():
            dense[place] = part
        return dense.reshape(self.shape)

    def is_finite(self) -> bool:
        """Whether all stored numbers are finite."""
        return all(weight.is_finite() for _, weight in self.terms)

    def norm(self) -> float:
        """Frobenius norm."""
        return math.sqrt(_total(float(part @ part) for _, part in self.slabs()))

    def inner(self, other: FullDelta) -> float:
        """Sum of elementwise products."""
        pairs = zip(self.slabs(), other.slabs(), strict=True)
        return _total(float(x @ y) for (_, x), (_, y) in pairs)

    def distance(self, other: FullDelta) -> float:
        """Frobenius norm of the difference."""
        return 0.0 if self._is(other) else self.gap(other)[0]

    def gap(self, exact: FullDelta) -> tuple[float, float]:
        """The distance to `exact` and the norm of `exact`, measured together; the norm is NaN where
        both are sums of the same arrays.
        """
        if self._is(exact):
            return 0.0, math.nan
        off = size = 0.0
        for (_, x), (_, y) in zip(self.slabs(), exact.slabs(), strict=True):
            size += float(y @ y)
            np.subtract(x, y, out=x)
            off += float(x @ x)
        return math.sqrt(off), math.sqrt(size)

    def describe(self) -> str:
        """Shape; `number` where there is no dimension."""
        return "×".join(map(str, self.shape)) or "number"

    def _is(self, other: FullDelta) -> bool:
        return len(self.terms) == len(other.terms) and all(
            scale == factor and x is y
            for (scale, x), (factor, y) in zip(self.terms, other.terms, strict=True)
        )


class FullFolders(FolderFormat):
    """No folder of PEFT's, but named alike: one tensor `base_model.model.NAME` for each parameter
    NAME of the base model, of its shape, that holds θ_finetuned - θ_base; only modules in
    `modules_to_save` hold weights instead.
    """

    peft_types: ClassVar[tuple[str, ...]] = ("FULL",)
    loading: ClassVar[str | None] = f"""\
PEFT does not load this folder: its tensors are changes of full weights, to be added to the base
model's parameters of the same names.

```python
from safetensors.torch import load_file

state = model.state_dict()
for name, delta in load_file("{WEIGHTS}").items():
    state[name.removeprefix("{PREFIX}")].add_(delta)
```

What lies under the modules in `modules_to_save`, if the configuration lists any, is not a change:
copy it instead."""

    def open(self, folder: PeftFolder) -> Adapter:
        """One site per parameter. Raises LayoutError, UnknownDtype."""
        sites: dict[str, FullDelta] = {}
        saved = folder.names("modules_to_save")
        leftovers = []
        for tensor in folder.tensors.entries:
            site = module_name(tensor)
            if any(f".{name}." in f".{site}" for name in saved):
                leftovers.append(tensor)
                continue
            if site in sites:
                raise LayoutError(
                    f"parameter `{display(site)}` has two deltas",
                    where=display(folder.tensors.path),
                    hint=f"one is spelled with `{PREFIX}`, one without",
                )
            stored = folder.tensors.stored(tensor)
            sites[site] = FullDelta(stored.shape, ((1.0, stored),))
        others = [site for site in sites if _OTHER_KINDS.search(f".{site}")]
        if others:
            raise LayoutError(
                f"the file holds tensors of another kind: {listing(others)}",
                where=display(folder.tensors.path),
                expected="deltas of the base model's parameters, as `peft_type` FULL says",
                hint="the sum of LoRA factors or of (IA)³ vectors is not that of the modules",
            )
        heads, unknown = heads_of(folder, leftovers)
        refuse_unknown(folder, unknown, sites)
        types = [weight.kind for value in sites.values() for _, weight in value.terms]
        return Adapter(folder, KIND, sites, heads, common_type(types), notes=(_NOTE,))

    def layout(
        self, values: Mapping[str, FullDelta], ranks: Mapping[str, int], dtype: FloatType
    ) -> list[Spec]:
        """One tensor per site."""
        return [Spec(PREFIX + site, dtype.code, value.shape) for site, value in values.items()]

    def store(self, site: str, value: FullDelta, rank: int, dtype: FloatType) -> StoredSite:
        """The delta, rounded to `dtype`; it goes out as it came in where nothing changes."""
        kept = _as_type(value, dtype)
        return StoredSite([(PREFIX + site, 0, kept.raw)], FullDelta(value.shape, ((1.0, kept),)))

    def config(
        self, adapters: Sequence[Adapter], values: Mapping[str, FullDelta], ranks: Mapping[str, int]
    ) -> dict[str, Any]:
        """The first operand's config: nothing in it depends on the values."""
        return dict(adapters[0].folder.config) | {"peft_type": "FULL"}


def _as_type(value: FullDelta, dtype: FloatType) -> Stored:
    """The delta rounded to `dtype`; the operand's own array where nothing changes."""
    if len(value.terms) == 1:
        ((scale, weight),) = value.terms
        if scale == 1.0 and weight.kind is dtype:
            return weight
    raw: Raw = np.empty(value.shape, dtype.carrier)
    flat = raw.reshape(-1)
    for place, part in value.slabs():
        flat[place] = narrow(part, dtype)
    return Stored(raw, dtype)


def _total(parts: Iterable[float]) -> float:
    """Their sum from left to right: the same bits in every version of Python."""
    total = 0.0
    for part in parts:
        total += part
    return total


_NOTE = f"PEFT does not load it: each tensor, less `{PREFIX}`, is to be added to a base parameter"

KIND = register(
    Kind(
        name="full",
        summary="dense delta θ_finetuned - θ_base of every parameter, of any shape (a task vector)",
        value=FullDelta,
        zero_like=lambda value: FullDelta(value.shape),
        folders=FullFolders(),
    )
)
