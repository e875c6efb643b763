"""`pemath --help` within 0.25 s and `pemath inspect` of a Llama-7B adapter within 0.3 s."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import adapters, runner
from ..runner import Figure, Job


def measure(cache: Path) -> Iterator[Figure]:
    (adapter,) = adapters.cached(cache, adapters.LLAMA_7B, "bfloat16", 1)
    limits = {"pemath --help": 0.25, "pemath inspect": 0.3}
    jobs = [
        Job("pemath --help", runner.pemath("--help")),
        Job("pemath inspect", runner.pemath("inspect", adapter)),
    ]
    timings = runner.interleaved(jobs, repetitions=15)
    for case, limit in limits.items():
        yield Figure(
            claim="start-up",
            case=case,
            unit="s",
            value=timings[case].median,
            limit=limit,
            notes=timings[case].notes(),
        )
