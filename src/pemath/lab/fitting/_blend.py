"""A base model with a weighted sum of modules in it, as a differentiable function of the weights.

Every parameter that a module has is linear in the weights: B of a LoRA with the factors side by
side, an (IA)³ vector around one, a full fine-tuning around the base. So no delta is ever merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.composition.run import compose
from pemath.errors import UnsupportedFeature
from pemath.formats.peft import PREFIX
from pemath.kinds.lora import Lora
from pemath.lab.evaluate import Host
from pemath.lab.fitting._groups import Groups
from pemath.lab.models import Base
from pemath.lab.modules import parameters_of, read_tensors
from pemath.lab.own.operands import Foreign
from pemath.names import display

_SIDES = (".lora_A.", ".lora_embedding_A")  # factors whose rows stand below each other
_LAST = (".lora_", ".ia3_l")  # where a tensor's name ends to be that of its site


@dataclass(frozen=True, eq=False)
class _Sum:
    """A parameter: `start` + Σ wᵢ partᵢ, or, without a start, [w₁ part₁, w₂ part₂, …]."""

    owners: Sequence[tuple[Any, str]]
    start: Any | None
    parts: Sequence[tuple[int, Any]]
    column: int

    def put(self, weights: Any) -> None:
        import torch

        terms = [part * weights[index, self.column].to(part) for index, part in self.parts]
        value = torch.cat(terms, dim=1) if self.start is None else sum(terms, self.start)
        for module, name in self.owners:
            setattr(module, name, value)


class Blend:
    """The model of `base` with Σ wᵢ moduleᵢ in it; `put` sets the weights [operands, groups].

    Heads are those of equal weights. `scratch` is an empty folder. Raises: LayoutError where a
    module does not fit the model, UnsupportedFeature for a LoRA of another form than B A.
    """

    def __init__(
        self, base: Base, modules: Mapping[str, Foreign], groups: Groups, scratch: Path
    ) -> None:
        import torch

        for name, module in modules.items():
            _refuse_blocks(name, module)
        pem = next(iter(modules.values())).pem
        folders = {name: str(module.folder) for name, module in modules.items()}
        start = parameters_of(base) if pem == "full" else {}
        parts = [
            read_tensors(
                compose(
                    name,
                    scratch / f"{index}",
                    operands={name: folder},
                    heads="drop",
                    dtype="float32",
                ).folder
            )
            for index, (name, folder) in enumerate(folders.items())
        ]
        equal = compose(
            " + ".join(f"{name}/{len(folders)}" for name in folders),
            scratch / "equal",
            operands=folders,
            heads="average",
            dtype="float32",
        )
        host = Host(base, pem, equal.folder)
        self.model = host.model.eval().requires_grad_(requires_grad=False)
        anchor = next(self.model.parameters())
        self._sums = list(_sums(host, start, parts, groups))
        if not any(True for _ in self.model.parameters()):
            # Libraries ask a model's first parameter for its type and device.
            empty = torch.nn.Parameter(anchor.new_empty(0), requires_grad=False)
            self.model.register_parameter("anchor", empty)

    def put(self, weights: Any) -> None:
        """Set the weights, a tensor; what the model then says can be differentiated by them."""
        for one in self._sums:
            one.put(weights)


def _sums(
    host: Host, start: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], groups: Groups
) -> Any:
    """The parameters that depend on weights; those that do not are set here."""
    import torch

    owners: dict[int, list[tuple[Any, str]]] = {}
    for module in host.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))  # several where it is tied
    for name, place in host.places.items():
        held = [
            (index, tensors[PREFIX + name].to(place))
            for index, tensors in enumerate(parts)
            if PREFIX + name in tensors
        ]
        if not held:
            continue
        if any(side in name for side in _SIDES):
            place.data = torch.cat([tensor for _, tensor in held], dim=0)
            continue
        places = owners[id(place)]
        for module, attribute in places:
            delattr(module, attribute)  # a result of arithmetic is no parameter
        site = min((name.split(last)[0] for last in _LAST), key=len)
        base = None
        if start:
            base = start[name].to(place)
        elif ".ia3_l" in name:
            base = torch.ones_like(place)
            held = [(index, tensor - base) for index, tensor in held]
        elif name.endswith(".bias"):
            base = torch.zeros_like(place)
        yield _Sum(places, base, held, groups.column[site])


def _refuse_blocks(name: str, module: Foreign) -> None:
    for site, value in module.adapter.sites.items():
        if isinstance(value, Lora) and value.geometry.blocks != 1:
            raise UnsupportedFeature(
                "weights are fitted to LoRAs of linear layers, embeddings and plain convolutions",
                where=f"operand `{display(name)}`: site `{display(site)}`",
                found=f"{value.geometry.layout} with {value.geometry.blocks} products",
            )
