"""`pemath kinds`."""

from __future__ import annotations

from pemath import kinds as registry
from pemath.cli._flags import Flag
from pemath.cli._output import show_json, show_table


def kinds(*, json: Flag = False) -> None:
    """List the kinds of PEM, and those that are read as another one.

    Parameters
    ----------
    json
        Print JSON.
    """
    rows = [
        (kind.name, " ".join(kind.folders.peft_types) if kind.folders else "", "", kind.summary)
        for kind in registry.kinds().values()
    ]
    rows += [
        (kind.name, " ".join(kind.peft_types), kind.into, kind.summary)
        for kind in registry.compiled_kinds().values()
    ]
    if json:
        fields = ("name", "peft_type", "read_as", "summary")
        show_json({"kinds": [dict(zip(fields, row, strict=True)) for row in rows]})
        return
    show_table("Kinds", ["name", "peft_type", "read as", "what it is"], rows, text_columns=4)
