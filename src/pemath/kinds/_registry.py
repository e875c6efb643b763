"""The registry of kinds: filled by importing every module of this package once, and plug-ins."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from pemath import kinds as package
from pemath import plugins
from pemath.errors import UnsupportedKind
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.peft import PeftFolder
from pemath.kinds._contract import Adapter, Compiled, Kind
from pemath.kinds._refused import REFUSED
from pemath.names import display

GROUP = "pemath.kinds"

_REGISTRY: dict[str, Kind | Compiled] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known by its name. Raises ValueError if the name is taken."""
    _add(kind)
    return kind


def register_compiled(kind: Compiled) -> Compiled:
    """Make known a kind that is read as another one. Raises ValueError if the name is taken."""
    _add(kind)
    return kind


def _add(kind: Kind | Compiled) -> None:
    if kind.name in _REGISTRY:
        raise ValueError(f"kind {kind.name} is registered twice")
    _REGISTRY[kind.name] = kind


def kinds() -> dict[str, Kind]:
    """All kinds by name: pemath's own, and those of installed plug-ins."""
    return {name: kind for name, kind in _all().items() if isinstance(kind, Kind)}


def compiled_kinds() -> dict[str, Compiled]:
    """All kinds that are read as another one, by name."""
    return {name: kind for name, kind in _all().items() if isinstance(kind, Compiled)}


def _all() -> dict[str, Kind | Compiled]:
    _load_built_in()
    _load_plugins()
    return dict(sorted(_REGISTRY.items()))


@cache
def _load_built_in() -> None:
    for module in iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"{package.__name__}.{module.name}")


@cache
def _load_plugins() -> None:
    plugins.load(GROUP, _REGISTRY, (Kind, Compiled))


def _openers() -> dict[str, Callable[[PeftFolder], Adapter]]:
    """What opens a folder, by its `peft_type`. What was registered first stays."""
    found: dict[str, Callable[[PeftFolder], Adapter]] = {}
    for kind in _REGISTRY.values():
        if isinstance(kind, Compiled):
            found = dict.fromkeys(kind.peft_types, kind.open) | found
        elif kind.folders is not None:
            found = dict.fromkeys(kind.folders.peft_types, kind.folders.open) | found
    return found


def open_adapter(folder: PeftFolder, base: Checkpoint | None = None) -> Adapter:
    """Open the adapter in `folder` with the kind that its config names, beside the base weights if
    they are given. Raises UnsupportedKind.

    Plug-ins are looked for only where pemath itself does not know the type.
    """
    _load_built_in()
    for kind in _REGISTRY.values() if base is not None else ():
        if isinstance(kind, Kind) and kind.folders is not None and base is not None:
            found = kind.folders.on_base(folder, base)
            if found is not None:
                return found
    if folder.peft_type not in _openers():
        _load_plugins()
    wanted, known = folder.peft_type, _openers()
    if wanted in known:
        return known[wanted](folder)
    where = display(folder.path)
    if wanted in REFUSED:
        reason, hint = REFUSED[wanted]
        raise UnsupportedKind(f"{wanted} is not supported: {reason}", where=where, hint=hint)
    close = difflib.get_close_matches(wanted, known, 1)
    raise UnsupportedKind(
        f"PEM type `{display(wanted) or 'missing'}` is not supported",
        where=where,
        expected=f"peft_type {' or '.join(sorted(known))}",
        hint=f"did you mean {close[0]}?" if close else "`pemath kinds` lists what can be composed",
    )
