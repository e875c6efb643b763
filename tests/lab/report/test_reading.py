"""What is read of a run folder, refused, and found missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pemath.errors import ConfigError, ReferenceNotFound
from pemath.lab.report import numbers
from pemath.lab.report.build import build
from pemath.lab.report.missing import missing
from pemath.lab.report.read import Run, read_run
from pemath.lab.report.write import write_report

from .look import cells, table


def test_a_complete_run_has_nothing_odd(run: Run) -> None:
    assert run.notes == ()
    assert missing(run) == []
    assert run.checked == len(run.records) > 0
    assert (run.pems, run.seeds) == (["lora", "ia3"], [1, 2])
    assert run.swept == "(1-t)*a + t*b"


def test_metrics_are_computed_again(changed: Any) -> None:
    def lie(text: str) -> str:
        first, rest = text.split("\n", 1)
        return json.dumps(json.loads(first) | {"metric": 0.999}) + "\n" + rest

    found = read_run(changed("records.jsonl", lie))
    assert len(found.notes) == 1
    assert "1 stored metrics differ" in found.notes[0]
    assert found.checked == len(found.records) - 1


def test_an_unfinished_line_is_left_out(changed: Any, run: Run) -> None:
    found = read_run(changed("records.jsonl", lambda text: text[:-30]))
    assert len(found.records) == len(run.records) - 1
    assert "not finished" in found.notes[0]


def test_the_last_of_equal_records_counts(changed: Any, run: Run) -> None:
    found = read_run(changed("records.jsonl", lambda text: text + text.split("\n")[0] + "\n"))
    assert len(found.records) == len(run.records)
    assert "more than once" in found.notes[0]


def test_a_run_that_has_only_begun(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    made, files = write_report(tmp_path)
    assert "no cell yet" in made.lead[1]
    assert "not complete" in made.warnings[0]
    assert all(path.is_file() for path in files)


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("run.json", lambda text: text[:100], "JSON"),
        ("run.json", lambda text: text.replace('"tasks": {', '"tusks": {'), "tasks"),
        ("records.jsonl", lambda text: text.replace('"seed": 1', '"seed": "x"', 1), "line 1"),
        ("records.jsonl", lambda text: text.replace("[", "[1, ", 1), "201 predictions"),
        ("records.jsonl", lambda text: text.replace("glue/sst2", "glue/none", 1), "no labels"),
        ("interference.json", lambda text: "[{}]", "task"),
        ("labels/glue__sst2.json", lambda text: '{"test": [NaN]}', "test"),
    ],
)
def test_malformed_files_are_refused(
    changed: Any, name: str, edit: Callable[[str], str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_run(changed(name, edit))
    assert caught.value.where is not None
    assert "run" in caught.value.where


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match=r"run\.json"):
        read_run(tmp_path)


def test_what_is_missing_is_said(changed: Any) -> None:
    def drop(text: str) -> str:
        lines = map(json.loads, text.splitlines())
        kept = [
            line
            for line in lines
            if (line["pem"], line["seed"]) != ("ia3", 2)
            and (line["task"], line["pem"], line["composition"]) != ("glue/stsb", "lora", "paper")
        ]
        return "".join(json.dumps(line) + "\n" for line in kept)

    found = read_run(changed("records.jsonl", drop))
    said = missing(found)
    assert "glue/sst2, ia3, seed 2: everything" in said
    assert "glue/stsb, lora, seed 1: paper" in said
    assert "glue/stsb, lora, independent initialisation, seed 2: paper" in said
    made = build(found)
    assert said[0] in made.warnings[0]
    results = table(made, "results")
    assert cells(results, "LoRA", "paper")[2] == numbers.MISSING
    assert "±" not in cells(results, "(IA)³", "exact")[1]  # one seed has no deviation
