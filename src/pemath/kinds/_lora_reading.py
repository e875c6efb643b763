"""Reading a LoRA folder: which tensors form a site, its geometry, its scale, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from pemath.errors import ConfigError, LayoutError, PemathError, UnsupportedFeature
from pemath.formats.floats import FloatType, Stored, common_type
from pemath.formats.patterns import Patterns
from pemath.formats.peft import PeftFolder, module_name
from pemath.kinds._geometry import Geometry
from pemath.limits import LIMITS
from pemath.lowrank import LowRank, Part
from pemath.names import display
from pemath.references import CONFIG

_FACTOR = re.compile(
    r"(?P<site>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])"
    r"(?:\.(?!weight$|bias$)(?P<adapter>\w+))?(?:\.(?P<leaf>weight|bias))?"
)
# Tensors of training-time variants that do not enter the forward pass.
_IGNORED = re.compile(r".+\.(lora_velora_embed|lora_monteclora_sampler\.).*")
TRAINING_ONLY = (
    "velora_config",
    "monteclora_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
)

_RESAVE = (
    "save it again with PEFT's "
    "save_pretrained(..., path_initial_model_for_weight_conversion=INITIAL_ADAPTER)"
)
# Config fields that change what the weights mean. Value: why they are refused.
_REFUSED_FIELDS = {
    "use_dora": "DoRA normalises by the base weights, so its update is not linear in the adapter",
    "use_qalora": "QA-LoRA pools its inputs in groups",
    "kasa_config": "KaSA adds a diagonal and truncates the base weights",
    "use_bdlora": "BD-LoRA stores block-diagonal factors",
    "arrow_config": "Arrow routes tokens between adapters at run time",
    "alora_invocation_tokens": "an activated LoRA acts only behind certain tokens",
    "layer_replication": "replicated layers belong to another stack than the base model's",
    "megatron_config": "Megatron shards the adapted layers",
    "trainable_token_indices": "trained token rows are absolute values, not an update",
    "ensure_weight_tying": "tied embeddings share one adapter between transposed weights",
}
_BASE_WEIGHTS = (
    "`compose` and `convert` read DoRA beside its base weights: add --base-weights FOLDER"
)
_REFUSED_INITIALISATIONS = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass
class SiteTensors:
    """Names of one site's tensors."""

    names: dict[str, str] = field(default_factory=dict)
    embedding: bool = False

    def a(self, folder: PeftFolder) -> Stored:
        """The tensor A."""
        return folder.tensors.stored(self.names["A"])

    def b(self, folder: PeftFolder) -> Stored:
        """The tensor B."""
        return folder.tensors.stored(self.names["B"])

    def bias(self, folder: PeftFolder) -> Stored | None:
        """The bias of B, if there is one."""
        return folder.tensors.stored(self.names["bias"]) if "bias" in self.names else None


def group_tensors(folder: PeftFolder) -> tuple[dict[str, SiteTensors], list[str]]:
    """The tensors of each site, in file order, and the names of those that belong to none.

    Raises: LayoutError for a factor that stands twice or alone.
    """
    sites: dict[str, SiteTensors] = {}
    leftovers = []
    where = display(folder.tensors.path)
    for tensor in folder.tensors.entries:
        name = module_name(tensor)
        match = _FACTOR.fullmatch(name)
        if match is None:
            if not _IGNORED.fullmatch(name):
                leftovers.append(tensor)
            continue
        site = sites.setdefault(
            match["site"], SiteTensors(embedding=match["embedding"] is not None)
        )
        role = "bias" if match["leaf"] == "bias" else match["factor"]
        if site.embedding != (match["embedding"] is not None) or (
            role == "bias" and match["factor"] == "A"
        ):
            leftovers.append(tensor)
            continue
        if role in site.names:
            raise LayoutError(
                f"site `{display(match['site'])}` has two tensors {role}",
                where=where,
                found=f"`{display(site.names[role])}` and `{display(tensor)}`",
                hint="the file holds more than one adapter: save them apart",
            )
        site.names[role] = tensor
    for site_name, site in sites.items():
        if not {"A", "B"} <= site.names.keys():
            raise LayoutError(
                f"site `{display(site_name)}` lacks one of its two factors",
                where=where,
                found=", ".join(sorted(site.names)),
                expected="lora_A and lora_B",
            )
    return sites, leftovers


