"""Accuracy on the target against the weight of the source's classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pemath.lab.report import names
from pemath.lab.report.blocks import Figure
from pemath.lab.report.followed import Followed, Spot
from pemath.lab.report.measure import band
from pemath.lab.report.read import Run
from pemath.lab.report.svg import INK, QUIET, SERIES, described, drawing, render
from pemath.lab.report.transfer.analogies import RULES, SOURCE, TARGET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = ("-", "--", ":", "-.")
_MARKS = dict(zip(RULES, ("D", "o"), strict=True))


def accuracy_figure(run: Run, found: Mapping[str, Followed]) -> Figure | None:
    """A row of panels per direction, a column per kind of module."""
    pems = [pem for pem in run.pems if any(one.values.get(pem) for one in found.values())]
    if not pems:
        return None
    size = (10.6 if len(pems) > 2 else 5.2 * len(pems) + 0.3, 2.9 * len(found) + 0.6)
    with drawing(*size) as figure:
        grid = figure.subplots(len(found), len(pems), squeeze=False, sharex=True, sharey="row")
        for line, (direction, one) in zip(grid, found.items(), strict=True):
            for axes, pem in zip(line, pems, strict=True):
                _panel(axes, run, one, pem)
                axes.set_title(f"{names.task(direction)}: {names.pem(pem)}", fontsize=9.5)
            line[0].set_ylabel("accuracy, points")
        for axes in grid[-1]:
            axes.set_xlabel("weight w of the source's classifier")
        named = {
            title: handle
            for axes in grid.flat
            for handle, title in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend([*named.values()], [*named], loc="outside upper left", ncols=len(named))
        svg = render(figure, "accuracy")
    caption = (
        "Accuracy on the target's test rows by weight: mean over seeds, with the 95 % bootstrap band "
        "over rows. At w = 1 it is the source's classifier (dotted); the line above is the target's "
        "own. Diamond: the mean of the weights chosen on held-out labels of the source, circle: on a "
        "few labels of the target, as high as the accuracy with them."
    )
    return Figure("accuracy", "Accuracy against the weight", caption, described(svg, caption))


def _panel(axes: Axes, run: Run, one: Followed, pem: str) -> None:
    for spot, style, colour, label in (
        (SOURCE, ":", INK, "source only"),
        (TARGET, "-", QUIET, "target's own"),
    ):
        value = one.at(pem, spot)
        if value is not None:
            axes.axhline(
                100 * value.mean, color=colour, linestyle=style, linewidth=1.2, label=label
            )
    for number, curve in enumerate(run.curves):
        points = one.curve(pem, curve)
        if not points:
            continue
        colour = SERIES[number % len(SERIES)]
        at = list(points)
        edges = 100 * np.array([band(value) for value in points.values()])
        axes.fill_between(at, edges[:, 0], edges[:, 1], color=colour, alpha=0.14, linewidth=0)
        axes.plot(
            at,
            [100 * value.mean for value in points.values()],
            _STYLES[number % len(_STYLES)],
            marker=".",
            color=colour,
            label=curve,
        )
        for rule, mark in _MARKS.items():
            chosen = Spot(curve, chosen=rule)
            value, weights = one.at(pem, chosen), one.weights(pem, chosen)
            if value is not None and weights:
                axes.plot(
                    float(np.mean(weights)),
                    100 * value.mean,
                    mark,
                    color=colour,
                    markersize=6,
                    markeredgecolor=INK,
                    markeredgewidth=0.8,
                    zorder=5,
                )
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.05)
