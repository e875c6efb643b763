"""A report as one HTML page: no script, nothing loaded from anywhere, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files

from pemath.lab.report.blocks import Code, Figure, Report, Section, Table
from pemath.lab.report.html_table import html_table, inline
from pemath.lab.report.svg import variables

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The whole page."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    title = escape(f"{report.title} · pemath")
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title>"
    yield f"<style>\n{_style()}</style></head><body><main>"
    yield f"<header><h1>{inline(report.title)}</h1>"
    yield f'<p class="subtitle">{inline(report.subtitle)}</p></header>'
    for warning in report.warnings:
        yield f'<p class="warning">{inline(warning)}</p>'
    for at, paragraph in enumerate(report.lead):
        kind = ("question", "answer", "detail")[min(at, 2)]
        yield f'<p class="{kind}">{inline(paragraph)}</p>'
    if report.tiles:
        yield '<div class="tiles">'
        for tile in report.tiles:
            yield f'<div class="tile {tile.tone}"><b>{escape(tile.value)}</b>'
            yield f"<span>{inline(tile.what)}</span></div>"
        yield "</div>"
    yield '<nav aria-label="Contents">'
    for section in report.sections:
        yield f'<a href="#{escape(section.name)}">{inline(section.title)}</a>'
    yield "</nav>"
    for section in report.sections:
        yield from _section(section)
    yield "</main></body></html>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{escape(section.name)}"><h2>{inline(section.title)}</h2>'
    for paragraph in section.text:
        if paragraph:
            yield f"<p>{inline(paragraph)}</p>"
    for block in section.blocks:
        if isinstance(block, Table):
            yield f'<figure class="table"><figcaption>{inline(block.title)}</figcaption>'
            yield html_table(block)
            if block.note:
                yield f'<p class="note">{inline(block.note)}</p>'
            yield "</figure>"
        elif isinstance(block, Figure):
            yield f'<figure class="picture {escape(block.name)}">{block.svg}'
            yield f"<figcaption>{inline(block.caption)}</figcaption></figure>"
        else:
            yield from _code(block)
    yield "</section>"


def _code(code: Code) -> Iterator[str]:
    yield f"<details><summary>{inline(code.title)}</summary>"
    yield f"<pre>{escape(code.text)}</pre></details>"


def _style() -> str:
    light, dark = variables()
    sheet = files("pemath.lab.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{sheet}"
    )
