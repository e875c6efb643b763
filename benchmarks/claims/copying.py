"""A lossless sum, and `paper`, cost at most two bare copies of the bytes plus 0.35 s to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import adapters, runner
from ..runner import Figure, Job

START_UP = 0.35


def measure(cache: Path) -> Iterator[Figure]:
    for dtype in adapters.DTYPES:
        pair = adapters.cached(cache, adapters.LLAMA_7B, dtype, 2)
        both = sum(adapters.tensors_file(folder).stat().st_size for folder in pair)
        with runner.scratch(cache) as out:
            jobs = []
            for case, written, options in (
                ("lossless", both, ()),
                ("paper", both // 2, ("--arithmetic", "paper")),
            ):
                jobs += [
                    _copy(f"copy for {case}", pair, written, out / f"{case}-copy"),
                    Job(case, runner.compose("a + b", pair, out / case, *options), out / case),
                ]
            weighted = runner.compose("0.6 * a + 0.4 * b", pair, out / "weighted")
            jobs.append(Job("weighted", weighted, out / "weighted"))
            timings = runner.interleaved(jobs, repetitions=7)
            check(out / "lossless", pair)
        # Weights make rounding errors that the certificate has to measure; `a + b` makes none.
        for case in ("lossless", "paper", "weighted"):
            copy, ours = (
                timings.get(f"copy for {case}", timings["copy for lossless"]),
                timings[case],
            )
            yield Figure(
                claim="copying",
                case=f"{case}, {dtype}" + (" (0.6 and 0.4)" if case == "weighted" else ""),
                unit="s",
                value=ours.median,
                limit=2 * copy.median + START_UP,
                notes={"pemath": ours.notes(), "copy": copy.notes(), "copy_s": copy.median},
            )


def check(out: Path, pair: list[Path]) -> None:
    """What was timed is the sum: one attention and one feed-forward site, densely."""
    for site in ("model.layers.0.self_attn.q_proj", "model.layers.31.mlp.down_proj"):
        wanted = adapters.delta(pair[0], site) + adapters.delta(pair[1], site)
        error = adapters.relative(adapters.delta(out, site), wanted)
        assert error < 1e-6, f"{site}: {error}"


def _copy(name: str, sources: list[Path], written: int, target: Path) -> Job:
    files = map(adapters.tensors_file, sources)
    return Job(name, runner.peer("copy_bytes.py", target, written, *files), target)
