"""Everything that can be decided, and refused, before a tensor is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pemath.composition.evaluate import Evaluator
from pemath.composition.heads import HeadPlan, plan_heads
from pemath.composition.layers import check_layers
from pemath.composition.request import ComposeRequest
from pemath.errors import BaseMismatch, KindMismatch, OperandError, PemathError, RequestError
from pemath.expression.linear import applied, linearised, normal_form, weight
from pemath.expression.tree import Expression, Layered, Operand, nodes, occurrences
from pemath.formats.checkpoint import Checkpoint, is_checkpoint
from pemath.formats.floats import BY_NAME, FloatType, common_type
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, FolderFormat, Kind, dora, lora, open_adapter
from pemath.kinds._difference import task_vector
from pemath.kinds._dora import Dora
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.names import display, listing
from pemath.references import CONFIG, Resolved

# Kinds whose values have a rank, which can be chosen.
RANKED = ("lora", "dora")


@dataclass(frozen=True, eq=False)
class Plan:
    """A request whose references are resolved and whose headers are checked.

    `expression` has the arithmetic applied; `exact` holds each site's exact value, not yet read.
    """

    request: ComposeRequest
    expression: Expression
    adapters: Mapping[Operand, Adapter]
    names: Mapping[Operand, str]
    kind: Kind
    folders: FolderFormat
    evaluator: Evaluator
    exact: Mapping[str, Any]
    dtype: FloatType
    heads: Sequence[HeadPlan]
    base_model: str | None
    notes: Sequence[str]
    base: Checkpoint | None = None

    @cached_property
    def is_linear(self) -> bool:
        """Whether the result is the exact sum itself, no method in between."""
        return all(isinstance(atom, Operand) for atom in self.evaluator.atoms(self.expression))

    def base_digests(self) -> dict[str, str]:
        """SHA-256 of each base weight that the values are computed from, by its name."""
        if self.base is None:
            return {}
        names = {v.base.name for v in self.exact.values() if isinstance(v, Dora)}
        if any(not (a.folder.path / CONFIG).is_file() for a in self.adapters.values()):
            names = set(self.base.shards)  # a checkpoint was compared with all of it
        return {name: self.base.sha256(name) for name in sorted(names)}

    def value(self, site: str) -> Any:
        """The expression's value at `site`, methods applied, before rank and rounding."""
        if self.is_linear:
            return simplified(self.exact[site])
        found = self.evaluator.value(self.expression, site)
        zero = self.exact[site] * 0.0
        return zero if found is None else simplified(zero + found)


def simplified(value: Any) -> Any:
    """A LoRA with parts of one A merged; other kinds as they are."""
    return value.mapped(LowRank.simplified) if isinstance(value, Lora) else value


def make_plan(request: ComposeRequest) -> Plan:
    """Parse, resolve and open; check kinds, shapes, methods, base models and heads.

    Raises: UsageError, InputError, OperandError, StorageError.
    """
    tree = request.tree
    unused = set(request.operands) - {operand.name for operand in occurrences(tree)}
    if unused:
        raise RequestError(
            f"bound but not used in the expression: {listing(sorted(unused))}",
            hint="remove the binding, or use the name",
        )
    expression = applied(request.method(), tree) if request.arithmetic != "exact" else tree
    if not request.resolved:
        raise RequestError("the expression has no operands")
    base = Checkpoint.open(Path(request.base_weights)) if request.base_weights else None
    adapters = _opened(request.resolved, base)
    names = operand_names(adapters)
    for operand, adapter in adapters.items():
        if adapter.obstacles:
            raise adapter.obstacles[0].within(_operand(operand))
    adapters = _on_one_base(adapters, base)
    kind, folders = _common_kind(adapters, names)
    if kind.name not in RANKED and (request.rank or request.max_error is not None):
        raise RequestError(
            f"--rank and --max-error are for LoRA and DoRA, and these are {kind.name}"
        )
    _check_shared_fields(adapters, names)
    check_layers(tree, adapters)
    evaluator = Evaluator(adapters, request.statistics_files)
    exact = folders.unify(_exact_values(evaluator, expression, adapters))
    linear = linearised(expression)
    heads, notes = plan_heads(
        [(names[op], adapter, partial(_weight, linear, op)) for op, adapter in adapters.items()],
        request.heads,
    )
    base_model, base_notes = _base_model(request, adapters, names)
    return Plan(
        request=request,
        expression=expression,
        adapters=adapters,
        names=names,
        kind=kind,
        folders=folders,
        evaluator=evaluator,
        exact=exact,
        dtype=BY_NAME[request.dtype]
        if request.dtype
        else common_type(a.dtype for a in adapters.values()),
        heads=heads,
        base_model=base_model,
        notes=[*base_notes, *notes, *_statistics_notes(evaluator, names)],
        base=base,
    )


def _opened(
    resolved: Mapping[Operand, Resolved], base: Checkpoint | None
) -> dict[Operand, Adapter]:
    adapters = {}
    for operand, source in resolved.items():
        try:
            adapters[operand] = _opened_one(source.folder, base)
        except PemathError as error:
            raise error.within(_operand(operand)) from None
    return adapters


def _opened_one(folder: Path, base: Checkpoint | None) -> Adapter:
    """An adapter, or a fine-tuned checkpoint as the difference from its base."""
    if base is not None and not (folder / CONFIG).is_file() and is_checkpoint(folder):
        return task_vector(Checkpoint.open(folder), base)
    return open_adapter(PeftFolder.open(folder), base)


