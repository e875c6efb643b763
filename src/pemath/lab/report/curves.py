"""The metric against the weight, with bands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pemath.lab.report import names
from pemath.lab.report.blocks import Figure
from pemath.lab.report.measure import MEAN, Measured, Measures, band
from pemath.lab.report.read import Run
from pemath.lab.report.svg import INK, SERIES, described, drawing, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class _Line:
    """A curve of a panel: the cell that it shows, and its place in the legend."""

    task: str
    pem: str
    title: str
    number: int


def weights_figure(run: Run, measures: Measures) -> Figure | None:
    """The metric against the weight: a panel per task, or in multi-tasking per kind of module."""
    panels = {
        title: lines
        for title, lines in _panels(run).items()
        if any(measures.sweep(line.task, line.pem)[1] for line in lines)
    }
    if not panels:
        return None
    across = len(panels) if len(panels) <= 4 else 3 if len(panels) in (5, 6, 9) else 4
    down = math.ceil(len(panels) / across)
    large = across < 3
    parts = set()
    with drawing(
        4.2 * across + 0.6 if large else 10.4, (3.2 if large else 2.35) * down + 0.7
    ) as fig:
        grid = fig.subplots(down, across, squeeze=False, sharex=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
            for line in lines:
                part, found = measures.sweep(line.task, line.pem)
                if found:
                    parts.add(part)
                    _curve(axes, line, found)
                best = measures.cell(line.task, line.pem).get("best")
                if best is not None and line.task != MEAN and part:
                    _best(axes, run, line, best if part == "test" else found)
            axes.set_title(title, fontsize=9.5)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.margins(x=0.03)
        for axes in grid.flat[max(0, len(panels) - across) : len(panels)]:  # nothing below them
            axes.set_xlabel(f"weight {_weight_name(run)}")
            axes.tick_params(labelbottom=True)
        for axes in grid[:, 0]:
            axes.set_ylabel("points")
        named = {
            title: handle
            for axes in grid.flat
            for handle, title in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        fig.legend([*named.values()], [*named], loc="outside upper left", ncols=len(named))
        svg = render(fig, "weights")
    diamonds = "the mean of the weights that are best on validation rows" + (
        ", and the metric on test rows there" if "test" in parts else ""
    )
    caption = (
        f"The metric of `{run.swept}` on {' and '.join(sorted(parts))} rows: mean over seeds, with "
        f"the 95 % bootstrap band over rows. Diamonds: {diamonds}.{_ends(run)}"
    )
    return Figure("weights", "The metric against the weight", caption, described(svg, caption))


def _panels(run: Run) -> dict[str, list[_Line]]:
    if run.facts.experiment == "multitask":
        tasks = [*run.tasks, *([MEAN] if len(run.tasks) > 1 else [])]
        return {
            names.pem(pem): [
                _Line(task, pem, names.task(task), number) for number, task in enumerate(tasks)
            ]
            for pem in run.pems
        }
    return {
        f"{names.task(task)} ({names.metric(run, task)})": [
            _Line(task, pem, names.pem(pem), number) for number, pem in enumerate(run.pems)
        ]
        for task in run.tasks
    }


def _curve(axes: Axes, line: _Line, found: Mapping[float, Measured]) -> None:
    at = list(found)
    colour = SERIES[line.number % len(SERIES)]
    edges = np.array([band(one) for one in found.values()]) * 100
    axes.fill_between(at, edges[:, 0], edges[:, 1], color=colour, alpha=0.16, linewidth=0)
    style = "--" if line.task == MEAN else "-"
    heights = [100 * one.mean for one in found.values()]
    axes.plot(at, heights, style, color=colour, label=line.title)


def _best(axes: Axes, run: Run, line: _Line, at: Measured | Mapping[float, Measured]) -> None:
    """A diamond at the mean of the chosen weights: as high as their result, or on the curve."""
    weights = [
        next(iter(each.weights.values()))
        for each in run.records
        if (each.task, each.pem, each.initialisation, each.composition)
        == (line.task, line.pem, "shared", "best")
        and len(each.weights) == 1
    ]
    if weights:
        weight = float(np.mean(weights))
        if isinstance(at, Measured):
            height = at.mean
        else:
            height = float(np.interp(weight, list(at), [one.mean for one in at.values()]))
        axes.plot(
            [weight],
            [100 * height],
            "D",
            color=SERIES[line.number % len(SERIES)],
            markersize=5.5,
            markeredgecolor=INK,
            markeredgewidth=0.8,
        )


def _weight_name(run: Run) -> str:
    names = [name for each in run.records if each.composition == "sweep" for name in each.weights]
    return names[0] if names else "t"


def _ends(run: Run) -> str:
    name = _weight_name(run)
    usual = f"(1-{name})*a+{name}*b"
    if (run.swept or "").replace(" ", "") != usual:
        return ""
    return f" At {name} = 0 the module is a, at 1 it is b."