def geometry(
    folder: PeftFolder, site: str, tensors: SiteTensors, scales: Scales
) -> tuple[Geometry, int]:
    """The geometry and the rank of a site, from its tensors' shapes.

    Raises: LayoutError where the shapes of A and B do not go together.
    """
    a, b = (folder.tensors.entries[tensors.names[role]].shape for role in "AB")
    bad = LayoutError(
        f"the factors of site `{display(site)}` do not fit together",
        where=display(folder.tensors.path),
        found=f"A {list(a)}, B {list(b)}",
        expected="A [r, in] and B [out, r], or their convolution forms",
    )
    if len(a) != len(b) or len(a) < 2 or 0 in a or 0 in b:
        raise bad
    result, rank = Geometry("linear", b[0], a[1:]), a[0]
    if len(a) > 2:
        if any(n != 1 for n in b[2:]) or a[0] % b[1] or b[0] % (a[0] // b[1]):
            raise bad
        result = Geometry("conv", b[0], a[1:], a[0] // b[1])
    elif tensors.embedding:
        result = Geometry("embedding", b[0], a[1:])
    elif expert_parameters(folder, site):
        rank, _ = scales.of_experts(site)
        if a[0] % rank:
            raise bad
        result = Geometry("experts", b[0], a[1:], a[0] // rank)
    if result.shape_a(rank) != a or result.shape_b(rank) != b:
        raise bad
    bias = tensors.names.get("bias")
    if bias and folder.tensors.entries[bias].shape != (b[0],):
        raise bad
    return result, rank


def bias_product(bias: Stored, outputs: int, scale: float) -> LowRank:
    """scale * bias as an [out, 1] product."""
    one = Stored.of(np.ones((1, 1)))
    column = Stored(bias.raw.reshape(outputs, 1), bias.kind)
    return LowRank((outputs, 1), (Part(one, column, scale),))


def dtype(folder: PeftFolder, sites: Mapping[str, SiteTensors]) -> FloatType:
    """The narrowest type that holds all factors."""
    names = [name for site in sites.values() for name in site.names.values()]
    return common_type([folder.tensors.float_type(name) for name in names])


class Scales:
    """r and alpha at each site: `r`, `lora_alpha`, their patterns, and rsLoRA's square root.

    `alpha` is the name of alpha's field.
    """

    def __init__(self, folder: PeftFolder, alpha: str = "lora_alpha") -> None:
        self._folder = folder
        self._alpha_field = alpha
        self._where = display(folder.path / CONFIG)
        config = folder.config
        self._ranks = Patterns(config.get("rank_pattern"), self._where)
        self._alphas = Patterns(config.get("alpha_pattern"), self._where)
        self._root = bool(config.get("use_rslora"))

    def at(self, site: str, rank: int) -> float:
        """What multiplies B A at `site`, whose factors have `rank`: alpha / r, or alpha / √r.

        Raises: ConfigError for an alpha that is no finite number, LayoutError if the config says
        another rank than the tensors.
        """
        if expert_parameters(self._folder, site):
            _, parameter = self.of_experts(site)
            return self._scale(parameter, rank)
        module = site.split(".base_layer", maxsplit=1)[0]
        self.agree(module, rank)
        return self._scale(module, rank)

    def agree(self, module: str, rank: int) -> None:
        """Raise LayoutError if the config says another rank than the tensors."""
        stated = self._rank(module)
        if stated != rank:
            raise LayoutError(
                f"the config and the tensors disagree on the rank of `{display(module)}`",
                where=self._where,
                found=f"r = {display(stated, 40)}",
                expected=f"{rank}, as in {display(self._folder.tensors.path.name)}",
            )

    def rank(self, module: str) -> int:
        """The rank that the config says. Raises ConfigError if it is no positive whole number."""
        return self._positive(self._rank(module))

    def of_experts(self, site: str) -> tuple[int, str]:
        """The rank of an expert parameter's factors, and the parameter's full name.

        PEFT nests the factors of one module's parameters in the order in which the base registers
        them, which no file states. It does not matter where all have one rank and alpha; otherwise
        the shapes must leave one order only. Raises: UnsupportedFeature if they leave several.
        """
        module = site.replace(".base_layer", "")
        names = [f"{module}.{name}" for name in expert_parameters(self._folder, site)]
        facts = {name: (self._positive(self._rank(name)), self._alpha(name)) for name in names}
        if len(set(facts.values())) == 1:
            return facts[names[0]][0], names[0]
        levels = self._levels(module)
        if max(len(names), len(levels)) > LIMITS.nested_parameters:
            raise UnsupportedFeature(
                f"`{display(module)}` has too many target_parameters to tell their order",
                where=self._where,
                found=len(names),
                expected=f"at most {LIMITS.nested_parameters} with different ranks or alphas",
            )
        fitting = [
            order
            for order in permutations(names, len(levels))
            if len({a[0] / facts[name][0] for (_, a, _), name in zip(levels, order, strict=True)})
            == 1
            and _fits_gated_unit(
                {
                    name.rpartition(".")[2]: (a, b)
                    for name, (_, a, b) in zip(order, levels, strict=True)
                }
            )
        ]
        if len(fitting) != 1:
            raise UnsupportedFeature(
                f"which parameter of `{display(module)}` each factor belongs to cannot be known",
                where=self._where,
                expected="one rank and alpha for all of a module's target_parameters, or ranks "
                "that fit in one order only",
            )
        for (level, _, _), name in zip(levels, fitting[0], strict=True):
            if level == site:
                return facts[name][0], name
        raise LayoutError(f"site `{display(site)}` is not nested as PEFT nests", where=self._where)

    def _levels(self, module: str) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """The sites nested on an expert module, with the shapes of A and B."""
        entries = self._folder.tensors.entries
        found = []
        for tensor, entry in entries.items():
            site = module_name(tensor).removesuffix(".lora_A.weight")
            other = entries.get(tensor.replace(".lora_A.", ".lora_B."))
            is_factor = tensor.endswith(".lora_A.weight") and other is not None
            if is_factor and other and site.replace(".base_layer", "") == module:
                found.append((site, entry.shape, other.shape))
        return sorted(found)

    def _scale(self, module: str, rank: int) -> float:
        alpha = self._alpha(module)
        return alpha / math.sqrt(rank) if self._root else alpha / rank

    def _rank(self, module: str) -> Any:
        stated = self._ranks.get(module, self._folder.config.get("r"))
        return None if isinstance(stated, bool) else stated

    def _positive(self, rank: Any) -> int:
        if not isinstance(rank, int) or not 1 <= rank <= LIMITS.tensor_elements:
            raise ConfigError(
                "`r` is not a positive whole number",
                where=self._where,
                found=display(rank, 40),
                expected=f"at most {LIMITS.tensor_elements}",
            )
        return rank

    def _alpha(self, module: str) -> float:
        alpha = self._alphas.get(module, self._folder.config.get(self._alpha_field))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e30:
            raise ConfigError(
                f"{self._alpha_field} at `{display(module)}` is not a finite number",
                where=self._where,
                found=display(alpha, 40),
            )
        return float(alpha)


def _fits_gated_unit(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """False where (A, B) shapes contradict the names of a gated unit's two parameters: gate_up_proj
    maps hidden to 2 × intermediate, down_proj intermediate to hidden.
    """
    if set(shapes) != {"gate_up_proj", "down_proj"}:
        return True
    (gate_a, gate_b), (down_a, down_b) = shapes["gate_up_proj"], shapes["down_proj"]
    return gate_a[-1] == down_b[0] and gate_b[0] == 2 * down_a[-1]


def obstacles(folder: PeftFolder) -> list[PemathError]:
    """Reasons in the config why the weights cannot be composed."""
    where = display(folder.path / CONFIG)
    found: list[PemathError] = []
    for name, reason in _REFUSED_FIELDS.items():
        if folder.config.get(name):
            hint = _BASE_WEIGHTS if name == "use_dora" else None
            found.append(
                UnsupportedFeature(f"`{name}` is not supported: {reason}", where=where, hint=hint)
            )
    start = folder.config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REFUSED_INITIALISATIONS):
        found.append(
            UnsupportedFeature(
                f"`init_lora_weights={display(start, 40)}` moved a part of the base weights into the "
                "adapter, so the update against the original base cannot be known from these files",
                where=where,
                hint=_RESAVE,
            )
        )
    return found


def notes(folder: PeftFolder) -> list[str]:
    """What a reader of the config should know."""
    found = []
    start = folder.config.get("init_lora_weights")
    if isinstance(start, str):
        found.append(f"initialised by {display(start, 40)}")
    if folder.config.get("use_rslora"):
        found.append("rsLoRA scaling (alpha / √r), folded in")
    if any(folder.config.get(name) for name in ("rank_pattern", "alpha_pattern")):
        found.append("rank or alpha patterns, folded in")
    return found


def expert_parameters(folder: PeftFolder, site: str) -> list[str]:
    """The `target_parameters` of the module at `site`, by their last names."""
    parameters = folder.config.get("target_parameters")
    module = site.replace(".base_layer", "")
    found = []
    for parameter in parameters if isinstance(parameters, list) else []:
        owner, _, name = str(parameter).rpartition(".")
        if owner and (module == owner or module.endswith(f".{owner}")):
            found.append(name)
    return found
