"""Adapter folders, whoever trained them, opened and checked before a model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pemath.composition.plan import make_plan
from pemath.composition.request import ComposeRequest
from pemath.errors import HeadChoiceNeeded, KindMismatch, LayoutError, PemathError, RequestError
from pemath.expression.parser import parse
from pemath.expression.tree import occurrences
from pemath.formats.files import sha256
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, open_adapter
from pemath.lab.assets import ASSETS
from pemath.lab.modules import PEMS
from pemath.lab.own.card import Card, read_card
from pemath.lab.setting import Module
from pemath.names import display, listing
from pemath.references import CONFIG, STATISTICS, WEIGHTS, resolve

_HEADS = (".classifier.", ".score.")  # what transformers calls them


@dataclass(frozen=True)
class Foreign(Module):
    """A module in any folder: its digest is that of its files, not the folder's name."""

    adapter: Adapter
    card: Card | None
    content: str

    @property
    def digest(self) -> str:
        """What determines the module."""
        return self.content


def open_operands(bound: Mapping[str, str], statistics: Mapping[str, str]) -> dict[str, Foreign]:
    """The modules by name, all of one kind. Raises: InputError, KindMismatch, StorageError."""
    modules = {
        name: _opened(name, reference, statistics.get(name)) for name, reference in bound.items()
    }
    kinds = {name: module.pem for name, module in modules.items()}
    if len(set(kinds.values())) > 1:
        raise KindMismatch(
            "operands of different kinds have no sum that is one PEM",
            found=", ".join(f"{name} is {kind}" for name, kind in kinds.items()),
            expected="one kind",
        )
    for name, kind in kinds.items():
        if kind not in PEMS:
            raise KindMismatch(
                f"operand `{display(name)}` is {kind}", expected=f"one of {listing(list(PEMS))}"
            )
    return modules


def check_names(expression: str, bound: Mapping[str, str]) -> None:
    """Refuse references within an expression, and bindings without use. Raises: UsageError."""
    used: set[str] = set()
    for operand in occurrences(parse(expression, dict(bound))):
        if operand.name is None:
            shown = display(operand.reference)
            raise RequestError(
                f"`{shown}` has no name", hint=f"bind it: write a in the expression, and a={shown}"
            )
        used.add(operand.name)
    unused = sorted(set(bound) - used)
    if unused:
        raise RequestError(
            f"bound but not used in the expression: {listing(unused)}",
            hint="remove the binding, or use the name",
        )


def check_expression(
    expression: str, modules: Mapping[str, Foreign], statistics: Mapping[str, str]
) -> None:
    """Refuse what cannot be composed. Raises: UsageError, InputError, OperandError."""
    folders = {name: str(module.folder) for name, module in modules.items()}
    used = {operand.name for operand in occurrences(parse(expression, folders))}
    request = ComposeRequest(
        expression=expression,
        operands={name: folder for name, folder in folders.items() if name in used},
        statistics={name: file for name, file in statistics.items() if name in used},
        heads="average",
        dtype="float32",
    )
    try:
        make_plan(request)
    except HeadChoiceNeeded as error:
        raise HeadChoiceNeeded(
            error.what,
            where=f"`{display(expression)}`",
            hint="compose it with --heads NAME into a folder, and evaluate that",
        ) from None


def check_head(name: str, module: Foreign, outputs: int) -> None:
    """Refuse a module whose head does not answer with `outputs` numbers. Raises: LayoutError."""
    entries = module.adapter.folder.tensors.entries
    widths = [
        entry.shape[0]
        for tensor, entry in entries.items()
        if any(head in f".{tensor}" for head in _HEADS) and tensor.endswith(".weight")
    ]
    if not widths:
        raise LayoutError(
            f"operand `{display(name)}` has no classification head, so it answers nothing",
            where=display(module.folder),
            hint="keep the head (--heads average), or give a model that generates, and a prompt",
        )
    if outputs not in widths:
        raise LayoutError(
            f"the head of operand `{display(name)}` does not fit the labels",
            where=display(module.folder),
            found=f"{min(widths)} outputs",
            expected=outputs,
            hint="name the labels that it was trained with: --labels",
        )


def base_notes(modules: Mapping[str, Foreign], model: str) -> Iterator[str]:
    """Operands that name another base than the one they are asked on."""
    asset = ASSETS.get(model)
    asked_on = asset.hub_name if asset is not None else model
    for name, module in modules.items():
        stated = module.adapter.folder.base_model
        if stated and _tail(stated) != _tail(asked_on):
            yield f"{name} names {display(stated)} as its base, and is asked on {display(asked_on)}"


def _opened(name: str, reference: str, statistics: str | None) -> Foreign:
    try:
        folder = resolve(reference).folder
        adapter = open_adapter(PeftFolder.open(folder))
        if adapter.obstacles:
            raise adapter.obstacles[0]
        card = read_card(folder)
        extra = Path(statistics) if statistics is not None else folder / STATISTICS
        files = [folder / CONFIG, folder / WEIGHTS, *([extra] if extra.is_file() else [])]
        total = hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
    except PemathError as error:
        raise error.within(f"operand `{display(name, 60)}`") from None
    return Foreign(folder, adapter.kind.name, {}, adapter, card, total)


def _tail(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
