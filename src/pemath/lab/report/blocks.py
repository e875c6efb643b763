"""What a report consists of, before it is written as HTML, Markdown or terminal text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

UP, DOWN = "▲", "▼"
MISSING = "—"


@dataclass(frozen=True)
class Entry:
    """A table's cell. `mark` is a symbol behind it; `tone` is strong, good, bad or faint."""

    text: str
    mark: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column's title, a smaller line below it, and whether it holds numbers or text."""

    title: str
    below: str = ""
    text: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under a common heading; the first entry of a row names it."""

    title: str
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table with a short file-safe name."""

    name: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it has no row."""
        return not any(group.rows for group in self.groups)


@dataclass(frozen=True)
class Figure:
    """A picture as SVG text."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Code:
    """Text to be shown as it is, folded away under its title where that is possible."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (backticks mark code) and blocks below them."""

    name: str
    title: str
    text: tuple[str, ...]
    blocks: tuple[Table | Figure | Code, ...] = ()


@dataclass(frozen=True)
class Tile:
    """A number that is worth a glance."""

    value: str
    what: str
    tone: str = ""


@dataclass(frozen=True)
class Report:
    """All of it. `warnings` say what is missing or odd; `sheets` are CSV texts by file name."""

    title: str
    subtitle: str
    lead: tuple[str, ...]
    tiles: tuple[Tile, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    sheets: Mapping[str, str]

    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Table)]

    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Figure)]


def row(name: str, *entries: str | Entry) -> tuple[Entry, ...]:
    """A row; plain strings become entries."""
    return (Entry(name), *(e if isinstance(e, Entry) else Entry(e) for e in entries))


def shown(entry: Entry) -> str:
    """An entry as plain text."""
    return f"{entry.text} {entry.mark}".strip()


def columns(*titles: str, text: Sequence[str] = ()) -> tuple[Column, ...]:
    """Columns of numbers, but for those named in `text`; the first is the rows' names."""
    return tuple(Column(title, text=title in text) for title in titles)


def without_empty_columns(table: Table) -> Table:
    """The table without the columns in which nothing was measured."""
    lines = [line for group in table.groups for line in group.rows]
    kept = [
        at
        for at in range(len(table.columns))
        if at == 0 or any(line[at].text != MISSING for line in lines)
    ]
    groups = tuple(
        Group(group.title, tuple(tuple(line[at] for at in kept) for line in group.rows))
        for group in table.groups
    )
    return replace(table, columns=tuple(table.columns[at] for at in kept), groups=groups)
