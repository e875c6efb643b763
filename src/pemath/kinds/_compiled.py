"""Reading folders of kinds that are compiled to LoRA: tensors by site and role, within bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pemath.errors import ConfigError, LayoutError
from pemath.formats.floats import Array, FloatType, Stored, common_type
from pemath.formats.peft import PeftFolder, module_name
from pemath.kinds._computed import Computed
from pemath.kinds._contract import Adapter, heads_of, refuse_unknown
from pemath.kinds._full_rank import identity
from pemath.kinds._geometry import Geometry
from pemath.kinds.lora import KIND, Lora
from pemath.limits import LIMITS
from pemath.lowrank import LowRank, Part
from pemath.names import display
from pemath.references import CONFIG

# What a config says of the base model and of where the adapter sits, whatever its kind.
_KEPT_FIELDS = (
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "layers_pattern", "layers_to_transform", "modules_to_save", "peft_version",
    "revision", "task_type", "target_modules",
)  # fmt: skip
_INTEGERS = {"U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
             "U64": "<u8", "I64": "<i8"}  # fmt: skip


# The name that PEFT gives to the tuner itself, which holds what all sites share.
_WHOLE = "base_model"


@dataclass
class _Budget:
    """The elements that an adapter's values will have once they are computed."""

    spent: int = 0


@dataclass(frozen=True, eq=False)
class Tensors:
    """One site's tensors by their role, as the kind calls it."""

    folder: PeftFolder
    site: str
    names: Mapping[str, str]
    _budget: _Budget

    def __contains__(self, role: str) -> bool:
        return role in self.names

    def shape(self, role: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.folder.tensors.entries[self.names[role]].shape

    def stored(self, role: str) -> Stored:
        """A tensor of floating-point numbers. Raises UnknownDtype for another."""
        return self.folder.tensors.stored(self.names[role])

    def indices(self, role: str, below: int | None = None) -> NDArray[np.int64]:
        """A tensor of whole numbers from 0 on, all of them less than `below` if it is given.

        Raises: LayoutError. PEFT on Windows stores such numbers as float32.
        """
        file, name = self.folder.tensors, self.names[role]
        entry = file.entries[name]
        if entry.dtype in _INTEGERS:
            raw = np.frombuffer(file.raw_bytes(name), _INTEGERS[entry.dtype]).reshape(entry.shape)
        else:
            raw = self.stored(role).widen()
        with np.errstate(invalid="ignore"):
            found = raw.astype(np.int64)
        most = 1 << 62 if below is None else below
        if not (found == raw).all() or (found < 0).any() or (found >= most).any():
            raise LayoutError(
                f"`{display(name)}` holds numbers that are no positions",
                where=display(file.path),
                expected="whole numbers from 0 on" + (f", below {below}" if below else ""),
            )
        return found

    def fits(self, *conditions: bool, expected: str) -> None:
        """Raise LayoutError with the shapes unless all `conditions` hold and no tensor is empty."""
        if not all(conditions) or any(0 in self.shape(role) for role in self.names):
            shapes = ", ".join(f"{role} {list(self.shape(role))}" for role in sorted(self.names))
            raise LayoutError(
                f"the tensors of site `{display(self.site)}` do not fit together",
                where=display(self.folder.tensors.path),
                found=shapes[:400],
                expected=expected,
            )

    def spend(self, elements: int) -> None:
        """Raise LayoutError if so much may not be computed from this site."""
        self._budget.spent += elements
        site, total = LIMITS.computed_site_elements, LIMITS.computed_elements
        if elements > site or self._budget.spent > total:
            raise LayoutError(
                f"the factors of site `{display(self.site)}` would be too large",
                where=display(self.folder.tensors.path),
                found=f"{elements} elements, {self._budget.spent} with the sites before",
                expected=f"at most {site} at a site, {total} in all",
            )

    def product(
        self,
        shape: tuple[int, int],
        rank: int,
        *,
        b: Callable[[], Array],
        a: Callable[[], Array],
        dense: Callable[[], Array] | None = None,
        scale: float = 1.0,
        sources: Sequence[Stored],
    ) -> LowRank:
        """scale * b() @ a() with b() [out, rank] and a() [rank, in]; `dense` is the matrix itself.

        Where `rank` is above the smaller side, the matrix stands beside an identity matrix instead.
        """
        if rank > min(shape):
            return self.dense(shape, dense or (lambda: b() @ a()), scale=scale, sources=sources)
        self.spend(sum(shape) * rank)
        factor_b = Computed((shape[0], rank), b, sources)
        return LowRank(shape, (Part(Computed((rank, shape[1]), a, sources), factor_b, scale),))

    def dense(
        self,
        shape: tuple[int, int],
        compute: Callable[[], Array],
        *,
        scale: float = 1.0,
        sources: Sequence[Stored],
    ) -> LowRank:
        """scale * compute() [out, in], as a product with the identity matrix of the smaller side."""
        outputs, inputs = shape
        self.spend(sum(shape) * min(shape))
        matrix = Computed(shape, compute, sources)
        if outputs >= inputs:
            return LowRank(shape, (Part(identity(inputs), matrix, scale),))
        return LowRank(shape, (Part(matrix, identity(outputs), scale),))


def group(
    folder: PeftFolder, needed: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, Tensors], list[str]]:
    """The tensors named `SITE.ROLE`, by site in file order, and the names of all others.

    Raises: LayoutError if a site lacks a needed one, or has one twice.
    """
    roles = "|".join(map(re.escape, (*needed, *optional)))
    pattern = re.compile(rf"(?P<site>.+)\.(?P<role>{roles})(?:\.(?!weight$|bias$)\w+)?")
    found: dict[str, dict[str, str]] = {}
    leftovers = []
    where = display(folder.tensors.path)
    for tensor in folder.tensors.entries:
        match = pattern.fullmatch(module_name(tensor))
        if match is None or match["site"] == _WHOLE:
            leftovers.append(tensor)
            continue
        names = found.setdefault(match["site"], {})
        if match["role"] in names:
            raise LayoutError(
                f"site `{display(match['site'])}` has two tensors {match['role']}",
                where=where,
                found=f"`{display(names[match['role']])}` and `{display(tensor)}`",
                hint="the file holds more than one adapter: save them apart",
            )
        names[match["role"]] = tensor
    budget = _Budget()
    for site, names in found.items():
        missing = [role for role in needed if role not in names]
        if missing:
            raise LayoutError(
                f"site `{display(site)}` lacks {', '.join(missing)}",
                where=where,
                found=", ".join(sorted(names)),
                expected=", ".join(needed),
            )
    return {site: Tensors(folder, site, names, budget) for site, names in found.items()}, leftovers


