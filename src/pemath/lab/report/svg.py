"""Pictures as SVG text: the same bytes every time, legible on light and on dark ground.

matplotlib draws with stand-in colours; they become CSS variables, which the page or the file's own
style sheet defines for both grounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-in: variable, on light ground, on dark ground.
_COLOURS = {
    "#010101": ("--ink", "#1f2328", "#e6e8eb"),
    "#020202": ("--quiet", "#6a737d", "#9aa3ad"),
    "#030303": ("--rule", "#d5d9de", "#3a414a"),
    "#040404": ("--ground", "#ffffff", "#14171b"),
    "#050505": ("--series-1", "#2563b8", "#6ea8ff"),
    "#060606": ("--series-2", "#c2570c", "#f59a4c"),
    "#070707": ("--series-3", "#2a7f4f", "#5cc98c"),
    "#080808": ("--series-4", "#8b3fa8", "#d08cf0"),
    "#090909": ("--series-5", "#0f7f8c", "#4cc7d6"),
    "#0a0a0a": ("--series-6", "#8a6d00", "#d9b84a"),
}
INK, QUIET, RULE, GROUND, *SERIES = _COLOURS
SHAPES, STYLES = ("o", "s", "^", "v", "P", "X"), ("-", "--", ":", "-.")
"""Markers, one for each colour of a series, and lines: print has no colours. A diamond is a choice."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "pemath",
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, under the report's settings and no others."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield Figure(figsize=(width, height), layout="constrained")


def render(figure: Figure, name: str) -> str:
    """The figure as an SVG element that inherits its colours; ids start with `name`."""
    written = StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"""font: ([^;"]*?)'[^;"]*""", rf"font: \1{_FONT}", text)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, (variable, light, _) in _COLOURS.items():
        text = text.replace(stand_in, f"var({variable}, {light})")
    return text


def described(svg: str, text: str) -> str:
    """The element with a description for those who do not see it."""
    from html import escape

    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(text)}" ', 1)


def standalone(svg: str) -> str:
    """The element as a file of its own, with a ground and both sets of colours."""
    light = " ".join(f"{name}: {colour};" for name, colour, _ in _COLOURS.values())
    dark = " ".join(f"{name}: {colour};" for name, _, colour in _COLOURS.values())
    style = (
        f"<style>:root {{ {light} background: var(--ground); }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    )
    ground = '<rect width="100%" height="100%" style="fill: var(--ground, #ffffff)"/>'
    end = svg.index(">") + 1
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return head + svg[:end] + "\n" + style + "\n" + ground + svg[end:]


def variables() -> tuple[str, str]:
    """The colours as CSS declarations: on light ground, on dark ground."""
    light = " ".join(f"{name}: {colour};" for name, colour, _ in _COLOURS.values())
    dark = " ".join(f"{name}: {colour};" for name, _, colour in _COLOURS.values())
    return light, dark
