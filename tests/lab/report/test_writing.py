"""The page, the summary, the sheets, the figures and the verb."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.cli import main
from pemath.errors import PemathError
from pemath.lab.metrics import metric
from pemath.lab.report import numbers
from pemath.lab.report.build import build
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.read import Run, read_run
from pemath.lab.report.write import write_report

from .look import Page, cells, table


def test_the_results_are_the_records(run: Run) -> None:
    found = cells(table(build(run), "results"), "LoRA", "exact")[1]
    values = [
        float(metric("accuracy")(run.labels["glue/sst2", "test"], np.array(each.predictions)))
        for each in run.records
        if (each.task, each.pem, each.initialisation, each.composition)
        == ("glue/sst2", "lora", "shared", "exact")
    ]
    assert f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}" in found


def test_what_arithmetic_costs(run: Run) -> None:
    found = table(build(run), "cost")
    assert set(cells(found, "LoRA", "shared, exact")[1:4]) == {"0"}
    independent = cells(found, "LoRA", "independent, paper")
    assert float(independent[3].split()[0].replace("−", "-")) < -3
    assert independent[-2:] == ["71.0 %", cells(found, "LoRA", "independent, exact")[-1]]
    assert [group.title for group in found.groups] == ["LoRA", "(IA)³"]
    assert len(found.groups[1].rows) == 4  # (IA)³ has no independent initialisation


def test_the_page_needs_nothing_else(written: Path) -> None:
    text = (written / "report.html").read_text()
    found = Page(text)
    assert found.tags["script"] == found.tags["link"] == found.tags["img"] == 0
    assert found.loads == []
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert found.tags["svg"] == 3
    assert found.tags["table"] >= 8
    assert [name for name, count in Counter(found.ids).items() if count > 1] == []
    for target in re.findall(r'(?:href="|url\()#([^")]+)', text):
        assert target in found.ids
    said = " ".join(found.said)
    for each in ("LoRA", "(IA)³", "STS-B", "pip:minilm", "torch", "made up for a test", "2.13.0"):
        assert each in said


def test_figures_stand_alone(written: Path) -> None:
    files = sorted(path.name for path in (written / "figures").iterdir())
    assert files == ["claim.svg", "interference.svg", "weights.svg"]
    for name in files:
        text = (written / "figures" / name).read_text()
        root = ET.fromstring(text)
        assert root.get("viewBox")
        assert root.get("aria-label")
        assert "prefers-color-scheme: dark" in text
        assert "#0" not in re.sub(r"var\([^)]*\)|<style>.*?</style>", "", text).replace(
            'href="#', ""
        ), "a stand-in colour was left"


def test_the_summary_stands_alone(written: Path, run: Run) -> None:
    text = (written / "summary.md").read_text()
    for figure in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text):
        assert (written / figure).is_file()
    for said in ("0.5*a + 0.5*b", "pemath reproduce distribution", "2.13.0", "1 h 49 min"):
        assert said in text
    assert "compositions:" in text  # the recipe
    widths = [
        {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        for block in text.split("\n\n")
        if block.startswith("|")
    ]
    assert len(widths) >= 8
    assert all(len(each) == 1 for each in widths)


def test_the_sheets(written: Path, run: Run) -> None:
    results = list(csv.DictReader(StringIO((written / "results.csv").read_text())))
    assert len(results) == len(run.records)
    for line, record in zip(results, run.records, strict=True):
        assert float(line["value"]) == record.metric
        assert line["task"] == record.task
    assert {line["weights"] for line in results if line["composition"] == "sweep"} >= {"t=0.3"}
    found = list(csv.DictReader(StringIO((written / "claims.csv").read_text())))
    assert len(found) == 2 * 2 * 5
    assert {line["verdict"] for line in found} <= {HOLDS, TIE, FAILS}


def test_the_same_run_gives_the_same_bytes(folder: Path, written: Path, tmp_path: Path) -> None:
    _, files = write_report(folder, tmp_path)
    for file in files:
        assert file.read_bytes() == (written / file.relative_to(tmp_path)).read_bytes()


def test_names_are_only_text(changed: Any, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>|`x`\\u202e"

    def name(text: str) -> str:
        return text.replace("glue/sst2, made up for a test", attack).replace('"no"', f'"{attack}"')

    out = tmp_path / "out"
    write_report(changed("run.json", name), out)
    text = (out / "report.html").read_text()
    assert Page(text).tags["script"] == 0
    assert "&lt;script&gt;" in text
    summary = (out / "summary.md").read_text()
    assert "<script>" not in summary.split("**The recipe**")[0]
    assert "\u202e" not in text + summary


def test_several_free_weights_have_no_curve(changed: Any) -> None:
    def two(text: str) -> str:
        return text.replace('"weights": {"t": ', '"weights": {"u": 1.0, "t": ')

    made = build(read_run(changed("records.jsonl", two)))
    assert [figure.name for figure in made.figures()] == ["claim", "interference"]


def call(*words: str) -> int:
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verb(pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", str(pair), "--out", str(tmp_path)) == 0
    said = capsys.readouterr().out
    for each in ("Multi-tasking", "a: trained on RTE", "holds", str(tmp_path / "report.html")):
        assert each in said
    assert call("report", str(pair), "--out", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"results", "claim", "count", "cost"} <= set(found["tables"])
    assert all(Path(file).is_file() for file in found["files"])


def test_the_verb_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", str(tmp_path)) == 5
    assert "no run to report on" in capsys.readouterr().err
    assert call("report", str(tmp_path), "--json") == 5
    assert json.loads(capsys.readouterr().out)["error"] == "reference-not-found"


def test_where_nothing_can_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PemathError, match="cannot write"):
        write_report(folder, tmp_path / "file")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.2"), (-0.0123, "−1.2"), (0.0004, "0.0"), (-0.0004, "0.0")]
)
def test_signed(value: float, text: str) -> None:
    assert numbers.signed(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (95, "2 min"), (6_543, "1 h 49 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text
