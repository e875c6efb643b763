"""The exact sum cut back to rank 16 costs under three times the lossless one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import adapters, runner
from ..runner import Figure, Job

LIMIT = 3.0


def measure(cache: Path) -> Iterator[Figure]:
    for dtype in adapters.DTYPES:
        pair = adapters.cached(cache, adapters.LLAMA_7B, dtype, 2)
        with runner.scratch(cache) as out:
            cut = runner.compose("a + b", pair, out / "cut", "--rank", "16")
            jobs = [
                Job("lossless", runner.compose("a + b", pair, out / "whole"), out / "whole"),
                Job("rank 16", cut, out / "cut"),
            ]
            timings = runner.interleaved(jobs, repetitions=7)
        whole, cut_ = timings["lossless"], timings["rank 16"]
        yield Figure(
            claim="truncation",
            case=f"rank 16, {dtype}",
            unit="x lossless",
            value=cut_.median / whole.median,
            limit=LIMIT,
            notes={"rank 16": cut_.notes(), "lossless": whole.notes()},
        )