def _on_one_base(
    adapters: Mapping[Operand, Adapter], base: Checkpoint | None
) -> dict[Operand, Adapter]:
    """Beside a DoRA every LoRA is one too. Raises LayoutError, ShapeMismatch, UnsupportedFeature."""
    found = dict(adapters)
    if base is None or all(adapter.kind is not dora.KIND for adapter in adapters.values()):
        return found
    for operand, adapter in adapters.items():
        try:
            if adapter.kind is lora.KIND:
                found[operand] = dora.on_base(adapter, base)
        except PemathError as error:
            raise error.within(_operand(operand)) from None
    return found


def _operand(operand: Operand) -> str:
    return f"operand `{display(operand.name or operand.reference, 60)}`"


def operand_names(adapters: Mapping[Operand, Adapter]) -> dict[Operand, str]:
    """A name for each operand: what the expression calls it, else its reference."""
    names: dict[Operand, str] = {}
    for operand in adapters:
        name = operand.name or display(operand.reference, 60)
        same = sum(1 for taken in names.values() if taken.partition(" #")[0] == name)
        names[operand] = f"{name} #{same + 1}" if same else name
    return names


def _common_kind(
    adapters: Mapping[Operand, Adapter], names: Mapping[Operand, str]
) -> tuple[Kind, FolderFormat]:
    kinds = {names[op]: adapter.kind for op, adapter in adapters.items()}
    distinct = {kind.name for kind in kinds.values()}
    if len(distinct) > 1:
        raise KindMismatch(
            "operands of different kinds have no sum that is one PEM",
            found=", ".join(f"{name} is {kind.name}" for name, kind in kinds.items()),
            expected="one kind",
        )
    kind = next(iter(kinds.values()))
    if kind.folders is None:
        raise KindMismatch(f"no folder stores the kind {kind.name}")
    return kind, kind.folders


def _check_shared_fields(adapters: Mapping[Operand, Adapter], names: Mapping[Operand, str]) -> None:
    """Expert parameters are nested in an order that only equal `target_parameters` fix."""
    stated = {
        names[op]: sorted(adapter.folder.names("target_parameters"))
        for op, adapter in adapters.items()
        if adapter.folder.config.get("target_parameters")
    }
    first = next(iter(stated.values()), [])
    for name, value in stated.items():
        if value != first:
            raise OperandError(
                "operands differ in `target_parameters`, so their tensors cannot be matched",
                found=f"{name} has {listing(value) or 'none'}",
                expected=listing(first) or "none",
            )


def _exact_values(
    evaluator: Evaluator, expression: Expression, adapters: Mapping[Operand, Adapter]
) -> dict[str, Any]:
    linear = linearised(expression)
    exact: dict[str, Any] = {}
    refused: dict[str, OperandError] = {}
    for site in dict.fromkeys(site for adapter in adapters.values() for site in adapter.sites):
        value = evaluator.value(linear, site)
        if value is None:
            holder = next(adapter for adapter in adapters.values() if site in adapter.sites)
            value = holder.kind.zero_like(holder.sites[site])
        exact[site] = value
        error = evaluator.check(expression, site)
        if error is not None:
            refused[site] = error
    if refused:
        first = next(iter(refused.values()))
        raise type(first)(
            first.what,
            where=f"{len(refused)} site(s): {listing(list(refused))}",
            found=first.found,
            expected=first.expected,
            hint=first.hint,
        )
    return exact


def _weight(linear: Expression, operand: Operand, module: str) -> float:
    """What an operand weighs in the head of this name: NaN where weights by layer have no key for
    it.
    """
    layered = [node for node in nodes(linear) if isinstance(node, Layered)]
    for node in layered:
        if node.weights.decides(module) is None and operand in occurrences(node.term):
            return math.nan
    return weight(normal_form(linear, module).get(operand, Fraction(0)))


def _statistics_notes(evaluator: Evaluator, names: Mapping[Operand, str]) -> list[str]:
    return [
        f"statistics of `{display(names[operand])}` measured on {known.rows()}"
        for operand, known in evaluator.statistics.items()
    ]


def _base_model(
    request: ComposeRequest, adapters: Mapping[Operand, Adapter], names: Mapping[Operand, str]
) -> tuple[str | None, list[str]]:
    """The base model's name. Raises BaseMismatch if operands name different ones."""
    stated = {names[op]: a.folder.base_model for op, a in adapters.items() if a.folder.base_model}
    distinct = list(dict.fromkeys(stated.values()))
    if request.base_model is not None:
        return request.base_model, [f"base model set to `{display(request.base_model)}` by request"]
    if len(distinct) <= 1:
        return (distinct[0] if distinct else None), []
    tails = {
        str(name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower() for name in distinct
    }
    if len(tails) == 1:
        return distinct[0], [
            f"operands spell the base model differently ({listing([str(d) for d in distinct])}); "
            f"`{display(distinct[0])}` is written"
        ]
    raise BaseMismatch(
        "operands name different base models",
        found=", ".join(f"{name}: `{display(base)}`" for name, base in stated.items()),
        expected="one base model: an update is only meaningful on the weights it was trained on",
        hint="if these are the same weights under two names, say so with --base-model NAME",
    )
