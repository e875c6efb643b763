"""LoRA: the update s B A of low rank, on linear, embedding, convolution and expert weights.

Source: Zhang et al. 2023 (arXiv 2306.14870), section 3, for the operators; here they act on the
delta weight: a + b concatenates on the rank, c a scales B. The scaling alpha / r (or alpha / sqrt r
for rsLoRA) is folded into each part when an adapter is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pemath.errors import ShapeMismatch
from pemath.formats.floats import Array, FloatType, Raw, Stored, narrow
from pemath.formats.patterns import pattern_table
from pemath.formats.peft import PREFIX, PeftFolder
from pemath.formats.safetensors import Spec
from pemath.kinds import _full_rank as full_rank
from pemath.kinds import _lora_reading as reading
from pemath.kinds._contract import (
    Adapter,
    FolderFormat,
    Kind,
    StoredSite,
    heads_of,
    refuse_unknown,
    result_config,
    target_modules,
)
from pemath.kinds._geometry import Geometry
from pemath.kinds._registry import register
from pemath.lowrank import LOSSLESS, LowRank, Part, inner


@dataclass(frozen=True, eq=False)
class Lora:
    """One low-rank product per block of `geometry`, and the delta of the bias if it has one.

    `bias` is [out, 1] as a LowRank, so that it adds and scales by the same rules. `left_out` is for
    the results of methods that work on single entries: the Frobenius norm of what the rank had no
    room for, by estimate; in sums an upper bound.
    """

    geometry: Geometry
    blocks: tuple[LowRank, ...]
    bias: LowRank | None = None
    left_out: float = 0.0

    @property
    def rank(self) -> int:
        """The rank that storing the value as it is needs."""
        return self.geometry.site_rank(max(block.rank for block in self.blocks))

    def __add__(self, other: Lora) -> Lora:
        if self.geometry != other.geometry:
            raise ShapeMismatch(
                "two LoRAs change weights of different shapes",
                found=other.geometry.describe(),
                expected=self.geometry.describe(),
            )
        blocks = tuple(x + y for x, y in zip(self.blocks, other.blocks, strict=True))
        bias = self.bias or other.bias
        if self.bias is not None and other.bias is not None:
            bias = self.bias + other.bias
        return Lora(self.geometry, blocks, bias, self.left_out + other.left_out)

    def __mul__(self, factor: float) -> Lora:
        scaled = self.mapped(lambda block: block * factor)
        return replace(scaled, left_out=abs(factor) * self.left_out) if self.left_out else scaled

    def mapped(self, change: Callable[[LowRank], LowRank]) -> Lora:
        """The value with `change` applied to every block and to the bias."""
        bias = None if self.bias is None else change(self.bias)
        blocks = tuple(change(block) for block in self.blocks)
        return Lora(self.geometry, blocks, bias, self.left_out)

    def truncated(self, rank: int) -> Lora:
        """The value with a site rank of at most `rank`; itself if it fits."""
        allowed = self.geometry.block_rank(rank)
        fits = all(block.rank <= allowed for block in self.blocks)
        return self if fits else self.recomposed(rank)

    def recomposed(self, rank: int) -> Lora:
        """The best approximation of each block within `rank`, by its singular value decomposition,
        without what is redundant.
        """
        allowed = self.geometry.block_rank(rank)
        blocks = []
        for block in self.blocks:
            found = block.decomposed()
            kept = min(allowed, found.rank_within(LOSSLESS))
            part = Part(Stored.of(found.factor_a(kept)), Stored.of(found.factor_b(kept)))
            blocks.append(LowRank(block.shape, (part,) if kept else ()))
        return Lora(self.geometry, tuple(blocks), self.bias, self.left_out)

    def products(self) -> tuple[LowRank, ...]:
        """Blocks and bias: all that the value consists of."""
        return self.blocks if self.bias is None else (*self.blocks, self.bias)

    def delta_weight(self, base: Array | None = None) -> Array:
        """B A dense in float64: [out, in], [out, in, kernel…], [embeddings, dim] or
        [experts, out, in].
        """
        return self.geometry.delta_weight(self.blocks)

    def delta_bias(self) -> Array:
        """The change of the base bias, [out]; zeros without `lora_bias`."""
        return np.zeros(self.geometry.outputs) if self.bias is None else self.bias.dense()[:, 0]

    def is_finite(self) -> bool:
        """Whether all factors are finite."""
        return all(
            part.a.is_finite() and part.b.is_finite()
            for product in self.products()
            for part in product.parts
        )

    def norm(self) -> float:
        """Frobenius norm of the delta of weight and bias."""
        return math.hypot(
            *(full_rank.norm(p) if full_rank.is_full(p) else p.norm() for p in self.products())
        )

    def inner(self, other: Lora) -> float:
        """Inner product of the deltas of weight and bias."""
        total = sum(_inner(x, y) for x, y in zip(self.blocks, other.blocks, strict=True))
        if self.bias is not None and other.bias is not None:
            total += inner(self.bias, other.bias)
        return total

    def distance(self, other: Lora) -> float:
        """Frobenius norm of the difference of weight and bias, from the factors."""
        return self.gap(other)[0]

    def gap(self, exact: Lora) -> tuple[float, float]:
        """The distance to `exact` and the norm of `exact`, measured together; the norm is NaN where
        a block is the same object in both.
        """
        pairs = list(zip(self.blocks, exact.blocks, strict=True))
        if self.bias is not None or exact.bias is not None:
            none = LowRank((self.geometry.outputs, 1))
            pairs.append((self.bias or none, exact.bias or none))
        distances, norms = zip(*(_gap(x, y) for x, y in pairs), strict=True)
        return math.hypot(*distances), math.hypot(*norms)

    def describe(self) -> str:
        """Shape of the base weight, and rank."""
        return f"{self.geometry.describe()}, rank {self.rank}"


class LoraFolders(FolderFormat):
    """PEFT's LoRA folders, in every layout that PEFT writes."""

    peft_types: ClassVar[tuple[str, ...]] = ("LORA",)

    def open(self, folder: PeftFolder) -> Adapter:
        """Sites from the tensors; scaling, groups and experts from shapes and config."""
        found, leftovers = reading.group_tensors(folder)
        scales = reading.Scales(folder)
        sites = {}
        for site, tensors in found.items():
            geometry, rank = reading.geometry(folder, site, tensors, scales)
            scale = scales.at(site, rank)
            blocks = geometry.products(tensors.a(folder), tensors.b(folder), scale)
            bias = tensors.bias(folder)
            sites[site] = Lora(
                geometry,
                blocks,
                None if bias is None else reading.bias_product(bias, geometry.outputs, scale),
            )
        heads, unknown = heads_of(folder, leftovers)
        obstacles = reading.obstacles(folder)
        if not obstacles:
            refuse_unknown(folder, unknown, sites)
        return Adapter(
            folder,
            KIND,
            sites,
            heads,
            reading.dtype(folder, found),
            obstacles,
            reading.notes(folder),
        )

    def unify(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """If any site has a bias, all get one: PEFT's `lora_bias` is for the whole adapter."""
        if all(value.bias is None for value in values.values()):
            return dict(values)
        return {
            site: value
            if value.bias is not None
            else replace(value, bias=LowRank((value.geometry.outputs, 1)))
            for site, value in values.items()
        }

    def layout(
        self, values: Mapping[str, Lora], ranks: Mapping[str, int], dtype: FloatType
    ) -> list[Spec]:
        """A, B and, if the value has one, the bias of each site."""
        specs = []
        for site, value in values.items():
            names = _names(site, value.geometry)
            rank = ranks[site]
            specs.append(Spec(names.a, dtype.code, value.geometry.shape_a(rank)))
            specs.append(Spec(names.b, dtype.code, value.geometry.shape_b(rank)))
            if value.bias is not None:
                specs.append(Spec(names.bias, dtype.code, (value.geometry.outputs,)))
        return specs

    def store(self, site: str, value: Lora, rank: int, dtype: FloatType) -> StoredSite:
        """The factors rounded to `dtype`; A goes out as it came in wherever its dtype is kept.

        Scales go into B, unless that is an identity matrix. Ranks that a block does not need are
        filled with zeros.
        """
        geometry, names = value.geometry, _names(site, value.geometry)
        block_rank = geometry.block_rank(rank)
        raw_b = np.zeros(geometry.shape_b(rank), dtype.carrier)
        pieces: list[tuple[str, int, Raw | memoryview]] = []
        kept = []
        row_bytes = math.prod(geometry.inputs) * dtype.size
        for index, (block, into) in enumerate(
            zip(value.blocks, geometry.split_b(raw_b), strict=True)
        ):
            parts, row = [], index * block_rank
            column = 0
            for part in block.parts:
                beside_identity = full_rank.is_identity(part.b)
                a = _as_type(part.a, part.scale if beside_identity else 1.0, dtype)
                pieces.append((names.a, row * row_bytes, a.raw))
                b = _as_type(part.b, 1.0 if beside_identity else part.scale, dtype)
                into[:, column : column + part.rank] = b.raw
                parts.append(Part(a, b))
                row, column = row + part.rank, column + part.rank
            padding = block_rank - column
            if padding:
                pieces.append((names.a, row * row_bytes, memoryview(bytes(padding * row_bytes))))
            kept.append(LowRank(block.shape, tuple(parts)))
        pieces.append((names.b, 0, raw_b))
        bias = None
        if value.bias is not None:
            raw_bias = narrow(value.bias.dense()[:, 0], dtype)
            pieces.append((names.bias, 0, raw_bias))
            bias = reading.bias_product(Stored(raw_bias, dtype), geometry.outputs, 1.0)
        return StoredSite(pieces, Lora(geometry, tuple(kept), bias))

    def config(
        self, adapters: Sequence[Adapter], values: Mapping[str, Lora], ranks: Mapping[str, int]
    ) -> dict[str, Any]:
        """Scaling is folded in: alpha = r everywhere. Ranks that differ become patterns."""
        rank = max(ranks.values())
        pattern = pattern_table(dict(sorted(ranks.items())), rank)
        experts = {s for s, v in values.items() if v.geometry.layout == "experts"}
        linear = [site for site in values if site not in experts]
        config = result_config(adapters) | {
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": pattern,
            "alpha_pattern": dict(pattern),
            "use_rslora": False,
            "use_dora": False,
            "lora_bias": any(value.bias is not None for value in values.values()),
            "bias": "none",
            "init_lora_weights": True,
            "target_modules": target_modules(adapters, linear) if linear else [],
        }
        if experts:
            stated = (adapter.folder.config.get("target_parameters") for adapter in adapters)
            config["target_parameters"] = next(filter(None, stated))
        for name in reading.TRAINING_ONLY:
            if name in config:
                config[name] = None
        return config


@dataclass(frozen=True)
class _Names:
    a: str
    b: str
    bias: str


def _names(site: str, geometry: Geometry) -> _Names:
    if geometry.layout == "embedding":
        return _Names(
            f"{PREFIX}{site}.lora_embedding_A",
            f"{PREFIX}{site}.lora_embedding_B",
            f"{PREFIX}{site}.lora_embedding_B.bias",
        )
    return _Names(
        f"{PREFIX}{site}.lora_A.weight",
        f"{PREFIX}{site}.lora_B.weight",
        f"{PREFIX}{site}.lora_B.bias",
    )


def _inner(x: LowRank, y: LowRank) -> float:
    return full_rank.inner(x, y) if full_rank.is_full(x) or full_rank.is_full(y) else inner(x, y)


def _gap(x: LowRank, y: LowRank) -> tuple[float, float]:
    return full_rank.gap(x, y) if full_rank.is_full(x) or full_rank.is_full(y) else x.gap(y)


def _as_type(stored: Stored, scale: float, dtype: FloatType) -> Stored:
    """scale * stored, rounded to `dtype`; the same object where nothing changes."""
    if scale == 1.0 and full_rank.is_identity(stored):
        return full_rank.identity(stored.shape[0], dtype)
    if stored.kind is dtype and scale == 1.0:
        return stored
    values = stored.widen()
    if scale != 1.0:
        values *= scale
    return Stored(narrow(values, dtype), dtype)


KIND = register(
    Kind(
        name="lora",
        summary="LoRA: a low-rank update B A of linear, embedding, convolution or expert weights",
        value=Lora,
        zero_like=lambda value: Lora(
            value.geometry, tuple(LowRank(block.shape) for block in value.blocks)
        ),
        folders=LoraFolders(),
    )
)
