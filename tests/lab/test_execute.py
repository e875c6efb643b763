"""Both experiments end to end on random models and files of our own: what a run folder holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from pemath.errors import OutputExists, ReferenceNotFound
from pemath.lab.execute import Facts, carry_out
from pemath.lab.experiments.cells import Laboratory
from pemath.lab.recipes.recipe import Recipe
from pemath.lab.report.read import read_run
from tests.lab.tiny_models import WORDS, save_model


def films(path: Path, good: str, bad: str) -> str:
    """Sentences of two words, the first of which says it all."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for first, label in ((good, "good"), (bad, "bad")):
            writer.writerows([f"{first} {second}", label] for second in WORDS)
            writer.writerows([f"{first} the {second}", label] for second in WORDS)
    return str(path)


def recipe(experiment: str, tmp_path: Path, **sections: Any) -> Recipe:
    family = {"distribution": "encoder", "multitask": "causal"}[experiment]
    model = tmp_path / family
    if not model.is_dir():
        save_model(family, model)
    targets = {"encoder": ["query", "value"], "causal": ["q_proj", "v_proj"]}[family]
    feed = {"encoder": ["key", "intermediate.dense"], "causal": ["k_proj", "up_proj"]}[family]
    training = {"learning_rate": 1e-2, "epochs": 1, "batch_size": 8}
    task = {"text": ["text"], "label": "label", "labels": ["bad", "good"],
            "prompt": "review : {0} answer :", "words": [" bad", " good"]}  # fmt: skip
    tasks = [
        {"name": "films", "train": films(tmp_path / "1.csv", "great", "awful"), **task},
        {"name": "books", "train": films(tmp_path / "2.csv", "fine", "dull"), **task},
    ]
    return Recipe.parse(
        {
            "experiment": experiment,
            "model": {"name": str(model), "max_length": 16},
            "tasks": tasks[: 1 if experiment == "distribution" else 2],
            "rows": {"train": 16, "validation": 8, "test": 8},
            "modules": {
                "lora": {"target_modules": targets, **training},
                "ia3": {"target_modules": feed, "feedforward_modules": [], **training},
                **({"full": training} if experiment == "distribution" else {}),
            },
            "initialisation": ["shared", "independent"],
            "compositions": {
                "exact": "0.5*a + 0.5*b",
                "paper": "paper(a, b, weights=[0.5, 0.5])",
                "regmean": "regmean(a, b)",
                "fisher": "fisher(a, b)",
            },
            "sweep": {"expression": "(1-t)*a + t*b", "weights": {"t": "0:1:0.5"}},
            "evaluation": {"batch_size": 8, "fisher_rows": 4, "gram_rows": 8},
            "seeds": [1],
        }
        | sections
    )


def run(
    made: Recipe, tmp_path: Path, *, out: str = "run", store: str = "store", workers: int = 1
) -> Path:
    lab = Laboratory(made, tmp_path / store)
    return carry_out(lab, tmp_path / out, Facts("test", None), workers=workers)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_distribution(tmp_path: Path) -> None:
    folder = run(recipe("distribution", tmp_path), tmp_path)
    records = lines(folder / "records.jsonl")
    assert len({record["rows"] for record in records}) == 1
    for pem in ("lora", "ia3", "full"):
        found = {r["composition"]: r for r in records
                 if r["pem"] == pem and r["initialisation"] == "shared" and r["part"] == "test"}  # fmt: skip
        assert set(found) == {"a", "b", "all", "exact", "paper", "regmean", "fisher", "best"}
        assert found["exact"]["error_to_exact"] < 1e-4  # rounding; the halves nearly cancel
        if pem != "lora":  # these are linear in their numbers
            assert found["paper"]["predictions"] == found["exact"]["predictions"]
        swept = [r["weights"]["t"] for r in records
                 if r["pem"] == pem and r["composition"] == "sweep"]  # fmt: skip
        assert swept == [0.0, 0.5, 1.0]
        assert all(r["part"] == "validation" for r in records if r["composition"] == "sweep")
    independent = {r["composition"] for r in records if r["initialisation"] == "independent"}
    assert independent == {"a", "b", "exact", "paper"}
    errors = {r["initialisation"]: r["error_to_exact"] for r in records
              if r["composition"] == "paper" and r["pem"] == "lora"}  # fmt: skip
    assert errors["independent"] > errors["shared"] > 0

    facts = json.loads((folder / "run.json").read_text())["tasks"]["films"]
    assert facts["share0"][0] > 0.7
    assert facts["share0"][1] < 0.3
    modules = lines(folder / "modules.jsonl")
    assert [(m["part"], m["rows"], m["steps"]) for m in modules if m["pem"] == "ia3"] == [
        ("a", 16, 2), ("b", 16, 2), ("all", 32, 2)
    ]  # fmt: skip
    sites = json.loads((folder / "interference.json").read_text())
    assert {site["layer"] for site in sites if site["pem"] == "lora"} == {0, 1}
    read_run(folder)


def test_multitask(tmp_path: Path) -> None:
    folder = run(recipe("multitask", tmp_path), tmp_path)
    records = lines(folder / "records.jsonl")
    for task in ("films", "books"):
        for part, count in (("test", 3), ("validation", 3)):
            swept = [r for r in records if r["composition"] == "sweep" and r["task"] == task
                     and r["part"] == part and r["pem"] == "lora"
                     and r["initialisation"] == "shared"]  # fmt: skip
            assert len(swept) == count
        ends = {r["composition"]: r["predictions"] for r in records
                if r["task"] == task and r["pem"] == "lora" and r["part"] == "test"
                and r["initialisation"] == "shared" and r["composition"] != "sweep"}  # fmt: skip
        assert {"a", "b", "exact", "best"} <= set(ends)
    read_run(folder)


def test_workers_change_nothing_but_the_time(tmp_path: Path) -> None:
    made = recipe("distribution", tmp_path, seeds=[1, 2])
    one = run(made, tmp_path, out="one", store="s1")
    two = run(made, tmp_path, out="two", store="s2", workers=2)
    assert timeless(lines(one / "records.jsonl")) == timeless(lines(two / "records.jsonl"))
    assert (one / "interference.json").read_bytes() == (two / "interference.json").read_bytes()


def test_a_finished_run_is_only_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pemath.lab.setting import Setting

    made = recipe("distribution", tmp_path)
    folder = run(made, tmp_path)
    before = (folder / "records.jsonl").read_bytes()

    def never(*_: Any) -> Any:
        raise AssertionError("this was done before")

    monkeypatch.setattr(Setting, "base", never)
    assert run(made, tmp_path) == folder
    assert (folder / "records.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExists, match="no run folder"):
        run(recipe("distribution", tmp_path), tmp_path)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_missing_data_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    made = recipe("distribution", tmp_path, tasks=["glue/rte"])
    lab = Laboratory(made, tmp_path / "store", data_dir=tmp_path)
    with pytest.raises(ReferenceNotFound, match="RTE"):
        carry_out(lab, tmp_path / "run", Facts("test", None))
    assert not (tmp_path / "store").exists()
