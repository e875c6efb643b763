"""`pemath verify`."""

from __future__ import annotations

from pathlib import Path

from pemath.cli._flags import Flag
from pemath.cli._output import show_facts, show_json
from pemath.composition import lock
from pemath.names import display


def verify(folder: Path, *, json: Flag = False) -> None:
    """Check a composed folder, and its sources where they can be reached, against its lock file.

    Parameters
    ----------
    folder
        A folder that pemath composed.
    json
        Print JSON, errors included.
    """
    found = lock.verify(folder)
    if json:
        show_json(found.as_dict())
        return
    states = [*found.outputs.items(), *((f"source {n}", s) for n, s in found.sources.items())]
    show_facts(
        f"{display(folder)} is what its lock file describes",
        [(display(name), state) for name, state in states],
    )