def take_shared(
    folder: PeftFolder, sites: Mapping[str, Tensors], leftovers: list[str], *names: str
) -> list[Stored | None]:
    """The tensors `base_model.NAME` that all sites share, taken out of `leftovers`; None for one
    that is not there.

    Raises: LayoutError if something is left that has no place, UnknownDtype.
    """
    found: list[Stored | None] = []
    for name in names:
        spelled = [t for t in (f"{_WHOLE}.{name}", f"{_WHOLE}.{name}.default") if t in leftovers]
        found.append(folder.tensors.stored(spelled[0]) if spelled else None)
        if spelled:
            leftovers.remove(spelled[0])
    refuse_unknown(folder, heads_of(folder, leftovers)[1], sites)
    return found


def linear(product: LowRank) -> Lora:
    """The change of a linear layer's weight."""
    outputs, inputs = product.shape
    return Lora(Geometry("linear", outputs, (inputs,)), (product,))


def adapter(
    folder: PeftFolder,
    sites: Mapping[str, Lora],
    leftovers: Sequence[str],
    *,
    name: str,
    notes: Sequence[str] = (),
) -> Adapter:
    """The compiled adapter. Its folder's config is a LoRA's, so that results are plain LoRAs.

    Raises: LayoutError for tensors that have no place, or if there are no sites.
    """
    heads, unknown = heads_of(folder, leftovers)
    refuse_unknown(folder, unknown, sites)
    parts = [part for value in sites.values() for product in value.blocks for part in product.parts]
    dtype = common_type(kind for part in parts for kind in (*_types(part.a), *_types(part.b)))
    rank = max(value.rank for value in sites.values())
    config = lora_config(folder) | {"r": rank, "lora_alpha": rank}
    told = (_told(name, sites), *notes)
    return Adapter(replace(folder, config=config), KIND, sites, heads, dtype, notes=told)


def _types(factor: Stored) -> set[FloatType]:
    """The types of the tensors that a factor is made of."""
    sources = factor.sources if isinstance(factor, Computed) else (factor,)
    return {source.kind for source in sources}


def lora_config(folder: PeftFolder) -> dict[str, Any]:
    """The config that a LoRA at the same place of the same model would have."""
    config = {name: folder.config[name] for name in _KEPT_FIELDS if name in folder.config}
    bias = folder.config.get("bias", "none")
    trained = bias if bias in ("none", "all") else "lora_only"
    return {**config, "peft_type": "LORA", "bias": trained}


def number(folder: PeftFolder, name: str, *, least: int) -> int:
    """A field of the config that is a whole number. Raises ConfigError."""
    value = folder.config.get(name)
    most = LIMITS.tensor_elements
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            f"`{name}` is not a whole number from {least} on",
            where=display(folder.path / CONFIG),
            found=display(value, 40),
            expected=f"at most {most}",
        )
    return value


def real(folder: PeftFolder, name: str) -> float:
    """A field of the config that is a number. Raises ConfigError."""
    value = folder.config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ConfigError(
            f"`{name}` is not a finite number",
            where=display(folder.path / CONFIG),
            found=display(value, 40),
        )
    return float(value)


def _told(name: str, sites: Mapping[str, Lora]) -> str:
    ranks = sorted({value.rank for value in sites.values()})
    shown = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
    full = [v for v in sites.values() if v.rank >= min(v.geometry.block_shape)]
    text = f"{name}, read as LoRA of rank {shown}"
    if full:
        where = "" if len(full) == len(sites) else f" at {len(full)} of {len(sites)} sites"
        text += f", as large as the matrix{where}"
    return text + ": --rank or --max-error reduces it" * (ranks[-1] > _MODERATE)


# Above this rank a reader may want to hear how to get a smaller one.
_MODERATE = 32
