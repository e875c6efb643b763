"""`pemath report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pemath.cli._flags import Flag
from pemath.cli._output import show_json, show_table
from pemath.names import display

if TYPE_CHECKING:
    from pemath.lab.report.blocks import Report, Table

_SHOWN = ("results", "own-task", "count", "verdicts", "better")


def report(
    run: Path,
    *,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    json: Flag = False,
) -> None:
    """Make tables, figures and a page from a run folder.

    Parameters
    ----------
    run
        The folder that `pemath reproduce` wrote; the run need not be finished.
    out
        Where to write report.html, summary.md, the CSV files and figures; without it, into the run.
    json
        Print JSON.
    """
    from pemath.lab.report.write import write_report

    made, files = write_report(run, out)
    show_report(made, files, as_json=json)


def show_report(made: Report, files: list[Path], *, as_json: bool) -> None:
    """The report in the terminal: what the claim comes to, the main tables, where the files are."""
    tables = {table.name: table for table in made.tables()}
    if as_json:
        show_json(
            {
                "title": made.title,
                "summary": list(made.lead),
                "warnings": list(made.warnings),
                "tables": {name: _as_dict(table) for name, table in tables.items()},
                "files": [str(path) for path in files],
            }
        )
        return
    print(f"{display(made.title)} ({display(made.subtitle, 400)})\n")
    for warning in made.warnings:
        print(f"note: {display(warning, 2_000)}")
    for name in _SHOWN:
        if name in tables:
            _show(tables[name])
    for text in made.lead[1:]:
        print(display(text.replace("`", ""), 2_000))
    print(f"\nThe whole report: {display(files[0], 400)}")


def _show(table: Table) -> None:
    from pemath.lab.report.blocks import shown

    text = 1 + sum(column.text for column in table.columns[1:])
    rows = []
    for group in table.groups:
        if group.title:
            rows.append([group.title, *([""] * (len(table.columns) - 1))])
        indent = "  " if group.title else ""
        rows += [[indent + shown(row[0]), *map(shown, row[1:])] for row in group.rows]
    titles = [column.title for column in table.columns]
    show_table(table.title.replace("`", ""), titles, rows, text_columns=text)


def _as_dict(table: Table) -> dict[str, Any]:
    from pemath.lab.report.blocks import shown

    return {
        "title": table.title,
        "columns": [column.title for column in table.columns],
        "rows": [
            {"group": group.title, "cells": [shown(entry) for entry in row]}
            for group in table.groups
            for row in group.rows
        ],
        "note": table.note,
    }
