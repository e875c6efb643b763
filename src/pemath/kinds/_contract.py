"""What a kind of PEM must say: how its values add, scale and act, and how they lie in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, Protocol, Self

from pemath.errors import LayoutError, NonFiniteValue, PemathError
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import FLOAT_TYPES, Array, FloatType, Raw
from pemath.formats.peft import PREFIX, PeftFolder, module_name
from pemath.formats.safetensors import Spec
from pemath.names import display, listing


class Value(Protocol):
    """What a PEM puts at one site. Immutable; a vector space under + and * (the laws hold on the
    delta weight). Reading is lazy: the arithmetic below touches no tensor.
    """

    def __add__(self, other: Self, /) -> Self:
        """The sum. Raises ShapeMismatch if the sites differ in shape."""

    def __mul__(self, factor: float, /) -> Self:
        """The value scaled; 0 gives the kind's zero."""

    def delta_weight(self, base: Array | None = None, /) -> Array:
        """The change of the base weight, dense in float64, shape as documented by the kind.

        `base` is the base weight where the change depends on it. Raises ValueError without it.
        """

    def is_finite(self) -> bool:
        """Whether no stored number is NaN or infinite."""

    def norm(self) -> float:
        """Frobenius norm of the value's difference from "no change"."""

    def inner(self, other: Self, /) -> float:
        """Inner product of two values' differences from "no change"."""

    def distance(self, other: Self, /) -> float:
        """Norm of the difference of two values, accurate also where it is small."""

    def gap(self, exact: Self, /) -> tuple[float, float]:
        """The distance to `exact` and the norm of `exact`, measured together; the norm may be NaN
        where the distance is zero because both are the same.
        """

    def describe(self) -> str:
        """The shape in a few characters, such as `768×768, rank 8`."""


@dataclass(frozen=True)
class Head:
    """Trained weights that replace base weights (modules_to_save, trained biases).

    `tensors` maps each parameter's output name to the tensor's name in the file.
    """

    module: str
    tensors: Mapping[str, str]
    config_name: str | None

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias that was trained beside the adapter (`bias="all"`)."""
        return self.config_name is None and all(name.endswith(".bias") for name in self.tensors)


@dataclass(frozen=True, eq=False)
class Adapter:
    """An opened adapter: its sites by name, in file order, and its heads. No tensor is read yet.

    `obstacles` are reasons why it cannot be composed; they do not prevent looking at it.
    """

    folder: PeftFolder
    kind: Kind
    sites: Mapping[str, Value]
    heads: Mapping[str, Head]
    dtype: FloatType
    obstacles: Sequence[PemathError] = field(default=())
    notes: Sequence[str] = field(default=())


class FolderFormat(ABC):
    """How a kind lies in a PEFT folder.

    `loading` says, for the card, how to use a folder that PEFT does not load; None where it does.
    """

    peft_types: ClassVar[tuple[str, ...]]
    loading: ClassVar[str | None] = None

    @abstractmethod
    def open(self, folder: PeftFolder) -> Adapter:
        """The adapter in `folder`; reads the config and the header only.

        Raises: LayoutError, UnsupportedFeature, UnknownDtype.
        """

    def on_base(self, folder: PeftFolder, base: Checkpoint) -> Adapter | None:
        """The adapter beside its base weights, where they change how it is read; else None."""
        return None

    def unify(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values made storable in one folder, where a format needs that."""
        return dict(values)

    @abstractmethod
    def layout(
        self, values: Mapping[str, Any], ranks: Mapping[str, int], dtype: FloatType
    ) -> list[Spec]:
        """The tensors that store `values`: for each site the name, dtype and shape.

        `ranks` is the rank to write at each site, for kinds that have one.
        """

    @abstractmethod
    def store(self, site: str, value: Any, rank: int, dtype: FloatType) -> StoredSite:
        """The bytes of one site."""

    @abstractmethod
    def config(
        self, adapters: Sequence[Adapter], values: Mapping[str, Any], ranks: Mapping[str, int]
    ) -> dict[str, Any]:
        """`adapter_config.json` of a result with these values, without the heads' fields."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A type of PEM: its name, one line about it, its value class, its zero, and its folders.

    `zero_like(value)` is "no change" at a site shaped as `value`'s. `folders` is None for a kind
    that no PEFT folder stores.
    """

    name: str
    summary: str
    value: type
    zero_like: Callable[[Any], Any]
    folders: FolderFormat | None


@dataclass(frozen=True, eq=False)
class Compiled:
    """A type of PEM that is read as another kind, exactly: its delta weight follows from its files.

    `open` gives an adapter whose values are of the kind named `into`.
    """

    name: str
    summary: str
    peft_types: tuple[str, ...]
    open: Callable[[PeftFolder], Adapter]
    into: str = "lora"


@dataclass(frozen=True, eq=False)
class StoredSite:
    """One site as it is written: pieces (tensor name, byte offset, data), and the value that a
    reader will get back from these bytes.
    """

    pieces: Sequence[tuple[str, int, Raw | memoryview]]
    value: Any


def refuse_non_finite(adapters: Iterable[Adapter], site: str) -> NoReturn:
    """Raise NonFiniteValue, naming the tensor of `site` (or one that sites share) that holds NaN or
    infinity, or the site where finite values overflow float64.
    """
    for adapter in adapters:
        file = adapter.folder.tensors
        own = [name for name in file.entries if f"{module_name(name)}.".startswith(f"{site}.")]
        shared = [name for name in file.entries if not name.startswith(PREFIX)]
        for tensor in (*own, *shared):
            if file.entries[tensor].dtype in FLOAT_TYPES:
                file.refuse_non_finite(tensor)
    raise NonFiniteValue(
        "the update is too large to compute with in float64", where=f"site `{display(site)}`"
    )


