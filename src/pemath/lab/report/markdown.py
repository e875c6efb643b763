"""A report as Markdown that stands alone, with its figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pemath.lab.report.blocks import Code, Figure, Report, Table, shown
from pemath.names import display

_LONGEST = 2_000


def markdown(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from (f"# {_inline(report.title)}", "", _inline(report.subtitle), "")
    for warning in report.warnings:
        yield from (f"> **Note.** {_inline(warning)}", "")
    for paragraph in report.lead:
        yield from (_inline(paragraph), "")
    for section in report.sections:
        yield from (f"## {_inline(section.title)}", "")
        for paragraph in section.text:
            if paragraph:
                yield from (_inline(paragraph), "")
        for block in section.blocks:
            if isinstance(block, Table):
                yield from _table(block)
            elif isinstance(block, Figure):
                alternative = block.title.replace("]", "")
                yield from (f"![{alternative}](figures/{block.name}.svg)", "")
                yield from (_inline(block.caption), "")
            else:
                yield from _code(block)


def _table(table: Table) -> Iterator[str]:
    yield from (f"**{_inline(table.title)}**", "")
    titles = [
        _inline(column.title) + (f" ({_inline(column.below)})" if column.below else "")
        for column in table.columns
    ]
    yield _row(titles)
    yield _row(
        ["---" if column.text or at == 0 else "--:" for at, column in enumerate(table.columns)]
    )
    for group in table.groups:
        if group.title:
            yield _row([f"**{_inline(group.title)}**", *([""] * (len(table.columns) - 1))])
        for row in group.rows:
            yield _row(
                [
                    f"**{text}**" if entry.tone == "strong" else text
                    for entry in row
                    for text in ["<br>".join(map(_inline, shown(entry).split("\n")))]
                ]
            )
    yield ""
    if table.note:
        yield from (_inline(table.note), "")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(code: Code) -> Iterator[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code.text)), default=0))
    yield from (f"**{_inline(code.title)}**", "", fence, code.text.rstrip(), fence, "")


def _inline(text: str) -> str:
    """Text in which only backticks act as markup."""
    pieces = display(text, _LONGEST).split("`")
    for at in range(0, len(pieces), 2):
        piece = pieces[at].replace("&", "&amp;").replace("<", "&lt;")
        pieces[at] = re.sub(r"([\\*_|#~]|\](?=[(\[:]))", r"\\\1", piece)
    for at in range(1, len(pieces), 2):
        pieces[at] = pieces[at].replace("|", "\\|")
    return "`".join(pieces)
