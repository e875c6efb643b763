"""What a reader must know about the machine to weigh the figures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import runner

PACKAGES = ("pemath", "numpy", "pydantic", "cyclopts", "torch", "transformers", "peft")


def describe(cache: Path) -> dict[str, Any]:
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cpu_family_model": "/".join(
            _first("/proc/cpuinfo", key) for key in ("cpu family", "model")
        ),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "file_system": _file_system(cache),
        "python": platform.python_version(),
        "blas": _blas(),
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {k: v for k, v in runner.ENVIRONMENT.items() if k != "PYTHONPATH"},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "src")),
    }


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _file_system(cache: Path) -> str:
    """The type of the file system that holds the cache: of all mounts above it, the deepest."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [m for m in mounts if cache.resolve().is_relative_to(m[1])]
    return max(above, key=lambda m: len(m[1]))[2] if above else "unknown"


def _blas() -> list[dict[str, Any]]:
    """The BLAS that numpy really uses under the benchmark's environment, and its kernels."""
    code = (
        "import json, numpy, threadpoolctl;"
        "print(json.dumps([{k: i.get(k) for k in"
        " ('internal_api', 'version', 'architecture', 'num_threads')}"
        " for i in threadpoolctl.threadpool_info()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=runner.environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    blas: list[dict[str, Any]] = json.loads(done.stdout)
    return blas


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=runner.ROOT, check=False, capture_output=True, text=True
    )
    return done.stdout.strip()
