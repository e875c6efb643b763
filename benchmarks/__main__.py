"""Measure the claims: `python -m benchmarks`, or only some: `python -m benchmarks copying memory`.

Inputs are generated once into $PEMATH_BENCH_DIR, or `pemath-bench` in the temporary folder
(6 GB, most of it the 64 operands of the memory claim; its result takes 5 GB more for a while). A
run of every claim writes results/DATE.json and RESULTS.md, a run of one results/CLAIM.json and .md; a
run of some only prints. The exit code is 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from . import machine, report
from .claims import (
    copying,
    eleven_weights,
    memory,
    methods,
    peft_routes,
    peft_svd,
    start_up,
    truncation,
)
from .runner import Figure, Measure

CLAIMS: dict[str, Measure] = {
    "start-up": start_up.measure,
    "copying": copying.measure,
    "truncation": truncation.measure,
    "peft-routes": peft_routes.measure,
    "peft-svd": peft_svd.measure,
    "memory": memory.measure,
    "methods": methods.measure,
    "eleven-weights": eleven_weights.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    chosen = parser.parse_args().claims or list(CLAIMS)
    if unknown := [claim for claim in chosen if claim not in CLAIMS]:
        parser.error(f"no such claim: {', '.join(unknown)}; there are {', '.join(CLAIMS)}")

    cache = Path(os.environ.get("PEMATH_BENCH_DIR") or Path(tempfile.gettempdir()) / "pemath-bench")
    cache.mkdir(parents=True, exist_ok=True)
    described = machine.describe(cache)
    figures: list[Figure] = []
    for claim in chosen:
        print(claim, file=sys.stderr, flush=True)
        for figure in CLAIMS[claim](cache):
            print(report.row(figure), file=sys.stderr, flush=True)
            figures.append(figure)
    print(report.table(figures))
    if len(chosen) == 1 or set(chosen) == set(CLAIMS):
        command = " ".join(["python -m benchmarks", *sys.argv[1:]])
        claim = chosen[0] if len(chosen) == 1 else None
        print(f"\nwritten: {report.save(figures, described, command, claim)}")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
