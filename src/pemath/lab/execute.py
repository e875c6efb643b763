"""An experiment carried out: its cells, in this process or side by side in several, and the run
folder that they make together.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pemath
from pemath.errors import OutputExists, StorageError
from pemath.formats.commit import staged
from pemath.lab.experiments.cells import Cell, Laboratory, Outcome
from pemath.lab.models import device
from pemath.names import display
from pemath.threads import silent

CellDone = Callable[[int, int, str], None]
_PACKAGES = ("numpy", "torch", "transformers", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class Facts:
    """What is said of a run beside its results."""

    command: str
    preset: str | None


def cells_of(lab: Laboratory[Any]) -> list[Cell]:
    """The cells of the recipe's experiment, in the order in which they are done."""
    found: list[Cell] = _experiment(lab).cells(lab.recipe)
    return found


def carry_out(
    lab: Laboratory[Any],
    out: Path,
    facts: Facts,
    *,
    workers: int = 1,
    cell_done: CellDone = lambda done, total, what: None,
) -> Path:
    """Do every cell that the store does not hold yet, and write the run folder `out`.

    `workers` processes share the cores; on a GPU there is one. Interrupted work goes on from where
    it was. Raises: InputError, UsageError, StorageError, MissingExtra.
    """
    out = Path(os.path.abspath(out))
    started = dt.datetime.now(dt.UTC)
    check_out(out)
    cells = cells_of(lab)
    _refuse_early(lab)
    outcomes: list[Outcome] = []
    if workers > 1 and device() == "cpu":
        done = _side_by_side(lab, cells, workers)
    else:
        done = (run_cell(lab, cell) for cell in cells)
    for cell, outcome in zip(cells, done, strict=True):
        outcomes.append(outcome)
        cell_done(len(outcomes), len(cells), _name(lab, cell))
    run = {
        "experiment": lab.recipe.experiment,
        "preset": facts.preset,
        "command": facts.command,
        "recipe": lab.recipe.model_dump(mode="json"),
        "versions": versions(),
        "device": device_name(),
        "seconds": _worked(outcomes),
        "started": started.isoformat(timespec="seconds"),
        "tasks": {name: facts for o in outcomes for name, facts in o.tasks.items()},
        **{name: found for o in outcomes for name, found in o.facts.items()},
    }
    if out.exists():
        shutil.rmtree(out)  # a run folder, see check_out; its trials are in the store
    with staged(out) as folder:
        write_run(folder, run, outcomes)
    return out


def check_out(out: Path) -> None:
    """Refuse a run folder that cannot be made, or that is something else.

    Raises: OutputExists, StorageError.
    """
    if out.exists() and not (out / "run.json").is_file():
        raise OutputExists(
            "the output exists already, and is no run folder",
            where=display(out),
            hint="choose another folder",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the output cannot be made: {error.strerror}", where=display(out)
        ) from None


def run_cell(lab: Laboratory[Any], cell: Cell) -> Outcome:
    """Do one cell."""
    outcome: Outcome = _experiment(lab).run(lab, cell)
    return outcome


def write_run(folder: Path, run: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """The files of a run folder."""
    _write(folder / "run.json", run)
    labels = folder / "labels"
    labels.mkdir()
    for name, found in {n: f for o in outcomes for n, f in o.labels.items()}.items():
        _write(labels / f"{name.replace('/', '__')}.json", found)
    _write(folder / "interference.json", [line for o in outcomes for line in o.interference])
    for file in ("records", "modules", "generations"):
        lines = [json.dumps(line) + "\n" for o in outcomes for line in getattr(o, file)]
        if lines or file != "generations":  # most experiments write no texts
            (folder / f"{file}.jsonl").write_text("".join(lines), encoding="utf-8")


def _worked(outcomes: Sequence[Outcome]) -> float:
    """Seconds of training and of asking, over all processes and interruptions."""
    trained = {
        json.dumps(line, sort_keys=True): line["seconds"] for o in outcomes for line in o.modules
    }
    asked = {
        (r["task"], r["part"], r["seconds"]): r["seconds"] for o in outcomes for r in o.records
    }
    return float(sum(trained.values()) + sum(asked.values()))


def versions() -> dict[str, str]:
    """What computed: pemath, Python and the packages that can change a number."""
    found = {"pemath": pemath.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The GPU, or the processor with its number of cores."""
    if device() == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def _side_by_side(lab: Laboratory[Any], cells: Sequence[Cell], workers: int) -> Iterator[Outcome]:
    """The outcomes in the order of the cells."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the new processes
    quiet = replace(lab, progress=silent)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(run_cell, quiet, cell) for cell in cells]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _experiment(lab: Laboratory[Any]) -> Any:
    return import_module(f"pemath.lab.experiments.{lab.recipe.experiment}")


def _refuse_early(lab: Laboratory[Any]) -> None:
    """What can be refused before anything is trained: missing packages, models and data."""
    from pemath.lab.models import require
    from pemath.lab.train import check_trackers

    require("torch", "transformers", "peft", "accelerate", "matplotlib", "great_tables", "pandas")
    check_trackers(lab.recipe.training.report_to)
    _experiment(lab).check(lab)


def _name(lab: Laboratory[Any], cell: Cell) -> str:
    names = lab.recipe.task_names()
    what = " + ".join(names[i] for i in cell.tasks) or lab.recipe.experiment
    return f"{what}, {cell.pem}, seed {cell.seed}"


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
