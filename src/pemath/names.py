"""Foreign strings made safe to show, and foreign paths kept under a root."""

from __future__ import annotations

import re
from pathlib import Path
from unicodedata import category

# Control and format characters (among them all that change the direction), surrogates, separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def display(text: object, width: int = 120) -> str:
    """`text` with control, format and direction characters escaped, cut to `width` characters."""
    shown = str(text)[: width + 1]
    if not shown.isprintable():
        shown = "".join(f"\\u{ord(c):04x}" if category(c) in _UNSEEN else c for c in shown)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def is_plain(text: str) -> bool:
    """Whether all of `text` can be seen: no control, format, direction or surrogate characters."""
    return text.isprintable() or not any(category(c) in _UNSEEN for c in text)


def stays_inside(part: str) -> bool:
    """Whether the relative path `part` stays under its root (no `..`, nothing absolute)."""
    relative = Path(part)
    return bool(part) and not relative.is_absolute() and ".." not in relative.parts


def listing(items: list[str], most: int = 6) -> str:
    """A short list for a message: at most `most` names in backticks, then a count."""
    shown = ", ".join(f"`{display(item)}`" for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def escape_markdown(text: object, width: int = 200) -> str:
    """`text` for a Markdown document or an HTML page: nothing in it acts as markup."""
    shown = display(text, width)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]()|#!~])", r"\\\1", shown)
