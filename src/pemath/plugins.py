"""What other packages add to pemath, found in groups of entry points.

Nothing is imported before it is asked for, and only what the user installed: an expression, a
recipe or an adapter folder names a plug-in and never a module. A plug-in that fails is left out
with a warning that says whose it is, and the others go on.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from importlib.metadata import EntryPoint
from typing import Any

from pemath.errors import ConfigError
from pemath.names import display


class PluginWarning(UserWarning):
    """An installed plug-in cannot be used, and is left out."""


def names(group: str) -> tuple[str, ...]:
    """The names that installed packages registered in `group`, sorted."""
    return tuple(sorted({entry.name for entry in _entries(group)}))


def named(group: str, name: str) -> Any | None:
    """What is registered as `name` in `group`, or None. It is imported here and not before.

    Raises: ConfigError (two packages registered it, or it cannot be imported).
    """
    found = [entry for entry in _entries(group) if entry.name == name]
    if not found:
        return None
    where = f"entry points `{group}`"
    if len(found) > 1:
        raise ConfigError(
            f"two packages registered `{display(name)}`",
            where=where,
            found=", ".join(sorted(display(entry.value) for entry in found)),
            hint="uninstall one of them",
        )
    [entry] = found
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module does on import
        raise ConfigError(
            f"`{display(name)}` cannot be imported",
            where=f"{where}: {display(entry.value)}",
            found=display(error, 200),
        ) from error


def load(group: str, registry: dict[str, Any], accepted: type | tuple[type, ...]) -> dict[str, str]:
    """Import all plug-ins of `group`, which register themselves in `registry` by their names.

    An entry point names the module that does so, or an instance of `accepted`, which is then
    registered under its own `name`. A plug-in adds all that it has or, after a PluginWarning,
    nothing.

    Returns: the distribution that each new name comes from.
    """
    origins: dict[str, str] = {}
    for entry in _entries(group):
        before = dict(registry)
        try:
            found = entry.load()
            if isinstance(found, accepted):
                _add(registry, found)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module may do anything
            registry.clear()
            registry.update(before)
            warnings.warn(
                f"plug-in `{display(entry.name)}` of {distribution(entry)} is left out "
                f"({display(entry.value)}): {type(error).__name__}: {display(error, 200)}",
                PluginWarning,
                stacklevel=2,
            )
            continue
        origins |= {name: distribution(entry) for name in registry if name not in before}
    return origins


def distribution(entry: EntryPoint) -> str:
    """The package, with its version, that an entry point belongs to."""
    if entry.dist is None:
        return "an unknown package"
    return display(f"{entry.dist.name} {entry.dist.version}", 80)


def _add(registry: dict[str, Any], found: Any) -> None:
    known = registry.setdefault(found.name, found)
    if known is not found:
        raise ValueError(f"{found.name} is registered twice")


def _entries(group: str) -> list[EntryPoint]:
    """The entry points of a group in the order of their names; one that is found in two places,
    once.
    """
    found = {(e.name, e.value): e for e in importlib.metadata.entry_points(group=group)}
    return [found[key] for key in sorted(found)]
