"""The files of a run folder."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Made:
    """A made-up task: how much its modules know, and how far the halves pull them apart."""

    metric: str = "accuracy"
    labels: tuple[str, ...] = ("no", "yes")
    rows: int = 300
    signal: float = 1.2
    pull: float = 0.7
    share0: tuple[float, float] = (0.8, 0.2)


def write(
    folder: Path,
    experiment: str,
    tasks: Mapping[str, Made],
    recipe: Mapping[str, Any],
    gold: Mapping[str, Mapping[str, np.ndarray]],
    records: Iterable[Mapping[str, Any]],
    interference: Sequence[Mapping[str, Any]],
    modules: Iterable[Mapping[str, Any]],
) -> Path:
    (folder / "labels").mkdir(parents=True)
    run = {
        "experiment": experiment,
        "preset": "cpu",
        "command": f"pemath reproduce {experiment} --preset cpu",
        "recipe": recipe,
        "versions": {"pemath": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "peft": "0.21.2"},
        "device": "cpu, 2 cores",
        "seconds": 6_543.2,
        "started": "2026-11-24T15:26:24+00:00",
        "tasks": {
            name: {
                "metric": made.metric,
                "labels": list(made.labels),
                "source": f"{name}, made up for a test",
                "train_rows": 2_000,
                "validation_rows": 200,
                "test_rows": made.rows,
                "digest": hashlib.sha256(name.encode()).hexdigest(),
                "share0": list(made.share0),
            }
            for name, made in tasks.items()
        },
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "interference.json").write_text(json.dumps(list(interference)))
    for name, parts in gold.items():
        text = json.dumps({part: values.tolist() for part, values in parts.items()})
        (folder / "labels" / f"{name.replace('/', '__')}.json").write_text(text)
    for file, rows in (("records", records), ("modules", modules)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(text)
    return folder
