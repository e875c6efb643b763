"""What the recipe asks for and the run does not have."""

from __future__ import annotations

from collections.abc import Sequence

from pemath.lab.report import numbers
from pemath.lab.report.read import Run


def missing_points(
    run: Run, tasks: Sequence[str], fixed: Sequence[str], place: str = ""
) -> list[str]:
    """Of an experiment that follows curves over a weight: one line for each kind of module and seed
    that lacks a weight of a curve, or one of the compositions `fixed`, on the test rows of `tasks`.
    """
    have: dict[tuple[str, int, str, float | None], set[str]] = {}
    for each in run.records:
        if each.part == "test" and not each.chosen:
            weight = next(iter(each.weights.values()), None)
            key = (each.pem, each.seed, each.composition, weight)
            have.setdefault(key, set()).add(each.task)
    lines = []
    for pem in run.pems:
        wanted: list[tuple[str, float | None]] = [(name, None) for name in fixed]
        wanted += [(curve, w) for curve in run.curves_of(pem) for w in run.weights]
        for seed in run.seeds:
            lacking = [
                point for point in wanted if not {*tasks} <= have.get((pem, seed, *point), set())
            ]
            if lacking:
                what = "everything" if lacking == wanted else _listed(lacking)
                lines.append(f"{place}{pem}, seed {seed}: {what}")
    return lines


def _listed(points: Sequence[tuple[str, float | None]]) -> str:
    """`toxic, negation at w = 0.5 and 1`."""
    weights: dict[str, list[str]] = {}
    for name, weight in points:
        weights.setdefault(name, []).extend([] if weight is None else [numbers.weight(weight)])
    return ", ".join(
        f"{name} at w = {' and '.join(at)}" if at else name for name, at in weights.items()
    )


def missing(run: Run) -> list[str]:
    """One line for each task and kind of module that lacks something; empty for a complete run."""
    have = {
        (each.task, each.pem, each.initialisation, each.composition, each.seed)
        for each in run.records
        if each.part == "test"
    }
    lines = []
    for pem in run.pems:
        for initialisation in run.initialisations:
            if initialisation != "shared" and pem != "lora":
                continue  # (IA)³ and full fine-tuning start from no random values
            for task in run.tasks:
                place = f"{task}, {pem}" + (
                    "" if initialisation == "shared" else f", {initialisation} initialisation"
                )
                for seed in run.seeds:
                    wanted = _wanted(run, initialisation)
                    lacking = [
                        name
                        for name in wanted
                        if (task, pem, initialisation, name, seed) not in have
                    ]
                    if lacking:
                        what = "everything" if lacking == wanted else ", ".join(lacking)
                        lines.append(f"{place}, seed {seed}: {what}")
    return lines


def _wanted(run: Run, initialisation: str) -> list[str]:
    names = ["a", "b", *run.merges]
    if run.swept:
        names.append("best")
    if initialisation == "shared":
        return [*names, "all"] if run.facts.experiment == "distribution" else names
    # Not everything is asked again under another initialisation.
    asked = {each.composition for each in run.records if each.initialisation == initialisation}
    return [name for name in names if name in asked or name in ("a", "b")]
