"""Domain transfer: numbers that are known beforehand, and the page."""

import csv
import json
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path

import pytest

from pemath.lab.report.blocks import Report
from pemath.lab.report.build import build
from pemath.lab.report.claims import HOLDS, TIE
from pemath.lab.report.read import Run, read_run
from pemath.lab.report.transfer.analogies import Analogy, analogies, directions, measured, missing
from pemath.lab.report.write import write_report

from . import followed_runs
from .look import Page, cells, table

THERE = "reviews/yelp to reviews/amazon"
BACK = "reviews/amazon to reviews/yelp"


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "transfer"
    return followed_runs.transfer(folder, pems=("lora", "ia3"), seeds=(1, 2))


@pytest.fixture(scope="module")
def run(transferred: Path) -> Run:
    return read_run(transferred)


@pytest.fixture(scope="module")
def made(run: Run) -> Report:
    return build(run)


def analogy_of(run: Run, pem: str, curve: str, rule: str) -> Analogy:
    [found] = [
        each
        for each in analogies(run, measured(run))
        if (each.direction, each.pem, each.curve, each.rule) == (THERE, pem, curve, rule)
    ]
    return found


def test_nothing_is_odd(run: Run) -> None:
    assert run.notes == ()
    assert missing(run) == []
    assert directions(run) == [THERE, BACK]


@pytest.mark.parametrize(
    ("pem", "curve", "gain"),
    [("lora", "analogy", 0.2), ("lora", "paper", 0.175), ("ia3", "paper", 0.2)],
)
def test_analogies(run: Run, pem: str, curve: str, gain: float) -> None:
    found = analogy_of(run, pem, curve, "target labels")
    assert found.weights == (0.8, 0.8)
    assert found.gain.value == pytest.approx(gain)
    assert 0 < found.gain.low < gain < found.gain.high
    assert found.verdict == HOLDS
    assert found.room is not None
    assert found.room.value == pytest.approx(0.25)
    assert found.closed == pytest.approx(gain / 0.25)


def test_a_weight_of_one_adds_nothing(run: Run, made: Report) -> None:
    found = analogy_of(run, "lora", "analogy", "source labels")
    assert (found.gain.low, found.gain.high, found.verdict) == (0, 0, TIE)
    answer = made.lead[1]
    assert "in 4 of 8 cases" in answer
    assert "In 4 the test rows cannot tell, 4 of them because the chosen weight is 1" in answer


def test_the_tables(made: Report) -> None:
    results = table(made, "results")
    group = "yelp → amazon, LoRA"
    assert cells(results, group, "source only")[1:3] == ["1", "70.0 ± 0.0"]
    line = cells(results, group, "paper, target labels")
    assert line[2] == "87.5 ± 0.0"
    assert line[5:] == ["70 %", "holds ▲"]
    assert cells(results, group, "target's own (upper bound)")[4].startswith("+25.0 [")
    # Of (IA)³ the paper's arithmetic is the exact one, and not shown twice.
    [same] = [each for each in results.groups if each.title == "yelp → amazon, (IA)³"]
    assert not any(row[0].text.startswith("paper") for row in same.rows)
    inflation = table(made, "inflation")
    assert [each.title for each in inflation.groups] == [group, "amazon → yelp, LoRA"]
    line = cells(inflation, group, "0.7")
    assert line[1:4] == ["1.30", "1.30", "1.30 to 1.30"]
    assert line[-1].startswith("−2.5 [")
    training = table(made, "training")
    assert [row[0].text for row in training.groups[0].rows].count("classifier") == 2
    assert {row[0].text for row in table(made, "data").groups[0].rows} == {"yelp", "amazon"}


def test_what_is_missing_is_said(transferred: Path, tmp_path: Path) -> None:
    for file in transferred.rglob("*.json*"):
        target = tmp_path / file.relative_to(transferred)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    lines = map(json.loads, (transferred / "records.jsonl").read_text().splitlines())
    kept = [
        line
        for line in lines
        if (line["task"], line["seed"]) != (BACK, 2)
        and (line["pem"], line["composition"]) != ("ia3", "target")
    ]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    (tmp_path / "records.jsonl").write_text(text)
    found = read_run(tmp_path)
    said = missing(found)
    assert f"{THERE}, ia3, seed 1: target" in said
    assert f"{BACK}, lora, seed 2: everything" in said
    made = build(found)
    assert said[0] in made.warnings[0]
    line = cells(table(made, "results"), "amazon → yelp, (IA)³", "analogy, target labels")
    assert line[2] == "90.0"  # one seed has no deviation
    assert line[5] == "—"  # nor is there a bound


def test_a_run_that_has_only_begun(transferred: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((transferred / "run.json").read_bytes())
    made, files = write_report(tmp_path)
    assert "no direction yet" in made.lead[1]
    assert f"{THERE}, lora, seed 1: everything" in made.warnings[0]
    assert all(path.is_file() for path in files)


def test_the_files(run: Run, transferred: Path, tmp_path: Path) -> None:
    write_report(transferred, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags["svg"] == 1
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert ET.fromstring((tmp_path / "figures" / "accuracy.svg").read_text()).get("aria-label")
    assert "2 − w" in (tmp_path / "summary.md").read_text()
    found = list(csv.DictReader(StringIO((tmp_path / "claims.csv").read_text())))
    assert len(found) == 2 * 2 * 2 * 2
    assert {line["verdict"] for line in found} == {HOLDS, TIE}
    results = list(csv.DictReader(StringIO((tmp_path / "results.csv").read_text())))
    assert len(results) == len(run.records)
    assert {line["norm_ratio"] for line in results} >= {"", "1.5"}
