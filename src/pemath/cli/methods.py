"""`pemath methods`."""

from __future__ import annotations

from pemath import methods as registry
from pemath.cli._flags import Flag
from pemath.cli._output import show_facts, show_json


def methods(*, json: Flag = False) -> None:
    """List the merge methods, with their options and sources.

    Parameters
    ----------
    json
        Print JSON.
    """
    known = registry.methods().values()
    if json:
        show_json(
            {
                "methods": [
                    {
                        "name": method.name,
                        "call": method.signature(),
                        "space": method.space,
                        "summary": method.summary,
                        "source": method.source,
                        "origin": method.origin,
                    }
                    for method in known
                ]
            }
        )
        return
    for method in known:
        show_facts(
            method.signature(),
            [
                ("does", method.summary),
                ("space", method.space),
                ("source", method.source),
                ("from", method.origin or ""),
            ],
        )
        print()
