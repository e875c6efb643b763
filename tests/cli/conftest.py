"""`cli` runs the command line in this process, in a folder with tiny adapters to name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pemath.cli import main

from . import folders


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, b       two LoRAs of rank 3
    c          rank 2, at one of their two sites
    same, too  LoRAs that share their A
    half, rest LoRAs with a head of two labels; wide has one of three
    v, w       two (IA)³
    """
    root = tmp_path_factory.mktemp("adapters")
    folders.lora(root / "a", 0)
    folders.lora(root / "b", 1, scale=0.5)
    folders.lora(root / "c", 2, rank=2, sites=(folders.QUERY,))
    folders.lora(root / "same", 3, start=9)
    folders.lora(root / "too", 4, start=9)
    folders.lora(root / "half", 5, head=2)
    folders.lora(root / "rest", 6, head=2)
    folders.lora(root / "wide", 7, head=3)
    folders.ia3(root / "v", 8)
    folders.ia3(root / "w", 9)
    return root


@pytest.fixture
def here(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own with the adapters in it; the current one."""
    shutil.copytree(_made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(here: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `pemath` with the given words."""

    def run(*words: str) -> Result:
        capsys.readouterr()
        code = 0
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
