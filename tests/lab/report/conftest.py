"""Run folders as fixtures: whole, on two tasks at once, and with one file changed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pemath.lab.report.read import Run, read_run
from pemath.lab.report.write import write_report

from .. import runs
from ..run_folder import Made

SMALL = {
    "glue/sst2": Made(rows=200),
    "glue/stsb": Made("pearson_spearman", (), 120, 1.3, 0.5),
}


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    for package in ("matplotlib", "great_tables", "pandas"):
        pytest.importorskip(package)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs") / "distribution"
    return runs.distribution(target, tasks=SMALL, pems=("lora", "ia3"), seeds=(1, 2))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.multitask(tmp_path_factory.mktemp("runs") / "multitask", seeds=(1, 2))


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="session")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "deep" / "report"
    write_report(folder, out)
    return out


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Callable[[str, Callable[[str], str]], Path]:
    """A copy of the run with one file changed."""

    def change(name: str, edit: Callable[[str], str]) -> Path:
        target = tmp_path / "run"
        for file in folder.rglob("*"):
            if file.is_file():
                copy = target / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
        (target / name).write_text(edit((target / name).read_text()))
        return target

    return change
