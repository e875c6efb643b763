"""PEFT's `svd`: a thousand times slower per 4096 x 4096 site, thirty times in a run it can finish.

Per site, PEFT is measured at its best: only the call that combines, with everything loaded. Ours
is measured at its worst: a whole process over 128 such sites, start-up, reading, certificate and
writing included, divided by 128.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import adapters, runner
from ..runner import Figure, Job

SITE_LIMIT = 1000.0
WHOLE_LIMIT = 30.0


def measure(cache: Path) -> Iterator[Figure]:
    yield _site(cache)
    yield _whole(cache, adapters.ROBERTA_BASE_ALL, 2, WHOLE_LIMIT, repetitions=1)
    yield _whole(cache, adapters.ROBERTA_BASE, 8, None, repetitions=3)


def _site(cache: Path, repetitions: int = 2) -> Figure:
    shape = adapters.LLAMA_7B_ATTENTION
    pair = adapters.cached(cache, shape, "float32", 2)
    theirs = []
    for turn in range(repetitions):
        runner.progress(f"PEFT svd, one site  {turn + 1}/{repetitions}")
        command = runner.peer("peft_svd_site.py", shape.rank)
        done = subprocess.run(
            command, env=runner.environment(), check=True, capture_output=True, text=True
        )
        theirs.append(float(done.stdout.split()[0]))
    with runner.scratch(cache) as out:
        command = runner.compose("a + b", pair, out / "cut", "--rank", str(shape.rank))
        ours = runner.interleaved([Job("128 sites", command, out / "cut")], repetitions=5)
    per_site = ours["128 sites"].median / len(shape.sites)
    return Figure(
        claim="peft svd",
        case="one 4096 x 4096 site, rank 16, two operands, float32",
        unit="x faster",
        value=min(theirs) / per_site,
        limit=SITE_LIMIT,
        at_least=True,
        notes={"PEFT": theirs, "pemath": ours["128 sites"].notes(), "pemath_per_site": per_site},
    )


def _whole(
    cache: Path, shape: adapters.Shape, count: int, limit: float | None, repetitions: int
) -> Figure:
    operands = adapters.cached(cache, shape, "float32", count)
    expression = " + ".join(f"a{i}" for i in range(count))
    with runner.scratch(cache) as out:
        theirs = runner.peer(
            "peft_combine.py", "plain", "roberta", "svd", shape.rank, out / "peft", *operands
        )
        ours = runner.compose(expression, operands, out / "pemath", "--rank", str(shape.rank))
        jobs = [Job("PEFT", theirs, out / "peft"), Job("pemath", ours, out / "pemath")]
        timings = runner.interleaved(jobs, repetitions=repetitions)
        errors = {
            name: _error(shape, folder, operands)
            for name, folder in (("PEFT", out / "peft" / "combined"), ("pemath", out / "pemath"))
        }
    assert errors["pemath"] < errors["PEFT"] + 1e-5, errors
    return Figure(
        claim="peft svd",
        case=f"{shape.name}, {len(shape.sites)} sites, {count} operands, rank {shape.rank}, "
        f"whole process, {repetitions} run(s)",
        unit="x faster",
        value=timings["PEFT"].median / timings["pemath"].median,
        limit=limit,
        at_least=True,
        notes={name: timings[name].notes() for name in timings} | {"relative_errors": errors},
    )


def _error(shape: adapters.Shape, folder: Path, operands: list[Path]) -> float:
    """Mean relative error of the sites against the dense sum."""
    return statistics.fmean(
        adapters.relative(
            adapters.delta(folder, site),
            np.sum([adapters.delta(operand, site) for operand in operands], axis=0),
        )
        for site in shape.sites
    )
