"""At least twenty times faster than PEFT's `linear` and `cat`, whole process against whole process.

The limit stands against PEFT as its documentation calls it; the ratio to the fastest that PEFT's
options allow is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import adapters, runner
from ..runner import Figure, Job

LIMIT = 20.0
ROUTES = {"linear": ("--arithmetic", "paper"), "cat": ()}  # PEFT's method: ours for the same work
WAYS: dict[str, float | None] = {"plain": LIMIT, "tuned": None}


def measure(cache: Path) -> Iterator[Figure]:
    for dtype in adapters.DTYPES:
        pair = adapters.cached(cache, adapters.LLAMA_7B, dtype, 2)
        for route, options in ROUTES.items():
            with runner.scratch(cache) as out:
                ours = runner.compose("a + b", pair, out / "pemath", *options)
                jobs = [Job(f"pemath for {route}", ours, out / "pemath")]
                for way in WAYS:
                    theirs = ["peft_combine.py", way, "llama", route, 0, out / way, *pair]
                    jobs.append(Job(f"PEFT {route}, {way}", runner.peer(*theirs), out / way))
                mine, *peers = runner.interleaved(jobs, repetitions=3).values()
            for (way, limit), peer in zip(WAYS.items(), peers, strict=True):
                yield Figure(
                    claim="peft routes",
                    case=f"{route}, {dtype}, PEFT {way}",
                    unit="x faster",
                    value=peer.median / mine.median,
                    limit=limit,
                    at_least=True,
                    notes={"PEFT": peer.notes(), "pemath": mine.notes()},
                )
