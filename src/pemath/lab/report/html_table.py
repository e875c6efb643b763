"""Tables as HTML: Great Tables makes the structure, the page's own style sheet the looks."""

from __future__ import annotations

import re
from html import escape

from pemath.lab.report.blocks import UP, Entry, Table
from pemath.names import display

_LONGEST = 2_000


def inline(text: str) -> str:
    """Text in which only backticks act as markup."""
    pieces = display(text, _LONGEST).split("`")
    return "".join(
        f"<code>{escape(piece)}</code>" if at % 2 else escape(piece)
        for at, piece in enumerate(pieces)
    )


def html_table(table: Table) -> str:
    """A `<table>` inside a box that scrolls sideways where the window is too narrow."""
    import pandas as pd
    from great_tables import GT, html

    keys = [f"c{at}" for at in range(len(table.columns))]
    lines = [
        {"group": at, **dict(zip(keys, map(_entry, row), strict=True))}
        for at, group in enumerate(table.groups)
        for row in group.rows
    ]
    grouped = any(group.title for group in table.groups)
    frame = pd.DataFrame(lines, columns=["group", *keys]).astype({"group": str})
    if not grouped:
        frame = frame.drop(columns="group")
    made = GT(
        frame,
        rowname_col=keys[0],
        groupname_col="group" if grouped else None,
        id=f"table-{table.name}",
    )
    made = made.cols_label(
        {
            key: html(
                inline(column.title)
                + (f"<small>{inline(column.below)}</small>" if column.below else "")
            )
            for key, column in zip(keys, table.columns, strict=True)
        }
    )
    for key, column in zip(keys[1:], table.columns[1:], strict=True):
        made = made.cols_align("left" if column.text else "right", columns=key)
    made = made.fmt_passthrough(columns=keys, escape=False)
    text = made.as_raw_html()
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    text = text[text.index("<table") : text.index("</table>") + len("</table>")]
    headings = (inline(group.title) for group in table.groups if group.rows)
    text = re.sub(
        r'(<th class="gt_group_heading"[^>]*>)\d+(?=</th>)',
        lambda found: f"{found[1]}{next(headings)}",
        text,
    )
    text = text.replace('class="gt_table"', f'class="gt_table {escape(table.name)}"', 1)
    return f'<div class="scroll">{text}</div>'


def _entry(entry: Entry) -> str:
    text = "<br>".join(map(inline, entry.text.split("\n")))
    if entry.tone:
        text = f'<span class="{escape(entry.tone)}">{text}</span>'
    if entry.mark:
        tone = "good" if entry.mark == UP else "bad"
        text += f'<span class="mark {tone}">{escape(entry.mark)}</span>'
    return text
