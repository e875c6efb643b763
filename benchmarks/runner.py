"""Processes, measured from outside, and the figures that come of them."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"

# The same for both sides: one BLAS thread, OpenMP threads that sleep, nothing from the network.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT / "src"),
}


@dataclass(frozen=True)
class Figure:
    """One measured value against its limit; `at_least` says on which side of it is good.

    Without a limit it is there for information. `columns` say more in a table of its claim's own.
    """

    claim: str
    case: str
    unit: str
    value: float
    limit: float | None
    at_least: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


@dataclass(frozen=True)
class Job:
    """A command that leaves its result at `output` (a file or folder, or nothing)."""

    name: str
    command: list[str]
    output: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of each repetition, wall clock and processor."""

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    def notes(self) -> dict[str, Any]:
        return {
            "seconds": [round(s, 4) for s in self.wall],
            "cpu_seconds": round(statistics.median(self.cpu), 3),
        }


def pemath(*arguments: str | Path) -> list[str]:
    """The command a user types: the console script where it is installed."""
    script = Path(sys.executable).with_name("pemath")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "pemath"]
    return [*start, *map(str, arguments)]


def compose(expression: str, operands: Sequence[Path], out: Path, *options: str) -> list[str]:
    """`pemath compose` with the operands bound to the expression's names in order."""
    names = [word for word in expression.split() if word.isidentifier()]
    bound = [f"{name}={path}" for name, path in zip(names, operands, strict=True)]
    return pemath("compose", expression, *bound, "--out", out, *options)


def peer(*arguments: object) -> list[str]:
    """A program of the `peers` folder; its file name comes first."""
    script, *rest = map(str, arguments)
    return [sys.executable, str(PEERS / script), *rest]


def environment() -> dict[str, str]:
    return os.environ | ENVIRONMENT


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A folder on the cache's file system, so that every output goes to the same disk."""
    with tempfile.TemporaryDirectory(dir=cache, prefix="out-") as folder:
        yield Path(folder)


def clear(output: Path | None) -> None:
    if output is None:
        return
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)


def run(job: Job) -> tuple[float, float]:
    """Wall-clock and processor seconds of one run, from nothing to the process's end.

    The former output is gone and all dirty pages are on the disk before the clock starts.
    """
    clear(job.output)
    os.sync()
    with tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        process = subprocess.Popen(
            job.command, env=environment(), cwd=ROOT, stdout=messages, stderr=messages
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            messages.seek(0)
            text = messages.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(job.command)}\nended with {process.returncode}:\n{text}")
    return wall, usage.ru_utime + usage.ru_stime


def interleaved(jobs: Sequence[Job], repetitions: int) -> dict[str, Timing]:
    """Every job in turn, `repetitions` times over, after one unmeasured turn that fills caches."""
    timings = {job.name: Timing([], []) for job in jobs}
    for turn in range(repetitions + 1):
        for job in jobs:
            progress(f"{job.name}  {turn}/{repetitions}")
            wall, cpu = run(job)
            if turn:
                timings[job.name].wall.append(wall)
                timings[job.name].cpu.append(cpu)
    return timings


def progress(message: str) -> None:
    print(f"  {message}", file=sys.stderr, flush=True)


Measure = Callable[[Path], Iterator[Figure]]
