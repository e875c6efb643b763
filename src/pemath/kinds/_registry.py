"""The registry of kinds: filled by importing every module of this package once."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from pemath import kinds as package
from pemath.errors import UnsupportedKind
from pemath.formats.peft import PeftFolder
from pemath.kinds._contract import Adapter, Kind
from pemath.names import display

_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known by its name. Raises ValueError if the name is taken."""
    if kind.name in _KINDS:
        raise ValueError(f"kind {kind.name} is registered twice")
    _KINDS[kind.name] = kind
    return kind


@cache
def kinds() -> dict[str, Kind]:
    """All kinds by name."""
    for module in iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_KINDS.items()))


def open_adapter(folder: PeftFolder) -> Adapter:
    """Open the adapter in `folder` with the kind that its config names. Raises UnsupportedKind."""
    wanted = folder.peft_type
    supported: list[str] = []
    for kind in kinds().values():
        if kind.folders is not None:
            if wanted in kind.folders.peft_types:
                return kind.folders.open(folder)
            supported += kind.folders.peft_types
    close = difflib.get_close_matches(wanted, supported, 1)
    raise UnsupportedKind(
        f"PEM type `{display(wanted) or 'missing'}` is not supported",
        where=display(folder.path),
        expected=f"peft_type {' or '.join(supported)}",
        hint=f"did you mean {close[0]}?" if close else "`pemath kinds` lists what can be composed",
    )
