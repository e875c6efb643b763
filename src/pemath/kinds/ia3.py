"""(IA)³: activations scaled elementwise by a learned vector l, around one.

Source: Zhang et al. 2023 (arXiv 2306.14870), section 3: the operators act on l - 1, so that ones
are "no change", a + b is l + m - 1 and -a is 2 - l.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pemath.errors import LayoutError, ShapeMismatch
from pemath.formats.floats import Array, FloatType, Stored, common_type, narrow
from pemath.formats.patterns import names_match
from pemath.formats.peft import PREFIX, PeftFolder, module_name
from pemath.formats.safetensors import Spec
from pemath.kinds._contract import (
    Adapter,
    FolderFormat,
    Kind,
    StoredSite,
    heads_of,
    refuse_unknown,
    result_config,
    short_names,
    target_modules,
)
from pemath.kinds._registry import register
from pemath.names import display

Side = Literal["output", "input"]
_TENSOR = re.compile(r"(?P<site>.+)\.ia3_l(\.(?P<adapter>\w+))?")


@dataclass(frozen=True, eq=False)
class Ia3:
    """l = 1 + sum_i scale_i (l_i - 1), each l_i stored in `shape`.

    `side` says whether the layer's outputs or its inputs (feed-forward modules) are scaled.
    """

    side: Side
    shape: tuple[int, ...]
    terms: tuple[tuple[float, Stored], ...] = ()

    def __add__(self, other: Ia3) -> Ia3:
        if (self.side, self.shape) != (other.side, other.shape):
            raise ShapeMismatch(
                "(IA)³ vectors differ in shape or side",
                found=other.describe(),
                expected=self.describe(),
            )
        return Ia3(self.side, self.shape, self.terms + other.terms)

    def __mul__(self, factor: float) -> Ia3:
        terms = tuple((scale * factor, vector) for scale, vector in self.terms) if factor else ()
        return Ia3(self.side, self.shape, terms)

    def deviation(self) -> Array:
        """l - 1, flat, in float64."""
        total = np.zeros(math.prod(self.shape))
        for scale, vector in self.terms:
            total += scale * (vector.widen().ravel() - 1.0)
        return total

    def vector(self) -> Array:
        """l, flat, in float64."""
        return 1.0 + self.deviation()

    def delta_weight(self, base: Array | None = None) -> Array:
        """(l - 1) ⊙ W for the base weight W [out, in, …], over its rows or its columns."""
        if base is None:
            raise ValueError("(IA)³ changes a weight in proportion to it: give the base weight")
        axes = [1] * base.ndim
        axes[0 if self.side == "output" else 1] = -1
        return self.deviation().reshape(axes) * base

    def delta_bias(self, base: Array) -> Array:
        """(l - 1) ⊙ b for the base bias b [out]; zero where the inputs are scaled."""
        return self.deviation() * base if self.side == "output" else np.zeros_like(base)

    def is_finite(self) -> bool:
        """Whether all stored numbers are finite."""
        return all(vector.is_finite() for _, vector in self.terms)

    def norm(self) -> float:
        """Euclidean norm of l - 1."""
        return float(np.linalg.norm(self.deviation()))

    def inner(self, other: Ia3) -> float:
        """Inner product of l - 1 and m - 1."""
        return float(self.deviation() @ other.deviation())

    def distance(self, other: Ia3) -> float:
        """Euclidean norm of l - m."""
        return float(np.linalg.norm(self.deviation() - other.deviation()))

    def gap(self, exact: Ia3) -> tuple[float, float]:
        """The distance to `exact`, and the norm of `exact`."""
        return self.distance(exact), exact.norm()

    def describe(self) -> str:
        """Length and side."""
        return f"{math.prod(self.shape)} {self.side}s"


class Ia3Folders(FolderFormat):
    """PEFT's (IA)³ folders: one `ia3_l` per site, [out, 1] or [1, in], [1, channels, 1, …] for
    convolutions.
    """

    peft_types: ClassVar[tuple[str, ...]] = ("IA3",)

    def open(self, folder: PeftFolder) -> Adapter:
        """Sites from the tensors; the side from the shape, or from `feedforward_modules` where the
        shape leaves it open.
        """
        sites: dict[str, Ia3] = {}
        leftovers = []
        types = []
        for tensor in folder.tensors.entries:
            match = _TENSOR.fullmatch(module_name(tensor))
            if match is None:
                leftovers.append(tensor)
                continue
            stored = folder.tensors.stored(tensor)
            site = match["site"]
            if site in sites:
                raise LayoutError(
                    f"site `{display(site)}` has two vectors",
                    where=display(folder.tensors.path),
                    hint="the file holds more than one adapter: save them apart",
                )
            sites[site] = Ia3(_side(folder, site, stored.shape), stored.shape, ((1.0, stored),))
            types.append(stored.kind)
        heads, unknown = heads_of(folder, leftovers)
        refuse_unknown(folder, unknown, sites)
        return Adapter(folder, KIND, sites, heads, common_type(types))

    def layout(
        self, values: Mapping[str, Ia3], ranks: Mapping[str, int], dtype: FloatType
    ) -> list[Spec]:
        """One vector per site."""
        return [Spec(_tensor(site), dtype.code, value.shape) for site, value in values.items()]

    def store(self, site: str, value: Ia3, rank: int, dtype: FloatType) -> StoredSite:
        """The vector, rounded to `dtype`."""
        raw = narrow(value.vector().reshape(value.shape), dtype)
        kept = Ia3(value.side, value.shape, ((1.0, Stored(raw, dtype)),))
        return StoredSite([(_tensor(site), 0, raw)], kept)

    def config(
        self, adapters: Sequence[Adapter], values: Mapping[str, Ia3], ranks: Mapping[str, int]
    ) -> dict[str, Any]:
        """Targets, and which of them are feed-forward modules."""
        modules = target_modules(adapters, values)
        inputs = [site for site, value in values.items() if value.side == "input"]
        names = short_names(adapters, "feedforward_modules", inputs)
        outputs = [site for site in values if site not in inputs]
        if names is None or any(names_match(site, names, "") for site in outputs):
            names = sorted(inputs)
        return result_config(adapters) | {
            "target_modules": modules,
            "feedforward_modules": names,
            "init_ia3_weights": True,
        }


def _tensor(site: str) -> str:
    return f"{PREFIX}{site}.ia3_l"


def _side(folder: PeftFolder, site: str, shape: tuple[int, ...]) -> Side:
    stated = folder.config.get("feedforward_modules")
    feedforward = names_match(
        site,
        stated if isinstance(stated, str) else folder.names("feedforward_modules"),
        display(folder.path / "adapter_config.json"),
    )
    if len(shape) == 2 and shape != (1, 1) and 1 in shape and 0 not in shape:
        return "output" if shape[1] == 1 else "input"
    if shape == (1, 1) or (len(shape) in (4, 5) and math.prod(shape) == shape[1] > 0):
        return "input" if feedforward else "output"
    raise LayoutError(
        f"site `{display(site)}` has an (IA)³ vector of an unknown shape",
        where=display(folder.tensors.path),
        found=shape,
        expected="(out, 1), (1, in) or (1, channels, 1, 1)",
    )


KIND = register(
    Kind(
        name="ia3",
        summary="(IA)³: a vector that scales a layer's outputs or inputs, around one",
        value=Ia3,
        zero_like=lambda value: Ia3(value.side, value.shape),
        folders=Ia3Folders(),
    )
)
