"""`pemath reproduce`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine
from pemath.cli.report import show_report
from pemath.errors import RequestError
from pemath.names import display


def reproduce(
    experiment: str,
    /,
    *,
    preset: str | None = None,
    seed: list[int] | None = None,
    data_dir: Path | None = None,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    store: Path | None = None,
    workers: int | None = None,
    dry_run: Flag = False,
    json: Flag = False,
) -> None:
    """Carry out an experiment of the paper, or a recipe of your own, and report on it.

    Finished trials are kept: an interrupted run goes on where it was, and a finished one is only
    reported again.

    Parameters
    ----------
    experiment
        distribution, multitask, unlearning, transfer, detox, or a recipe in a YAML file.
    preset
        smoke (under three minutes), packages (data that packages carry), cpu (data files in
        --data-dir) or paper (the paper's models and data, for a GPU with network). A recipe of
        your own has none. Default: packages.
    seed
        Only this seed, in the place of the recipe's; may be given several times.
    data_dir
        The folder with data files, laid out as docs/experiments.md says; without it GLUE comes from
        the hub.
    out
        The run folder, with its report. Default: runs/NAME-PRESET.
    store
        Where trials are kept. Default: `store` beside the run folder.
    workers
        Processes that share the cores. Default: one per core without a GPU.
    dry_run
        Say what would be done and what it would cost, and do nothing.
    json
        Print JSON.
    """
    # Without it torch's idle threads take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pemath.lab.recipes.reading import EXPERIMENTS, preset_recipe, read_recipe

    known = experiment in EXPERIMENTS
    if not known and Path(experiment).suffix not in (".yaml", ".yml"):
        raise RequestError(
            f"there is no experiment `{display(experiment)}`",
            expected=f"{', '.join(EXPERIMENTS)}, or a recipe in a .yaml file",
        )
    if not known and preset is not None:
        raise RequestError("a recipe of your own has no presets", hint="leave --preset out")
    if known:
        preset = preset or "packages"
        recipe = preset_recipe(experiment, preset)
    else:
        recipe = read_recipe(Path(experiment))
    if seed:
        recipe = recipe.changed(seeds=seed)
    if dry_run:
        from pemath.cli._estimate import show_estimate
        from pemath.lab.estimate.estimate import estimate

        show_estimate(estimate(recipe), as_json=json)
        return

    from pemath.lab.execute import Facts, carry_out
    from pemath.lab.experiments.cells import Laboratory
    from pemath.lab.report.write import write_report

    name = f"{experiment}-{preset}" if known else Path(experiment).stem
    out = out or Path("runs", name)
    workers = workers or os.cpu_count() or 1
    if workers < 1:
        raise RequestError("there must be at least one worker", found=workers)
    line = ProgressLine("steps")
    lab = Laboratory(recipe, store or out.parent / "store", data_dir, line)
    words = ["pemath", "reproduce", experiment]
    words += ["--preset", preset] if preset else []
    words += [word for one in seed or () for word in ("--seed", str(one))]
    words += ["--data-dir", "DATA"] if data_dir else []
    facts = Facts(shlex.join(words), preset)
    try:
        carry_out(lab, out, facts, workers=workers, cell_done=_told)
    finally:
        line.close()
    made, files = write_report(out)
    show_report(made, files, as_json=json)


def _told(done: int, total: int, what: str) -> None:
    """One line for every finished cell."""
    print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)
