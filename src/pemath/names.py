"""Foreign strings made safe to show, and foreign paths kept under a root."""

from __future__ import annotations

import re
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def display(text: object, width: int = 120) -> str:
    """`text` with control and direction characters escaped, cut to `width` characters."""
    shown = _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", str(text))
    shown = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def is_plain(text: str) -> bool:
    """Whether `text` is printable: no control, direction or surrogate characters."""
    return _CONTROL.search(text) is None and all(not 0xD800 <= ord(c) < 0xE000 for c in text)


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
