"""`pemath kinds`."""

from __future__ import annotations

from pemath import kinds as registry
from pemath.cli._flags import Flag
from pemath.cli._output import show_json, show_table


def kinds(*, json: Flag = False) -> None:
    """List the kinds of PEM.

    Parameters
    ----------
    json
        Print JSON.
    """
    rows = [
        (kind.name, " ".join(kind.folders.peft_types) if kind.folders else "", kind.summary)
        for kind in registry.kinds().values()
    ]
    if json:
        show_json(
            {"kinds": [dict(zip(("name", "peft_type", "summary"), r, strict=True)) for r in rows]}
        )
        return
    show_table("Kinds", ["name", "peft_type", "what it is"], rows, text_columns=3)
