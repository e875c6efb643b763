"""Whatever fails while converting: folders and files are whole or not there."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pemath.conversion.run import convert
from pemath.errors import StorageError

from . import steps
from .adapters import content, lora, names_in
from .test_errors_at_every_step import FAILURES, fail_at

TARGETS: dict[str, dict[str, Any]] = {"checkpoint": {}, "full": {}, "lora": {"rank": 2}}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """An adapter, and its base in two shards."""
    adapter, base = lora(tmp_path / "a", 0, sites=2), tmp_path / "base"
    base.mkdir()
    rng = np.random.default_rng(1)
    table = {}
    for index in range(2):
        name = f"model-0000{index + 1}-of-00002.safetensors"
        tensors = {f"layer.{index}.query.weight": rng.standard_normal((16, 16)).astype("f4")}
        save_file(tensors, base / name)
        table |= dict.fromkeys(tensors, name)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    (base / "config.json").write_text("{}")
    return adapter, base


@pytest.mark.parametrize("what", ["disk full", "interrupt", "memory"])
@pytest.mark.parametrize("to", TARGETS)
def test_every_step(what: str, to: str, places: tuple[Path, Path], tmp_path: Path) -> None:
    adapter, base = places
    out = tmp_path / "out"

    def run() -> None:
        convert(adapter, to, out, base_weights=base, **TARGETS[to])

    run()
    whole = content(out)
    shutil.rmtree(out)
    count = len(steps.names(run))
    shutil.rmtree(out)
    expected = StorageError if isinstance(FAILURES[what](), OSError) else type(FAILURES[what]())
    for step in range(count + 1):
        try:
            with steps.intercepted(fail_at(step, FAILURES[what])):
                run()
        except expected:
            pass
        assert names_in(tmp_path, "a", "base", "out") == [], f"step {step}"
        if out.exists():
            assert content(out) == whole, f"step {step}"
            shutil.rmtree(out)


def test_a_disk_that_fills_up_is_named(places: tuple[Path, Path], tmp_path: Path) -> None:
    adapter, base = places
    full = fail_at(3, lambda: OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StorageError, match="No space left"), steps.intercepted(full):
        convert(adapter, "checkpoint", tmp_path / "out", base_weights=base)