def target_modules(adapters: Sequence[Adapter], sites: Iterable[str]) -> list[str]:
    """`target_modules` that match exactly `sites`.

    The short list is kept where every operand has the same one and no field narrows it; otherwise
    each site is named in full, since the base model's other modules are not known.
    """
    named = sorted({site.split(".base_layer")[0] for site in sites})
    return short_names(adapters, "target_modules", named) or named


def short_names(
    adapters: Sequence[Adapter], field_name: str, sites: Sequence[str]
) -> list[str] | None:
    """The operands' common list of name endings in `field_name`, if it is one and fits `sites`."""
    configs = [adapter.folder.config for adapter in adapters]
    first = configs[0].get(field_name)
    narrowing = ("layers_to_transform", "layers_pattern", "exclude_modules")
    if (
        not isinstance(first, list)
        or not first
        or any(not isinstance(name, str) for name in first)
        or any(not isinstance(c.get(field_name), list) for c in configs)
        or any(sorted(map(str, c[field_name])) != sorted(first) for c in configs)
        or any(config.get(name) for config in configs for name in narrowing)
    ):
        return None
    fits = all(any(s == name or s.endswith(f".{name}") for name in first) for s in sites)
    return sorted(first) if fits else None


def result_config(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """The first operand's config, with the fields that only select sites taken out.

    Fields that pemath does not know are kept.
    """
    config = dict(adapters[0].folder.config)
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save"):
        if name in config:
            config[name] = None
    return config | {"inference_mode": True}


def refuse_unknown(folder: PeftFolder, unknown: Sequence[str], sites: Mapping[str, Any]) -> None:
    """Raise LayoutError for tensors that have no place, or for an adapter without sites."""
    if unknown:
        raise LayoutError(
            f"the file holds tensors that do not belong to this kind: {listing(list(unknown))}",
            where=display(folder.tensors.path),
            expected=f"tensors of a {folder.peft_type} adapter, and heads in modules_to_save",
            hint="composing without them would change what the adapter does",
        )
    if not sites:
        raise LayoutError("the adapter has no sites", where=display(folder.tensors.path))


def heads_of(folder: PeftFolder, leftovers: Sequence[str]) -> tuple[dict[str, Head], list[str]]:
    """Group tensors that belong to no site into heads; returns them and the names that fit none.

    `M.modules_to_save[.name].p` and `M.p` are two spellings of one parameter, `M.original_module.p`
    is the base's own copy, and `X.bias` belongs to a head only if the config trains biases.
    """
    wanted: dict[str, int] = {}
    for place, name in enumerate(folder.names("modules_to_save")):
        wanted.setdefault(name, place)
    biases = folder.config.get("bias") not in (None, "none")
    groups: dict[str, tuple[dict[str, str], str | None]] = {}
    unknown = []
    for tensor in leftovers:
        name = module_name(tensor)
        if ".original_module." in name:
            continue
        module, parameter, config_name = _head_parts(name, wanted)
        if module is None and ((biases and name.endswith(".bias")) or _is_saved_embedding(name)):
            module, parameter = name.rsplit(".", 1)
        if module is None:
            unknown.append(tensor)
            continue
        parameters, _ = groups.setdefault(module, ({}, config_name))
        if f"{PREFIX}{module}.{parameter}" in parameters:
            raise LayoutError(
                f"head `{display(module)}` has two tensors `{display(parameter)}`",
                where=display(folder.tensors.path),
            )
        parameters[f"{PREFIX}{module}.{parameter}"] = tensor
    heads = {m: Head(m, tensors, config_name) for m, (tensors, config_name) in groups.items()}
    return heads, unknown


def _head_parts(name: str, wanted: Mapping[str, int]) -> tuple[str | None, str, str | None]:
    before, marker, after = name.partition(".modules_to_save.")
    if marker:
        head, _, tail = after.partition(".")
        parameter = tail if tail and head not in ("weight", "bias") and before else after
        config_name = _spelled(before, wanted) or before.rsplit(".", 1)[-1]
        # `M.modules_to_save.default.weight` carries the adapter's name, `M.modules_to_save.weight`
        # does not; a nested module's parameter keeps its dots.
        return before, parameter if head == "default" or parameter == after else after, config_name
    parts = name.split(".")
    for position in range(1, len(parts)):
        module = ".".join(parts[:position])
        spelled = _spelled(module, wanted)
        if spelled is not None:
            return module, ".".join(parts[position:]), spelled
    return None, "", None


def _spelled(module: str, wanted: Mapping[str, int]) -> str | None:
    """The first of the `wanted` names (with their places) that the module's name ends with."""
    starts = (0, *(at + 1 for at, letter in enumerate(module) if letter == "."))
    fitting = [module[start:] for start in starts if module[start:] in wanted]
    return min(fitting, key=wanted.__getitem__, default=None)


def _is_saved_embedding(name: str) -> bool:
    """The base's own (possibly resized) embedding, which PEFT may store beside the adapter."""
    return name.endswith(
        ("embed_tokens.weight", "lm_head.weight", ".base_layer.weight", "wte.weight", "shared.weight",
         "word_embeddings.weight", "embed_out.weight", "output_layer.weight")
    )  # fmt: skip
