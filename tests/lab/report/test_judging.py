"""Metrics of a run, the verdicts, and the causes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.lab.metrics import interval
from pemath.lab.report import causes as rules
from pemath.lab.report import claims, measure
from pemath.lab.report.build import build
from pemath.lab.report.causes import Numbers, causes
from pemath.lab.report.claims import FAILS, HOLDS, TIE, Claim
from pemath.lab.report.measure import MEAN, Difference, Measured, difference
from pemath.lab.report.read import Run, read_run

from .. import runs
from .look import cells, table


def test_differences_are_paired(run: Run) -> None:
    found = measure.measure(run).cell("glue/sst2", "lora")
    assert found["a"].seeds == (1, 2)
    apart = difference(found["exact"], found["a"])
    assert apart is not None
    gold = run.labels["glue/sst2", "test"]
    said = {
        (each.composition, each.seed): np.array(each.predictions)
        for each in run.records
        if (each.task, each.pem, each.initialisation, each.part)
        == ("glue/sst2", "lora", "shared", "test")
    }
    gains = [
        np.mean(said["exact", seed] == gold) - np.mean(said["a", seed] == gold) for seed in (1, 2)
    ]
    assert apart.per_seed == pytest.approx(gains)
    assert apart.value == pytest.approx(np.mean(gains))
    # Resampling rows by hand, jointly for both compositions and seeds.
    draw = np.random.default_rng(0)
    by_row = np.mean(
        [
            (said["exact", seed] == gold).astype(float) - (said["a", seed] == gold)
            for seed in (1, 2)
        ],
        axis=0,
    )
    low, high = interval(by_row[draw.integers(len(gold), size=(4_000, len(gold)))].mean(-1))
    assert (apart.low, apart.high) == (
        pytest.approx(low, abs=0.006),
        pytest.approx(high, abs=0.006),
    )


def test_the_mean_over_tasks(run: Run) -> None:
    measures = measure.measure(run)
    both = [measures.cell(task, "lora")["exact"] for task in run.tasks]
    together = measures.cell(MEAN, "lora")["exact"]
    np.testing.assert_allclose(together.values, (both[0].values + both[1].values) / 2)
    np.testing.assert_allclose(together.replicates, (both[0].replicates + both[1].replicates) / 2)
    apart = np.corrcoef(both[0].replicates[0], both[1].replicates[0])[0, 1]
    assert abs(apart) < 0.1  # tasks are resampled independently


def test_only_common_seeds_are_compared() -> None:
    one = Measured((1, 2), np.array([0.5, 0.7]), np.array([[0.5], [0.7]]))
    other = Measured((2, 3), np.array([0.6, 0.9]), np.array([[0.6], [0.9]]))
    apart = difference(one, other)
    assert apart is not None
    assert (apart.seeds, apart.value) == ((2,), pytest.approx(0.1))
    assert difference(one, other.only((3,))) is None


def test_sweeps_prefer_test_rows(run: Run) -> None:
    part, found = measure.measure(run).sweep("glue/sst2", "lora")
    assert part == "test"
    assert list(found) == list(runs.WEIGHTS)
    ends = measure.measure(run).cell("glue/sst2", "lora")
    np.testing.assert_array_equal(found[0.0].values, ends["a"].values)
    np.testing.assert_array_equal(found[1.0].values, ends["b"].values)


def judged(a: tuple[float, float], b: tuple[float, float]) -> Claim:
    def apart(low: float, high: float) -> Difference:
        return Difference((low + high) / 2, low, high, (1,), ((low + high) / 2,))

    merged = Measured((1,), np.array([0.8]), np.array([[0.8, 0.8]]))
    parts = {
        name: Measured((1,), np.array([0.8 - sum(edge) / 2]), np.full((1, 2), 0.8 - sum(edge) / 2))
        for name, edge in (("a", a), ("b", b))
    }
    best = max(parts, key=lambda name: parts[name].mean)
    return Claim(
        "glue/x", "lora", "exact", merged, parts, {"a": apart(*a), "b": apart(*b)}, best, 1
    )


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((0.01, 0.03), (0.02, 0.05), HOLDS),
        ((-0.01, 0.03), (0.02, 0.05), TIE),
        ((0.01, 0.03), (-0.02, 0.05), TIE),
        ((0.0, 0.0), (0.01, 0.02), TIE),
        ((1e-17, 1e-17), (0.01, 0.02), TIE),  # rounding is no lead
        ((-0.03, -0.01), (0.02, 0.05), FAILS),
        ((-0.03, -0.01), (-0.02, 0.05), FAILS),
    ],
)
def test_verdicts(a: tuple[float, float], b: tuple[float, float], verdict: str) -> None:
    assert judged(a, b).verdict == verdict


def test_equal_predictions_are_a_tie(changed: Any) -> None:
    def equal(text: str) -> str:
        lines = [json.loads(line) for line in text.splitlines()]
        parts = {
            (line["task"], line["pem"], line["seed"], line["initialisation"]): line
            for line in lines
            if line["composition"] == "a"
        }
        for line in lines:
            if line["composition"] in {"b", "exact"}:
                place = (line["task"], line["pem"], line["seed"], line["initialisation"])
                line["predictions"] = parts[place]["predictions"]
                line["metric"] = parts[place]["metric"]
        return "".join(json.dumps(line) + "\n" for line in lines)

    found = read_run(changed("records.jsonl", equal))
    every = claims.claims(found, measure.measure(found), "exact")
    assert {each.verdict for each in every} == {TIE}
    assert {each.wins for each in every} == {0}


def test_made_up_halves_merge_well(run: Run) -> None:
    every = claims.claims(run, measure.measure(run), "exact")
    assert len(every) == 4
    assert claims.count(every)[HOLDS] >= 3
    assert all(each.best == max("ab", key=lambda part: each.parts[part].mean) for each in every)


def test_multitasking_is_judged_on_the_mean(pair: Path) -> None:
    found = read_run(pair)
    every = claims.claims(found, measure.measure(found), "exact")
    assert [(each.task, each.pem) for each in every] == [(MEAN, "lora"), (MEAN, "ia3")]
    assert claims.count(every)[HOLDS] >= 1
    made = build(found)
    results = table(made, "results")
    for each, group in zip(every, ("LoRA", "(IA)³"), strict=True):
        line = cells(results, group, "exact")
        assert ("▲" in line[-1]) == (each.verdict == HOLDS)
        assert not any("▲" in cell for cell in line[1:-1])  # no claim for a single task
    assert len(cells(table(made, "own-task"), "LoRA", "exact")) == 3


NOTHING = Numbers(None, None, None, None, None, (), (), None, None)


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ({"constant": 0.9, "losses": (0.6, 0.7)}, "undertrained"),
        ({"skew": (0.55, 0.45)}, "weak skew"),
        ({"skew": (0.8, 0.2), "said": (0.52, 0.49, 0.5)}, "weak skew"),
        ({"said": (1.0, 0.0, 0.4)}, "one answer"),
        ({"weights": (0.9, 1.0)}, "weight"),
        ({"cosine": 0.05}, "interference"),
        ({"error": 0.7}, "cross terms"),
    ],
)
def test_causes(
    run: Run, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], name: str
) -> None:
    claim = judged((-0.03, -0.01), (-0.02, 0.0))
    empty = measure.Measures({}, {})
    monkeypatch.setattr(
        rules, "numbers_of", lambda run, claim: Numbers(**(vars_of(NOTHING) | known))
    )
    assert [cause.name for cause in causes(run, empty, claim)] == [name]
    monkeypatch.setattr(rules, "numbers_of", lambda run, claim: NOTHING)
    assert causes(run, empty, claim) == []


def vars_of(one: Numbers) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_causes_of_ties_and_unequal_parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "numbers_of", lambda run, claim: NOTHING)
    empty = measure.Measures({}, {})
    few = causes(run, empty, judged((-0.01, 0.03), (0.0, 0.03)))
    assert [cause.name for cause in few] == ["resolution"]
    assert "±2.0 points" in few[0].text
    uneven = causes(run, empty, judged((-0.03, -0.01), (0.1, 0.2)))
    assert [cause.name for cause in uneven] == ["unequal parts"]
    room = measure.Measures(
        {("glue/x", "lora", "shared"): {"all": judged((0, 0), (0, 0)).parts["a"]}}, {}
    )
    full = causes(run, room, judged((-0.03, -0.01), (-0.03, -0.01)))
    assert [cause.name for cause in full] == ["no headroom"]


def test_numbers_of_a_cell(run: Run) -> None:
    [claim] = [
        each
        for each in claims.claims(run, measure.measure(run), "exact")
        if (each.task, each.pem) == ("glue/sst2", "lora")
    ]
    known = rules.numbers_of(run, claim)
    gold = run.labels["glue/sst2", "test"]
    assert known.skew == (0.8, 0.2)
    assert known.gold == pytest.approx(np.mean(gold == 0))
    assert known.constant == pytest.approx(max(np.mean(gold == 0), np.mean(gold == 1)))
    assert known.said is not None
    assert known.said[0] > known.said[2] > known.said[1]  # the halves pull apart, the merge heals
    assert len(known.weights) == 2
    assert known.error == 0.0
