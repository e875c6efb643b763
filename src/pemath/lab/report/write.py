"""Writing a report: the page, the Markdown summary, the sheets and the figures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pemath.errors import MissingExtra, StorageError
from pemath.lab.report.blocks import Report
from pemath.lab.report.build import build
from pemath.lab.report.markdown import markdown
from pemath.lab.report.page import page
from pemath.lab.report.read import read_run
from pemath.lab.report.svg import standalone
from pemath.names import display

PAGE, SUMMARY, FIGURES = "report.html", "summary.md", "figures"
_PACKAGES = ("matplotlib", "great_tables", "pandas")


def write_report(folder: Path, out: Path | None = None) -> tuple[Report, list[Path]]:
    """Read the run in `folder` and write its report into `out`, by default into the run itself.

    Gives the report and the files. Raises: ReferenceNotFound, ConfigError, MissingExtra,
    StorageError.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtra(
                f"Reports need `{package}`, which is not installed",
                hint='pip install "pemath[lab]"',
            )
    report = build(read_run(folder))
    target = Path(folder if out is None else out)
    texts = {Path(PAGE): page(report), Path(SUMMARY): markdown(report)}
    texts |= {Path(name): text for name, text in report.sheets.items()}
    texts |= {Path(FIGURES, f"{f.name}.svg"): standalone(f.svg) for f in report.figures()}
    try:
        (target / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(target / name, text)
    except OSError as error:
        raise StorageError(
            f"cannot write the report: {error.strerror or error}", where=display(target)
        ) from None
    return report, [target / name for name in texts]


def _replace(path: Path, text: str) -> None:
    """Nobody ever sees half of a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
