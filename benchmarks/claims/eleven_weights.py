"""Evaluating eleven weights costs at most 1.1 times eleven passes over the rows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .. import runner
from ..runner import Figure


def measure(cache: Path) -> Iterator[Figure]:
    command = runner.peer("eleven_weights.py", 3)
    done = subprocess.run(
        command, env=runner.environment(), cwd=runner.ROOT, check=True, stdout=subprocess.PIPE
    )
    found = json.loads(done.stdout)
    yield Figure(
        claim="eleven weights",
        case=f"MiniLM, two LoRAs, {found['rows']} rows",
        unit="x",
        value=found["swept"] / found["plain"],
        limit=1.1,
        notes={name: round(found[name], 3) for name in ("plain", "swept", "overhead")},
    )
