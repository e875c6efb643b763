"""What other packages add to the laboratory, found by name in a group of entry points.

A recipe names a plug-in and never a module, so that reading a recipe imports nothing but what the
user installed for this very purpose.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from pemath.errors import ConfigError
from pemath.names import display


def plugins(group: str) -> tuple[str, ...]:
    """The names that installed packages registered in `group`, sorted."""
    return tuple(sorted({entry.name for entry in importlib.metadata.entry_points(group=group)}))


def load_plugin(group: str, name: str) -> Any | None:
    """What is registered as `name` in `group`, or None. It is imported here and not before.

    Raises: ConfigError (two packages registered it, or it cannot be imported).
    """
    found = {
        entry.value: entry for entry in importlib.metadata.entry_points(group=group, name=name)
    }
    if not found:
        return None
    where = f"entry points `{group}`"
    if len(found) > 1:
        raise ConfigError(
            f"two packages registered `{display(name)}`",
            where=where,
            found=", ".join(display(value) for value in sorted(found)),
            hint="uninstall one of them",
        )
    [entry] = found.values()
    try:
        return entry.load()
    except Exception as error:  # whatever a stranger's module does on import
        raise ConfigError(
            f"`{display(name)}` cannot be imported",
            where=f"{where}: {display(entry.value)}",
            found=display(error, 200),
        ) from error
