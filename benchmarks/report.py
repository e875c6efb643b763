"""The figures as a table, and the two files that a run leaves: JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from .runner import ROOT, Figure

FOLDER = ROOT / "benchmarks"


def table(figures: Sequence[Figure]) -> str:
    """One table of all figures, and one for each claim that says more of its own."""
    lines = [
        "| claim | case | measured | limit | measured / limit | |",
        "|---|---|---|---|---|---|",
    ]
    tables = ["\n".join([*lines, *(row(f) for f in figures if not f.columns)])]
    for claim in dict.fromkeys(f.claim for f in figures if f.columns):
        tables.append(f"## {claim[0].upper()}{claim[1:]}")
        tables.append(_wide_table([f for f in figures if f.columns and f.claim == claim]))
    return "\n\n".join(tables)


def row(f: Figure) -> str:
    return f"| {f.claim} | {f.case} | {_measured(f)} |"


def _measured(f: Figure) -> str:
    value = f"{f.value:,.3g} {f.unit}"
    if f.limit is None:
        return f"{value} | – | – | for information"
    verdict = "holds" if f.holds else "**MISSED**"
    sign = "≥" if f.at_least else "≤"
    return f"{value} | {sign} {f.limit:,.3g} | {f.value / f.limit:.2f} | {verdict}"


def _wide_table(figures: Sequence[Figure]) -> str:
    columns = list(figures[0].columns)
    head = ["case", "measured", "limit", "measured / limit", "", *columns]
    rows = [
        f"| {f.case} | {_measured(f)} | {' | '.join(f.columns[c] for c in columns)} |"
        for f in figures
    ]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def save(
    figures: Sequence[Figure], machine: dict[str, Any], command: str, claim: str | None
) -> Path:
    """Write results/DATE.json and RESULTS.md, of one claim alone results/CLAIM.json and .md; gives the
    path of the page.
    """
    today = date.today().isoformat()  # noqa: DTZ011 -- the machine's own date is meant
    record = {
        "date": today,
        "command": command,
        "machine": machine,
        "figures": [figure.record() for figure in figures],
    }
    data = FOLDER / "results" / f"{claim or today}.json"
    data.parent.mkdir(exist_ok=True)
    data.write_text(json.dumps(record, indent=1) + "\n")
    page = data.with_suffix(".md") if claim else FOLDER / "RESULTS.md"
    link = data.relative_to(page.parent)
    page.write_text(_page(figures, machine, f"Written by `{command}` on {today}", str(link)))
    return page


def _page(figures: Sequence[Figure], machine: dict[str, Any], written: str, link: str) -> str:
    missed = sum(not figure.holds for figure in figures)
    verdict = "Every limit holds." if not missed else f"{missed} of {len(figures)} limits missed."
    return f"""# Measured

{written}; every repetition is in
[{link}]({link}). {verdict}

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
- *methods*: a call of each with its defaults, at the operands' rank where it takes one
  ([claims/methods.py](claims/methods.py)); memory as
  above, and the distance from the exact sum as the certificate states it. PEFT's factor-wise types
  are whole processes. Its svd types are measured on one 4096 x 4096 module with everything loaded,
  and *about* marks what is extrapolated from it: that time for each of the pair's modules. *ties*
  is the ratio of processor times on one thread, PEFT's of the call alone, ours of a whole process.
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
