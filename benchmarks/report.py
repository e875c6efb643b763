"""The figures as a table, and the two files that a whole run leaves: JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from .runner import ROOT, Figure

FOLDER = ROOT / "benchmarks"


def table(figures: Sequence[Figure]) -> str:
    lines = [
        "| claim | case | measured | limit | measured / limit | |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(row, figures)])


def row(f: Figure) -> str:
    measured = f"| {f.claim} | {f.case} | {f.value:,.3g} {f.unit} |"
    if f.limit is None:
        return f"{measured} – | – | for information |"
    verdict = "holds" if f.holds else "**MISSED**"
    sign = "≥" if f.at_least else "≤"
    return f"{measured} {sign} {f.limit:,.3g} | {f.value / f.limit:.2f} | {verdict} |"


def save(figures: Sequence[Figure], machine: dict[str, Any], command: str) -> Path:
    """Write results/DATE.json and RESULTS.md; gives the former's path."""
    today = date.today().isoformat()  # noqa: DTZ011 -- the machine's own date is meant
    record = {
        "date": today,
        "command": command,
        "machine": machine,
        "figures": [figure.record() for figure in figures],
    }
    target = FOLDER / "results" / f"{today}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n")
    (FOLDER / "RESULTS.md").write_text(_page(figures, machine, command, target))
    return target


def _page(figures: Sequence[Figure], machine: dict[str, Any], command: str, source: Path) -> str:
    missed = sum(not figure.holds for figure in figures)
    verdict = "Every limit holds." if not missed else f"{missed} of {len(figures)} limits missed."
    return f"""# Measured

Written by `{command}` on {source.stem}; every repetition is in
[results/{source.name}](results/{source.name}). {verdict}

{table(figures)}

## How

- Whole processes, from start to exit, timed from outside; medians of repetitions that take turns,
  after one turn that is not counted. Input files are in the page cache; before each run the
  former output is deleted and everything is synced.
- Both sides run with {_pairs(machine["environment"])}.
- *copying*: the limit is twice the median of a process that reads the same bytes, writes as many
  as pemath's output has and calls fsync, plus 0.35 s for starting up.
- *peft routes*, *peft svd*: PEFT's base model has no memory for its weights, which the
  combination never reads. *plain* is PEFT as its documentation calls it; *tuned* adds the options
  that make it fastest ([peers/peft_combine.py](peers/peft_combine.py)). Per site, PEFT's time is
  that of `add_weighted_adapter` alone, with everything loaded, and the better of its runs; ours is
  a whole process divided by its sites.
- *memory*: peak of everything resident but the pages of the mapped inputs; see
  [claims/memory.py](claims/memory.py). The kernel's high-water mark is `total` in the JSON file.
- The inputs are generated ([adapters.py](adapters.py)): Llama-7B shape (32 layers, seven target
  modules, rank 16) and RoBERTa-base shape (12 layers, rank 8; all linear layers, or query and
  value).

## Machine

{_lines(machine)}
"""


def _lines(machine: dict[str, Any]) -> str:
    blas = "; ".join(
        f"{b['internal_api']} {b['version']}, kernel {b['architecture']}, {b['num_threads']} thread"
        for b in machine["blas"]
    )
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    dirty = " with uncommitted changes" if machine["uncommitted_changes"] else ""
    return f"""\
- {machine["cpu"]} (family/model {machine["cpu_family_model"]}), {machine["cores"]} cores, \
{machine["memory"]} of memory, load average before the run {machine["load_before"]}
- Linux {machine["kernel"]}, {machine["file_system"]}
- Python {machine["python"]}, {packages}
- {blas}
- commit {machine["commit"]}{dirty}"""


def _pairs(environment: dict[str, str]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in environment.items())
