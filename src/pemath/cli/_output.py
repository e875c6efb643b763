"""What the verbs print: JSON, aligned facts, tables, progress and errors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pemath.errors import PemathError

_PATIENCE = 0.7


def show_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def show_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """A title, and name-value lines below it."""
    print(title)
    shown = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"  {name:<{width}}  {value}")


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1
) -> None:
    """A table; all columns behind the first `text_columns` are aligned to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for position, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if position < text_columns else "right")
    for row in rows:
        table.add_row(*map(escape, row))

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # main ends quietly

    console = Pipe()
    if not console.is_terminal:
        console.width = 160
    console.print(escape(title), style="bold", highlight=False, soft_wrap=True)
    console.print(table)


def show_error(error: PemathError, *, as_json: bool) -> None:
    """An error: as JSON on standard output if asked for, else on standard error."""
    if as_json:
        show_json(error.as_dict())
        return
    print(f"pemath: {error.text()}", file=sys.stderr)


def size_text(size: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def span_text(ranks: Sequence[int]) -> str:
    """The smallest and the largest rank; nothing where there is none."""
    low, high = min(ranks), max(ranks)
    if high == 0:
        return ""
    return str(high) if low == high else f"{low} to {high}"


class ProgressLine:
    """Progress on one line of a terminal, for work that takes more than a moment."""

    def __init__(self, unit: str = "sites") -> None:
        self._unit = unit
        self._start = time.monotonic()
        self._shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Redraw the line; nothing off a terminal or in the first moment."""
        if not sys.stderr.isatty() or time.monotonic() - self._start < _PATIENCE:
            return
        self._shown = True
        sys.stderr.write(f"\r\033[K{what}: {done} of {total} {self._unit}")
        sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
