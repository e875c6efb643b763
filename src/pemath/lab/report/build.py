"""A run becomes a report: each experiment has its own page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pemath.lab.report import merging
from pemath.lab.report.blocks import Report
from pemath.lab.report.read import Run
from pemath.lab.report.subtraction import build as subtraction
from pemath.lab.report.transfer import build as transfer

_PAGES: Mapping[str, Callable[[Run], Report]] = {
    "distribution": merging.build,
    "multitask": merging.build,
    "unlearning": subtraction.build,
    "detox": subtraction.build,
    "transfer": transfer.build,
}


def build(run: Run) -> Report:
    """The report of a run."""
    return _PAGES.get(run.facts.experiment, merging.build)(run)
