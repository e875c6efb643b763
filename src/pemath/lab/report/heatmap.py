"""Cosines between the changes of a and b, by layer and task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pemath.lab.report import names, numbers
from pemath.lab.report.blocks import MISSING, Figure
from pemath.lab.report.read import Run
from pemath.lab.report.svg import GROUND, QUIET, described, drawing, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap


def interference_figure(run: Run) -> Figure | None:
    """Cosine between the changes of a and b, by layer and task."""
    from matplotlib.colors import LinearSegmentedColormap

    panels = [
        (pem, start)
        for start in run.initialisations
        for pem in run.pems
        if any((site.pem, site.initialisation) == (pem, start) for site in run.sites)
    ]
    if not panels:
        return None
    tasks = list(dict.fromkeys(site.task for site in run.sites))
    layers = sorted({site.layer for site in run.sites if site.layer is not None})
    rows: list[int | None] = [*layers]
    if any(site.layer is None for site in run.sites):
        rows.append(None)
    found: dict[tuple[str, str, str, int | None], list[float]] = {}
    for site in run.sites:
        if site.cosine is not None:
            key = (site.pem, site.initialisation, site.task, site.layer)
            found.setdefault(key, []).append(site.cosine)
    shades = LinearSegmentedColormap.from_list("cosine", ["#b4540a", "#f3eee6", "#1d4f9c"])
    wide = max(1.7, 0.44 * len(tasks))
    across = min(max(1, int(10 / wide)), 4, len(panels))
    down = math.ceil(len(panels) / across)
    across = math.ceil(len(panels) / down)  # four are two and two, not three and one
    size = (wide * across + 0.8, (0.85 + 0.25 * len(rows)) * down + 0.2)
    with drawing(*size) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (pem, start) in zip(grid.flat, panels, strict=False):
            for x, task in enumerate(tasks):
                for y, layer in enumerate(rows):
                    cosine = numbers.mean(found.get((pem, start, task, layer), []))
                    _tile(axes, x, y, cosine, shades)
            axes.set_xlim(0, len(tasks))
            axes.set_ylim(len(rows), 0)
            short = [names.task(task) if "+" not in task else "a, b" for task in tasks]
            axes.set_xticks(np.arange(len(tasks)) + 0.5, short, rotation=40, ha="right")
            every = 1 if len(rows) <= 16 else 2
            ticks = range(0, len(rows), every)
            axes.set_yticks(
                [y + 0.5 for y in ticks],
                ["other" if rows[y] is None else str(rows[y]) for y in ticks],
            )
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            title = names.pem(pem) + ("" if start == "shared" else f", {start}")
            axes.set_title(title, fontsize=9.5)
        for axes in grid[:, 0]:
            axes.set_ylabel("layer")
        svg = render(figure, "interference")
    caption = (
        "Cosine between the changes that a and b make to the model, by layer and task, mean over "
        "sites and seeds: 1 the same direction, 0 unrelated, below 0 opposed."
    )
    return Figure(
        "interference", "Interference by layer and task", caption, described(svg, caption)
    )


def _tile(axes: Axes, x: int, y: int, cosine: float | None, shades: Colormap) -> None:
    from matplotlib.patches import Rectangle

    place: dict[str, Any] = {
        "x": x + 0.5,
        "y": y + 0.53,
        "ha": "center",
        "va": "center",
        "fontsize": 8,
    }
    if cosine is None:
        axes.text(s=MISSING, color=QUIET, **place)
        return
    red, green, blue, _ = shades((cosine + 1) / 2)
    axes.add_patch(
        Rectangle((x, y), 1, 1, facecolor=(red, green, blue), edgecolor=GROUND, linewidth=1)
    )
    bright = 0.3 * red + 0.59 * green + 0.11 * blue > 0.55
    text = numbers.plain(cosine)
    axes.text(s=text, color="#111111" if bright else "#ffffff", **place)
