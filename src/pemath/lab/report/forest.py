"""The claim as a forest plot: merge − better part, by task and kind of module."""

from __future__ import annotations

from collections.abc import Sequence

from pemath.lab.report import names
from pemath.lab.report.blocks import Figure
from pemath.lab.report.claims import FAILS, HOLDS, Claim
from pemath.lab.report.read import Run
from pemath.lab.report.svg import GROUND, INK, RULE, SERIES, described, drawing, render

_SHAPES = ("o", "s", "D", "^")


def claim_figure(run: Run, found: Sequence[Claim]) -> Figure | None:
    """Merge − better part with its interval, by task and kind of module."""
    if not found:
        return None
    tasks = list(dict.fromkeys(each.task for each in found))
    pems = [pem for pem in run.pems if any(each.pem == pem for each in found)]
    step = 0.8 / len(pems)
    with drawing(8.2, 1.0 + (0.16 + 0.22 * len(pems)) * len(tasks)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for each in found:
            row, place = tasks.index(each.task), pems.index(each.pem)
            height = row + (place - (len(pems) - 1) / 2) * step
            colour, lead = SERIES[place % len(SERIES)], each.lead
            axes.plot([100 * lead.low, 100 * lead.high], [height] * 2, color=colour, linewidth=2)
            full = each.verdict == HOLDS
            axes.plot(
                [100 * lead.value],
                [height],
                _SHAPES[place % len(_SHAPES)],
                color=colour,
                markerfacecolor=colour if full else GROUND,
                markersize=7,
                markeredgewidth=1.6,
            )
        for row in range(len(tasks) - 1):
            axes.axhline(row + 0.5, color=RULE, linewidth=0.7)
        axes.set_yticks(range(len(tasks)), [names.task(task) for task in tasks])
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=10.5)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("merge − better part, points  (right of 0: the merge is better)")
        for place, pem in enumerate(pems):  # for the legend alone
            axes.plot(
                [],
                [],
                _SHAPES[place % len(_SHAPES)] + "-",
                color=SERIES[place % len(SERIES)],
                label=names.pem(pem),
            )
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(pems), borderpad=0)
        svg = render(figure, "claim")
    holds = sum(each.verdict == HOLDS for each in found)
    fails = sum(each.verdict == FAILS for each in found)
    caption = (
        f"`{found[0].merge}` minus the better of its parts, mean over seeds, with the paired 95 % "
        "bootstrap interval over test rows. Filled: better than both parts by their intervals. "
        f"{holds} hold, {len(found) - holds - fails} tie, {fails} fail."
    )
    return Figure("claim", "The claim at a glance", caption, described(svg, caption))
