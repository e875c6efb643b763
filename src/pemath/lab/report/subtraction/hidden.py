"""What a drop in toxicity can hide: how texts change with the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pemath.lab.report import names
from pemath.lab.report.blocks import Figure
from pemath.lab.report.subtraction.subject import Subject
from pemath.lab.report.svg import SERIES, SHAPES, STYLES, described, drawing, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def hidden_figure(subject: Subject, test: str) -> Figure | None:
    """A row of panels per kind of module, a column per fact of the texts of a test."""
    pems = [pem for pem in subject.run.pems if subject.measured[test].values.get(pem)]
    facts = [
        name
        for name in names.FACTS
        if name in subject.facts and any(_points(subject, test, pem, name) for pem in pems)
    ]
    if not facts:
        return None
    name = f"hidden-{test.rsplit('/', 1)[-1]}"
    with drawing(10.6, 1.9 * len(pems) + 0.8) as figure:
        grid = figure.subplots(len(pems), len(facts), squeeze=False, sharex=True, sharey="col")
        for line, pem in zip(grid, pems, strict=True):
            for axes, fact in zip(line, facts, strict=True):
                _panel(axes, subject, test, pem, fact)
            line[0].set_ylabel(names.pem(pem))
        for axes, fact in zip(grid[0], facts, strict=True):
            axes.set_title(names.FACTS[fact], fontsize=9.5)
        for axes in grid[-1]:
            axes.set_xlabel("weight w")
        named = {
            title: handle
            for axes in grid.flat
            for handle, title in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend([*named.values()], [*named], loc="outside upper left", ncols=len(named))
        svg = render(figure, name)
    caption = (
        f"{subject.texts.capitalize()} {subject.tests[test]} by weight, mean over seeds; at weight 0 the model is "
        f"`{subject.start}`. Distinct-2 falls where texts repeat each other, words where they become "
        "short; repetition is the share of trigrams that occurred before in their text, empty the "
        "share of texts without a word."
    )
    if "refusal" in facts:
        caption += (
            " Refusals: replies that open like one, by a list of openings. Overlap: the share of the "
            "instruction's content words that the reply takes up."
        )
    return Figure(name, "What a drop can hide", caption, described(svg, caption))


def _panel(axes: Axes, subject: Subject, test: str, pem: str, fact: str) -> None:
    for curve, points in _points(subject, test, pem, fact).items():
        number = list(subject.run.curves).index(curve)
        axes.plot(
            list(points),
            list(points.values()),
            SHAPES[number % len(SHAPES)] + STYLES[number % len(STYLES)],
            color=SERIES[number % len(SERIES)],
            markersize=3.5,
            linewidth=1.3,
            label=curve,
        )
    if fact not in ("distinct_2", "words"):
        from matplotlib.ticker import PercentFormatter

        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.margins(y=0.12)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _points(subject: Subject, test: str, pem: str, fact: str) -> dict[str, dict[float, float]]:
    """The fact by curve and weight, weight 0 included."""
    scores = subject.measured[test]
    start = scores.fact(pem, subject.untouched, fact)
    found = {}
    for curve in subject.curves(pem):
        points = {} if start is None else {0.0: start}
        for spot in scores.records.get(pem, {}):
            value = scores.fact(pem, spot, fact)
            if spot.composition == curve and spot.weight is not None and value is not None:
                points[spot.weight] = value
        if len(points) > 1:
            found[curve] = dict(sorted(points.items()))
    return found
