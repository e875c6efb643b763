"""Peak memory stays within 300 MB above the inputs' mapped pages, for any number of operands.

Pages of a mapped input belong to the page cache: the system takes them back when it needs them.
What counts is everything else that is resident, in two parts, each at its own peak:

- anonymous and shared memory (RssAnon + RssShmem of /proc/PID/status), sampled every millisecond at first,
  and more rarely the longer it takes;
- file pages of anything but the inputs (libraries, a mapped output), from /proc/PID/smaps,
  sampled every 50 ms at first, since only imports and mapped outputs add to them.

A sampler can miss a spike. The kernel's own high-water mark of the whole (VmHWM) cannot, so the
part of it that no sample has seen is added too.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .. import adapters, runner
from ..runner import Figure

LIMIT_MB = 300.0
COUNTS = (2, 8, 64)
MB = 1e6


def measure(cache: Path) -> Iterator[Figure]:
    for count in COUNTS:
        operands = adapters.cached(cache, adapters.LLAMA_7B, "bfloat16", count)
        expression = " + ".join(f"a{i}" for i in range(count))
        for case, options in (
            ("lossless", ()),
            ("paper", ("--arithmetic", "paper")),
            ("rank 16", ("--rank", "16")),
        ):
            runner.progress(f"memory: {case}, {count} operands")
            with runner.scratch(cache) as out:
                command = runner.compose(expression, operands, out / "sum", *options)
                found = peak(command, {str(adapters.tensors_file(o).resolve()) for o in operands})
            yield Figure(
                claim="memory",
                case=f"{case}, {count} operands, bfloat16",
                unit="MB",
                value=sum(found[part] for part in ("anonymous", "other_files", "unseen")),
                limit=LIMIT_MB,
                notes={part: round(value, 1) for part, value in found.items()},
            )


def peak(command: list[str], inputs: set[str]) -> dict[str, float]:
    """Peaks in MB of the process that `command` starts."""
    anonymous = files = total = high_water = 0
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=runner.environment(), cwd=runner.ROOT, stdout=subprocess.DEVNULL
    )
    look_again = used = 0.0
    while process.poll() is None:
        try:
            status = _status(process.pid)
            anonymous = max(anonymous, status["RssAnon"] + status["RssShmem"])
            total = max(total, status["VmRSS"])
            high_water = max(high_water, status["VmHWM"])
            used = _cpu_seconds(process.pid)
            now = time.perf_counter()
            if now >= look_again:
                files = max(files, _other_files(process.pid, inputs))
                look_again = now + max(0.05, 0.02 * (now - start))
        except (KeyError, ProcessLookupError, FileNotFoundError):
            continue  # it is starting, or has just ended
        # A share of the time, or looking would slow what is looked at down.
        time.sleep(max(0.001, 0.005 * (time.perf_counter() - start)))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "anonymous": anonymous / MB,
        "other_files": files / MB,
        "unseen": (high_water - total) / MB,
        "total": high_water / MB,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used,
    }


def _cpu_seconds(pid: int) -> float:
    """Processor time used so far, in user and in kernel mode."""
    behind_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(behind_name[11]) + int(behind_name[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _other_files(pid: int, inputs: set[str]) -> int:
    """Resident bytes of the mapped files that are no inputs."""
    found, counts = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if "-" in words[0]:  # a mapping's first line: its addresses, and its path if it has one
            path = words[5] if len(words) == 6 else ""
            counts = path.startswith("/") and path not in inputs
        elif counts and words[0] == "Rss:":
            found += int(words[1]) * 1024
    return found
