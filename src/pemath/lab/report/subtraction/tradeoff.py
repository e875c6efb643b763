"""Toxicity against perplexity: what each curve pays for what it takes away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pemath.lab.report import names, numbers
from pemath.lab.report.blocks import Figure
from pemath.lab.report.followed import Spot
from pemath.lab.report.measure import Measured, band
from pemath.lab.report.subtraction.subject import CHOSEN, Subject
from pemath.lab.report.svg import INK, QUIET, SERIES, SHAPES, STYLES, described, drawing, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 2.5  # a ratio of perplexities that asks for a logarithmic axis
_FARTHEST = 8.0  # times the perplexity at weight 0: what lies beyond is left to the tables
_PLACES = ((9, 8), (-9, -8), (9, -8), (-9, 8), (0, 11), (0, -11))  # of a label, in points
_DOTS = 100 / 72  # pixels in a point, while a figure is drawn
_REACH = 0.5  # how far above everything else, in heights of it, a toxic module is still shown


def tradeoff_figure(subject: Subject) -> Figure | None:
    """A panel for each test and kind of module."""
    pems = [pem for pem in subject.run.pems if subject.curves(pem)]
    if not pems:
        return None
    rows = [[(test, pem) for pem in pems] for test in subject.tests]
    if len(pems) == 1:  # side by side, not one below the other
        rows = [[place for row in rows for place in row]]
    across = len(rows[0])
    size = (10.6 if across > 2 else 5.2 * across + 0.2, 3.5 * len(rows) + 0.6)
    panels: list[_Panel] = []
    with drawing(*size) as figure:
        share: Literal["row", "none"] = "row" if len(pems) > 1 else "none"
        grid = figure.subplots(len(rows), across, squeeze=False, sharey=share)
        for line, places in zip(grid, rows, strict=True):
            mine = [_panel(axes, subject, *place) for axes, place in zip(line, places, strict=True)]
            for together in [mine] if len(pems) > 1 else [[one] for one in mine]:
                _scale(together)
            panels += mine
            for axes, (test, pem) in zip(line, places, strict=True):
                axes.set_title(f"{names.pem(pem)}: {names.task(test)}", fontsize=9.5)
            line[0].set_ylabel("toxicity, mean score")
        for axes in grid[-1]:
            axes.set_xlabel(names.task(subject.cost))
        named = {
            title: handle
            for axes in grid.flat
            for handle, title in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend([*named.values()], [*named], loc="outside upper left", ncols=len(named))
        figure.draw_without_rendering()  # or nobody knows where the points are
        figure.set_layout_engine("none")  # there they stay
        for panel in panels:
            _name_weights(panel)
        svg = render(figure, "tradeoff")
    caption = (
        "Mean toxicity of texts against perplexity: further down is less toxic, further left costs "
        "less. One line per curve, its points at the weights beside them; bars are 95 % bootstrap "
        f"intervals of both. Square: `{subject.start}`, which is weight 0. Cross: `{subject.toxic}`, "
        "the module that is subtracted. Diamonds: the mean over seeds at the weights chosen on what "
        f"is held out. Dotted: the budget, {numbers.share(subject.budget)} above `{subject.start}`."
    )
    if any(panel.is_cut for panel in panels):
        caption += (
            f" Points beyond {_FARTHEST:g} times the perplexity of `{subject.start}` are left to the "
            "tables."
        )
    caption += f" Scored by {subject.scorer}."
    return Figure("tradeoff", "Toxicity against perplexity", caption, described(svg, caption))


@dataclass(frozen=True)
class _Point:
    """Perplexity and toxicity of a composition."""

    cost: Measured
    score: Measured


@dataclass
class _Panel:
    """Axes with what was drawn into them, and what still has to find its place."""

    axes: Axes
    name: str
    toxic: _Point | None
    points: list[_Point] = field(default_factory=list)
    labels: list[tuple[float, _Point, str]] = field(default_factory=list)
    is_cut: bool = False


def _panel(axes: Axes, subject: Subject, test: str, pem: str) -> _Panel:
    """One panel, but for the weights beside its points."""
    curves = list(subject.run.curves)
    start, toxic = (
        _point(subject, test, pem, Spot(name)) for name in (subject.start, subject.toxic)
    )
    limit = _FARTHEST * start.cost.mean if start else float("inf")
    found = _Panel(axes, subject.toxic, toxic)
    for curve in subject.curves(pem):
        number, weights = curves.index(curve), subject.costs.curve(pem, curve)
        points = {w: _point(subject, test, pem, Spot(curve, w)) for w in weights}
        near = {w: one for w, one in points.items() if one and one.cost.mean <= limit}
        found.is_cut |= len(near) < len(points)
        drawn = [*([start] if start else []), *near.values()]
        axes.plot(
            [one.cost.mean for one in drawn],
            [one.score.mean for one in drawn],
            STYLES[number % len(STYLES)],
            color=SERIES[number % len(SERIES)],
            linewidth=1.4,
            marker=SHAPES[number % len(SHAPES)],
            markersize=3.5,
            label=curve,
        )
        for weight, one in near.items():
            _bars(axes, one, SERIES[number % len(SERIES)])
            found.labels.append((weight, one, SERIES[number % len(SERIES)]))
        found.points += drawn
    for curve in subject.curves(pem):  # above all lines
        best = _point(subject, test, pem, Spot(curve, chosen=CHOSEN))
        if best and best.cost.mean <= limit:
            found.points.append(best)
            _mark(axes, best, "D", SERIES[curves.index(curve) % len(SERIES)])
    if start:
        _bars(axes, start, INK)
        _mark(axes, start, "s", INK, subject.start)
        budget = (1 + subject.budget) * start.cost.mean
        axes.axvline(budget, color=QUIET, linestyle=":", linewidth=1)
    return found


def _point(subject: Subject, test: str, pem: str, spot: Spot) -> _Point | None:
    cost, score = subject.costs.at(pem, spot), subject.measured[test].at(pem, spot)
    return _Point(cost, score) if cost is not None and score is not None else None


def _bars(axes: Axes, one: _Point, colour: str) -> None:
    """The intervals of both."""
    axes.plot(band(one.cost), [one.score.mean] * 2, color=colour, linewidth=0.8, alpha=0.4)
    axes.plot([one.cost.mean] * 2, band(one.score), color=colour, linewidth=0.8, alpha=0.4)


def _mark(axes: Axes, one: _Point, shape: str, colour: str, label: str | None = None) -> None:
    axes.plot(
        one.cost.mean,
        one.score.mean,
        shape,
        color=colour,
        markersize=6.5,
        markeredgecolor=INK,
        markeredgewidth=0.8,
        linestyle="none",
        label=label,
        zorder=5,
    )


def _scale(panels: Sequence[_Panel]) -> None:
    """Axes that show all points; toxic modules that are far above them are named at the edge."""
    points = [one for panel in panels for one in panel.points]
    if not points:
        return
    low = min(band(one.score)[0] for one in points)
    high = max(band(one.score)[1] for one in points)
    for panel in panels:
        toxic = panel.toxic
        if toxic and toxic.score.mean <= high + _REACH * (high - low):
            high = max(high, toxic.score.mean)
    room = 0.06 * (high - low)
    for panel in panels:
        one = panel.axes
        _scale_costs(panel)
        one.set_ylim(max(0.0, low - room), high + room)
        if panel.toxic and panel.toxic.score.mean <= high:
            _mark(one, panel.toxic, "X", INK, panel.name)
        elif panel.toxic:
            at = numbers.plain(panel.toxic.cost.mean, 1)
            text = f"↑ {panel.name}: {numbers.plain(panel.toxic.score.mean)} at {at}"
            one.text(0.98, 0.98, text, transform=one.transAxes, ha="right", va="top", fontsize=8)


def _scale_costs(panel: _Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes = panel.axes
    costs = [one.cost.mean for one in panel.points]
    if costs and max(costs) > _WIDE * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.06)
    axes.grid()
    axes.set_axisbelow(True)


def _name_weights(panel: _Panel) -> None:
    """The weights beside their points, where there is room for one more."""
    taken: list[tuple[float, float]] = []
    place = panel.axes.transData.transform
    points = [place((one.cost.mean, one.score.mean)) for one in panel.points]
    for weight, one, colour in reversed(panel.labels):
        x, y = place((one.cost.mean, one.score.mean))
        for right, up in _PLACES:
            spot = (x + right * _DOTS, y + up * _DOTS)
            if all(
                abs(spot[0] - other[0]) > 17 * _DOTS or abs(spot[1] - other[1]) > 8 * _DOTS
                for other in taken
            ) and all(
                abs(spot[0] - other[0]) > 8 * _DOTS or abs(spot[1] - other[1]) > 6 * _DOTS
                for other in points
            ):
                taken.append(spot)
                panel.axes.annotate(
                    numbers.weight(weight),
                    (one.cost.mean, one.score.mean),
                    (right, up),
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=colour,
                )
                break
