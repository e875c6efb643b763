"""What the recipe asks for and the run does not have."""

from __future__ import annotations

from pemath.lab.report.read import Run


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
