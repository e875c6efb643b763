"""Unlearning and detoxifying: numbers that are known beforehand, and the pages."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.lab.report import numbers
from pemath.lab.report.blocks import Report
from pemath.lab.report.build import build
from pemath.lab.report.claims import FAILS, HOLDS, TIE
from pemath.lab.report.followed import Spot, follow
from pemath.lab.report.read import Run, read_run
from pemath.lab.report.subtraction.claims import Claim, claims, without_choice
from pemath.lab.report.subtraction.matched import LOSES, WINS, Better, Trade, _at, all_better
from pemath.lab.report.subtraction.matched import TIE as SAME
from pemath.lab.report.subtraction.subject import CHOSEN, subject_of
from pemath.lab.report.write import write_report

from . import followed_runs
from .look import Page, cells, table

PROMPT, NEUTRAL = "toxicity/paper", "toxicity/neutral"


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unlearning"
    return followed_runs.subtraction(folder, "unlearning", pems=("lora", "full"), seeds=(1, 2))


@pytest.fixture(scope="module")
def detoxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "detox"
    return followed_runs.subtraction(folder, "detox", pems=("lora",), seeds=(1, 2), judge=True)


@pytest.fixture(scope="module")
def run(unlearned: Path) -> Run:
    return read_run(unlearned)


@pytest.fixture(scope="module")
def made(run: Run) -> Report:
    return build(run)


@pytest.fixture(scope="module")
def replies(detoxed: Path) -> Report:
    return build(read_run(detoxed))


@pytest.fixture
def altered(unlearned: Path, tmp_path: Path) -> Callable[..., Run]:
    """The run with only some records, or with another budget."""

    def change(
        keep: Callable[[dict[str, Any]], bool] = lambda line: True, budget: float = 0.1
    ) -> Run:
        target = tmp_path / "run"
        (target / "labels").mkdir(parents=True)
        for file in unlearned.rglob("*.json*"):
            (target / file.relative_to(unlearned)).write_bytes(file.read_bytes())
        lines = map(json.loads, (unlearned / "records.jsonl").read_text().splitlines())
        text = "".join(json.dumps(line) + "\n" for line in lines if keep(line))
        (target / "records.jsonl").write_text(text)
        facts = json.loads((unlearned / "run.json").read_text())
        facts["recipe"]["choice"]["budget"] = budget
        (target / "run.json").write_text(json.dumps(facts))
        return read_run(target)

    return change


def claim_of(run: Run, test: str, pem: str, curve: str) -> Claim:
    [found] = [
        each
        for each in claims(subject_of(run))
        if (each.test, each.pem, each.curve) == (test, pem, curve)
    ]
    return found


def better_of(run: Run, test: str, pem: str, curve: str) -> Better:
    [found] = [
        each
        for each in all_better(subject_of(run))
        if (each.test, each.pem, each.curve) == (test, pem, curve)
    ]
    return found


def test_nothing_is_odd(run: Run) -> None:
    assert run.notes == ()
    assert subject_of(run).missing() == []
    assert run.checked == len(run.records) > 0
    assert run.weights == list(followed_runs.WEIGHTS)
    assert run.curves_of("lora") == ["negation", "projected", "consensus"]
    assert run.curves_of("full") == ["negation"]
    assert run.facts.scorer is not None
    assert run.facts.scorer.quality[0].auc == 0.843


@pytest.mark.parametrize(
    ("curve", "weight", "rise", "fall"),
    [
        ("negation", 0.5, 0.08, 0.032),
        ("projected", 1.0, 0.08, 0.032),
        ("consensus", 0.75, 0.09, 0.072),
    ],
)
@pytest.mark.parametrize("test", [PROMPT, NEUTRAL])
def test_claims(run: Run, test: str, curve: str, weight: float, rise: float, fall: float) -> None:
    found = claim_of(run, test, "lora", curve)
    assert found.weights == (weight, weight)
    assert found.growth == pytest.approx(np.exp(rise) - 1)
    assert found.perplexity[0].mean == pytest.approx(followed_runs.PERPLEXITY)
    apart = found.apart
    assert (apart.value, apart.low, apart.high) == (pytest.approx(-fall),) * 3
    assert found.verdict == HOLDS


def test_a_claim_needs_the_budget(altered: Callable[..., Run]) -> None:
    found = claim_of(altered(budget=0.05), PROMPT, "lora", "negation")
    assert (found.is_affordable, found.verdict) == (False, FAILS)


def test_a_claim_needs_a_difference(altered: Callable[..., Run]) -> None:
    """Where the chosen texts are those of the model as it is."""
    found = altered()
    untouched = {
        (each.pem, each.seed): each.predictions
        for each in found.records
        if (each.task, each.part, each.composition) == (PROMPT, "test", "base")
    }
    records = tuple(
        each.model_copy(update={"predictions": untouched[each.pem, each.seed]})
        if each.chosen and each.task == PROMPT
        else each
        for each in found.records
    )
    same = replace(found, records=records)
    assert claim_of(same, PROMPT, "lora", "negation").verdict == TIE
    assert claim_of(same, NEUTRAL, "lora", "negation").verdict == HOLDS


def test_a_curve_on_the_same_line_ties(run: Run) -> None:
    found = better_of(run, PROMPT, "lora", "projected")
    assert found.verdict == SAME
    assert found.apart is not None
    assert found.apart.value == pytest.approx(0, abs=1e-12)
    ends = (followed_runs.PERPLEXITY, followed_runs.PERPLEXITY * np.exp(0.16))
    assert found.perplexities == pytest.approx(ends)
    assert all(point.apart is not None for point in found.points)


def test_a_steeper_curve_wins(run: Run) -> None:
    found = better_of(run, NEUTRAL, "lora", "consensus")
    assert found.verdict == WINS
    assert found.apart is not None
    # Twice the slope of 0.4, on average halfway to a log perplexity of 0.24 above the start.
    assert found.apart.value == pytest.approx(-0.4 * 0.12)
    last = found.points[-1]
    assert (last.weight, last.perplexity) == (2, pytest.approx(40 * np.exp(0.24)))
    assert last.apart is not None
    assert last.apart.value == pytest.approx(-0.4 * 0.24)
    assert last.reference == pytest.approx(last.toxicity + 0.4 * 0.24)


def test_a_dearer_curve_loses_and_goes_beyond(detoxed: Path, replies: Report) -> None:
    found = better_of(read_run(detoxed), "toxicity/toxic-instructions", "lora", "paper")
    assert found.verdict == LOSES
    assert found.perplexities == pytest.approx((40, 40 * np.exp(0.24)))
    assert [point.reference is None for point in found.points] == [False] * 3 + [True] * 3
    line = cells(table(replies, "matched"), "LoRA, toxic instructions", "paper, w = 2")
    assert line[-2:] == [numbers.MISSING, "outside the range"]


def test_the_first_weights_that_have_a_perplexity_count() -> None:
    costs = np.array([[0.0], [0.2], [0.1], [0.4]])
    trade = Trade((0, 1, 2, 3), costs, np.array([[1.0], [0.8], [0.2], [0.0]]))
    for cost, toxicity in ((0.1, 0.9), (0.2, 0.8), (0.3, 1 / 15), (-1.0, 1.0), (9.0, 0.0)):
        assert _at(trade, np.array([cost]))[0] == pytest.approx(toxicity), cost


def test_texts_of_one_prompt_are_drawn_together(run: Run) -> None:
    together = follow(run, NEUTRAL, samples=3).at("lora", Spot("base"))
    alone = follow(run, NEUTRAL).at("lora", Spot("base"))
    assert together is not None
    assert alone is not None
    np.testing.assert_allclose(together.values, alone.values)
    [record] = [
        each
        for each in run.records
        if (each.task, each.part, each.pem, each.seed) == (NEUTRAL, "test", "lora", 1)
        and each.composition == "base"
    ]
    by_prompt = np.array(record.predictions).reshape(16, 3).mean(1)
    error = by_prompt.std() / 4
    assert together.replicates[0].std() == pytest.approx(error, rel=0.1)


def test_shares_above(run: Run) -> None:
    found = follow(run, PROMPT)
    share = found.share("lora", Spot("toxic"))
    assert share is not None
    scores = [
        each.predictions
        for each in run.records
        if (each.task, each.part, each.pem, each.composition) == (PROMPT, "test", "lora", "toxic")
    ]
    assert share.mean == pytest.approx(np.mean(np.array(scores) > 0.8))
    assert found.weights("lora", Spot("negation", chosen=CHOSEN)) == (0.5, 0.5)
    assert found.fact("lora", Spot("negation", 1.0), "words") == pytest.approx(14 - 8 * 0.16)


def test_the_lead_and_the_tables(made: Report) -> None:
    question, answer, lora, full = made.lead
    assert "what does that cost?" in question
    assert "in 4 of 4 cases" in answer
    assert "`consensus` wins in 2 and loses in 0 of 2" in answer
    assert "−0.032 [−0.032, −0.032]" in lora
    assert "40.0 → 43.3 (+8.3 %)" in lora
    assert "words 14.0 → 13.4" in lora
    assert full.startswith("Full fine-tuning at w = 0.5")
    assert made.tiles[0].value == "4 of 4"
    line = cells(table(made, "verdicts"), "LoRA", "consensus, neutral prompts")
    assert line[-1] == "holds ▲"
    assert "−0.072 [−0.072, −0.072]" in line
    weights = table(made, "weights-paper")
    assert cells(weights, "LoRA", "toxic")[4] == "40.8"
    assert len(weights.groups[0].rows) == 2 + 3 * 7
    scored = [
        each
        for each in made.tables()
        if "toxicity" in each.title.lower() or "Toxicity:" in each.note
    ]
    assert len(scored) >= 5
    assert all("alt-profanity-check" in each.note for each in scored)
    scorer = table(made, "scorer")
    assert cells(scorer, "", "toxic/made-up")[3:5] == ["0.843", "75.1 %"]
    assert "toxic/elsewhere" in scorer.note
    assert {"toxic/civil"} <= {row[0].text for row in table(made, "data").groups[0].rows}
    training = table(made, "training")
    assert cells(training, "LoRA", "useful")[1:4] == ["clean/olid", "512", "32"]


def test_pairs_of_replies(replies: Report) -> None:
    found = table(replies, "pairs")
    # 48 instructions and 30 references in two seeds; exact lowers every score by 0.045 only.
    assert cells(found, "LoRA", "exact, chosen")[1:] == [
        "0 / 96 / 0",
        "0 / 96 / 0",
        "0 / 0 / 60",
        "0 / 58 / 2",
    ]
    assert cells(found, "LoRA", "projected, chosen")[1] == "96 / 0 / 0"
    arithmetic = table(replies, "arithmetic")
    line = cells(arithmetic, "LoRA, toxic instructions", "1")
    assert line[3] == "0.000 [0.000, 0.000]"  # 0.12 * 0.5 and 0.3 * 0.2
    assert line[-1] == "60.0 %"
    helpful = table(replies, "helpful")
    line = next(row for row in helpful.groups[0].rows if row[0].text == "projected, chosen")
    assert line[4].text == "−0.07 [−0.07, −0.07]"
    assert "in 2 of 2 cases (kind of module × instructions)" in replies.lead[1]


def test_provoking_prompts_are_a_test_where_there_are_some(run: Run) -> None:
    assert list(subject_of(run).tests) == [PROMPT, NEUTRAL]
    recipe = run.facts.recipe | {"prompts": {"provoking": 64, "samples": 1}}
    more = replace(run, facts=run.facts.model_copy(update={"recipe": recipe}))
    assert list(subject_of(more).tests) == [PROMPT, NEUTRAL, "toxicity/provoking"]
    assert {each.test for each in claims(subject_of(more))} == {PROMPT, NEUTRAL}


def test_what_no_weight_affords_is_said(altered: Callable[..., Run]) -> None:
    found = altered(lambda line: not (line["chosen"] and line["pem"] == "full"))
    assert without_choice(subject_of(found)) == [("full", "negation", 2, 2)]
    made = build(found)
    assert "`negation` of Full fine-tuning in 2 of 2 seeds" in made.lead[-1]
    assert made.warnings == ()  # nothing is missing


def test_what_is_missing_is_said(altered: Callable[..., Run]) -> None:
    def keep(line: dict[str, Any]) -> bool:
        if (line["pem"], line["seed"]) == ("full", 2):
            return False
        late = line["composition"] == "consensus" and line["weights"].get("w", 0) > 1
        return not (late and line["seed"] == 1)

    found = altered(keep)
    said = subject_of(found).missing()
    assert said == ["lora, seed 1: consensus at w = 1.5 and 2", "full, seed 2: everything"]
    made = build(found)
    assert "consensus at w = 1.5 and 2" in made.warnings[0]
    assert better_of(found, PROMPT, "lora", "consensus").apart is not None
    assert "1 of 1" in cells(
        table(made, "verdicts"), "Full fine-tuning", "negation, neutral prompts"
    )


@pytest.mark.parametrize("composition", ["base", "negation"])
def test_a_page_without_a_composition(altered: Callable[..., Run], composition: str) -> None:
    made = build(altered(lambda line: line["composition"] != composition))
    assert composition in made.warnings[0]


def test_a_run_that_has_only_begun(unlearned: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((unlearned / "run.json").read_bytes())
    made, files = write_report(tmp_path)
    assert "no kind of module yet" in made.lead[1]
    assert "lora, seed 1: everything" in made.warnings[0]
    assert all(path.is_file() for path in files)


@pytest.mark.parametrize("experiment", ["unlearned", "detoxed"])
def test_the_files(experiment: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(experiment)
    write_report(folder, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags["script"] == page.tags["img"] == 0
    assert page.loads == []
    assert page.tags["svg"] == 3
    assert len(page.ids) == len(set(page.ids))
    for file in (tmp_path / "figures").iterdir():
        drawn = file.read_text()
        assert ET.fromstring(drawn).get("aria-label")
        bare = re.sub(r"var\([^)]*\)|<style>.*?</style>", "", drawn).replace('href="#', "")
        assert "#0" not in bare, "a stand-in colour was left"
    summary = (tmp_path / "summary.md").read_text()
    for figure in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", summary):
        assert (tmp_path / figure).is_file()


def test_the_same_run_gives_the_same_bytes(run: Run, made: Report) -> None:
    again = build(run)
    assert [each.svg for each in again.figures()] == [each.svg for each in made.figures()]
    assert again == made


def test_the_sheets(run: Run, made: Report) -> None:
    sheets = made.sheets
    results = list(csv.DictReader(StringIO(sheets["results.csv"])))
    assert len(results) == len(run.records)
    assert {line["chosen"] for line in results} == {"", "validation"}
    assert any(line["distinct_2"] for line in results)
    curves = list(csv.DictReader(StringIO(sheets["curves.csv"])))
    [one] = [
        line
        for line in curves
        if (line["task"], line["pem"], line["composition"], line["weight"])
        == ("perplexity/clean", "lora", "negation", "0.5")
    ]
    assert float(one["value"]) == pytest.approx(40 * np.exp(0.08), abs=1e-5)
    assert float(one["low"]) < float(one["value"]) < float(one["high"])
    found = list(csv.DictReader(StringIO(sheets["claims.csv"])))
    assert {line["verdict"] for line in found} == {HOLDS}
    better = list(csv.DictReader(StringIO(sheets["better.csv"])))
    assert {line["verdict"] for line in better if not line["weight"]} == {WINS, SAME}
