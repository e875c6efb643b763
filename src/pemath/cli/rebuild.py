"""`pemath rebuild`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine
from pemath.cli.compose import show_composition
from pemath.composition import lock
from pemath.threads import keep_freed_memory


def rebuild(
    folder: Path,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Make a composed folder again from its lock file, and check that the bytes are the same.

    Parameters
    ----------
    folder
        A folder that pemath composed.
    out
        The folder to write. An existing one is replaced only with --force.
    force
        Replace an existing adapter folder.
    json
        Print JSON, errors included.
    """
    keep_freed_memory()
    line = ProgressLine()
    try:
        done = lock.rebuild(folder, out, force=force, progress=line)
    finally:
        line.close()
    show_composition(done, as_json=json)
    if not json:
        print("The weights and the config are the same bytes as before.")
