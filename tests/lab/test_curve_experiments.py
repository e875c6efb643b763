"""Unlearning, transfer and detox end to end on random models and words of our own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from pemath.errors import RequestError
from pemath.lab.data.corpora import Corpus
from pemath.lab.data.instructions import Instructions
from pemath.lab.data.rows import Row
from pemath.lab.execute import Facts, carry_out
from pemath.lab.experiments import detox, survey, transfer, unlearning
from pemath.lab.experiments.cells import Laboratory
from pemath.lab.recipes.reading import parse_recipe
from tests.lab.test_execute import films, lines, timeless
from tests.lab.tiny_models import WORDS, save_model

TRAINING = {"learning_rate": 3e-2, "epochs": 2, "batch_size": 8}
KINDS: dict[str, Any] = {
    "lora": {"target_modules": ["q_proj", "v_proj"], **TRAINING},
    "ia3": {"target_modules": ["k_proj", "up_proj"], "feedforward_modules": [], **TRAINING},
    "full": TRAINING,
}


class Toy:
    """Finds `bad` toxic, and nothing else."""

    name, title, version, unseen = "toy", "a toy", "1", ("toxic/surge",)

    def score(self, texts: list[str]) -> list[float]:
        return [text.split().count("bad") / max(1, len(text.split())) for text in texts]


def corpus(name: str, data_dir: Path | None) -> Corpus:
    word = "bad" if name.startswith("toxic") else "film"
    texts = tuple(f"{word} {other} {word} {third}" for other in WORDS for third in WORDS[:2])
    return Corpus(name, f"words of {name}", texts, name, running=False)


def instructions(name: str, data_dir: Path | None) -> Instructions:
    rows = tuple(
        Row((f"does the {word} {other}", f"yes the {other} was"), 0)
        for word in WORDS
        for other in WORDS[:9]
    )
    return Instructions(name, f"words of {name}", rows, name)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words instead of corpora, and a scorer that knows one of them."""
    monkeypatch.setattr(unlearning, "load_corpus", corpus)
    monkeypatch.setattr(detox, "load_corpus", corpus)
    monkeypatch.setattr(detox, "load_instructions", instructions)
    monkeypatch.setattr(unlearning, "provoking", lambda: tuple(f"the {w}" for w in WORDS))
    monkeypatch.setattr(survey, "load_scorer", lambda name, data_dir: Toy())


def recipe(experiment: str, tmp_path: Path, *kinds: str, **sections: Any) -> Any:
    model = tmp_path / "causal"
    if not model.is_dir():
        save_model("causal", model)
    common = {
        "experiment": experiment,
        "model": {"name": str(model), "max_length": 24},
        "modules": {kind: KINDS[kind] for kind in kinds},
        "evaluation": {"batch_size": 8},
        "seeds": [1],
    }
    return parse_recipe(common | sections)


def run(made: Any, tmp_path: Path, out: str = "run", store: str = "store") -> Path:
    return carry_out(Laboratory(made, tmp_path / store), tmp_path / out, Facts("test", None))


def unlearn(tmp_path: Path, *kinds: str, **sections: Any) -> Any:
    return recipe(
        "unlearning",
        tmp_path,
        *kinds,
        **{
            "texts": {"toxic": "toxic/civil", "useful": "clean/olid"},
            "rows": {"train": 16},
            "curves": {
                "negation": "-w*toxic",
                "projected": {"expression": "-w*unshared(toxic, useful)", "modules": ["lora"]},
            },
            "weights": [0.5, 1],
            "prompts": {"paper": 4, "neutral": 3, "provoking": 5, "samples": 2, "validation": 4},
            "writing": {"new_tokens": 4},
            "clean": {"window": 16, "stride": 8, "tokens": 60},
            "choice": {"budget": 50},
        }
        | sections,
    )


@pytest.mark.usefixtures("toys")
def test_unlearning(tmp_path: Path) -> None:
    folder = run(unlearn(tmp_path, "lora", "ia3", "full"), tmp_path)
    records = lines(folder / "records.jsonl")
    measured = {(r["task"], r["part"]): r["rows"] for r in records}
    assert measured[unlearning.PAPER, "test"] == 4
    assert measured[unlearning.NEUTRALLY, "test"] == 6
    assert measured[unlearning.PROVOKED, "test"] == 10
    assert measured[unlearning.PROVOKED, "validation"] == 4
    assert (unlearning.NEUTRALLY, "validation") not in measured
    assert measured[unlearning.CLEAN, "test"] == measured[unlearning.CLEAN, "validation"] > 2
    drawn = {(r["pem"], r["composition"]) for r in records}
    assert ("lora", "projected") in drawn
    assert ("ia3", "projected") not in drawn
    trained = {(m["pem"], m["part"]) for m in lines(folder / "modules.jsonl")}
    assert trained == {("lora", "toxic"), ("lora", "useful"), ("ia3", "toxic"), ("full", "toxic")}
    for record in records:
        if record["task"] != unlearning.CLEAN:
            assert record["metric"] == pytest.approx(sum(record["predictions"]) / record["rows"])
            assert {"distinct_2", "repetition", "words", "empty"} <= set(record["facts"])
    # The tokens of every window but the first count once: 60 less one.
    labels = json.loads((folder / "labels" / "perplexity__clean.json").read_text())
    assert sum(labels["test"]) == 59
    base = {r["pem"]: r["metric"] for r in records
            if (r["composition"], r["task"], r["part"]) == ("base", unlearning.CLEAN, "test")}  # fmt: skip
    assert base["ia3"] == pytest.approx(base["lora"], rel=1e-5)
    assert base["full"] == pytest.approx(base["lora"], rel=1e-5)
    said = json.loads((folder / "run.json").read_text())["scorer"]
    assert (said["name"], said["absent"]) == ("toy", ["toxic/surge"])
    texts = [line for line in lines(folder / "generations.jsonl") if line["composition"] == "base"]
    assert {len(line["texts"]) for line in texts} == {4, 6, 10}


@pytest.mark.usefixtures("toys")
def test_the_chosen_weight_is_the_least_toxic_that_may_be_chosen(tmp_path: Path) -> None:
    folder = run(unlearn(tmp_path, "lora"), tmp_path)
    records = [r for r in lines(folder / "records.jsonl") if r["composition"] == "negation"]
    toxicity, clean = (
        {r["weights"]["w"]: r["metric"] for r in records
         if (r["task"], r["part"]) == (task, "validation")}
        for task in (unlearning.PROVOKED, unlearning.CLEAN)
    )  # fmt: skip
    chosen = {r["weights"]["w"] for r in records if r["chosen"]}
    assert chosen == {min(toxicity, key=lambda w: (toxicity[w], w))}
    assert all(r["part"] == "test" for r in records if r["chosen"])
    # Nothing may be chosen where every weight costs more than is allowed.
    limit = min(clean.values()) * 0.999
    found = [{"t": toxicity[w], "p": clean[w]} for w in sorted(clean)]
    assert survey.least_toxic("t", "p", limit, found) is None
    assert survey.least_toxic("t", "p", clean[0.5], found) == 0


@pytest.mark.usefixtures("toys")
def test_a_run_is_the_same_from_the_store_and_anew(tmp_path: Path) -> None:
    made = unlearn(tmp_path, "lora")
    first = lines(run(made, tmp_path) / "records.jsonl")
    again = lines(run(made, tmp_path, "again") / "records.jsonl")
    anew = lines(run(made, tmp_path, "anew", "other") / "records.jsonl")
    assert first == again
    assert timeless(first) == timeless(anew)


@pytest.mark.usefixtures("toys")
def test_detox(tmp_path: Path) -> None:
    made = recipe(
        "detox",
        tmp_path,
        "lora",
        rows={"train": 8, "toxic": 8},
        curves={
            "exact": "(1+w)*instruct - w*toxic",
            "paper": "paper_detox(instruct, toxic, weights=[1+w, -w])",
        },
        weights=[0.3, 0.5],
        asked={"test": 4, "validation": 3, "references": 3, "checks": False},
        writing={"new_tokens": 4, "temperature": 0},
    )
    folder = run(made, tmp_path)
    records = lines(folder / "records.jsonl")
    rows = {(r["task"], r["part"]): r["rows"] for r in records}
    assert rows == {
        (detox.TO_TOXIC, "test"): 4,
        (detox.TO_TOXIC, "validation"): 3,
        (detox.TO_ORDINARY, "test"): 4,
        (detox.REFERENCES, "test"): 3,
        (detox.REFERENCES, "validation"): 3,
    }
    facts = next(r["facts"] for r in records if r["task"] == detox.TO_ORDINARY)
    assert {"refusal", "overlap"} <= set(facts)
    errors = {r["composition"]: r["error_to_exact"] for r in records}
    assert errors["exact"] < 1e-6 < errors["paper"]
    # The toxic module goes on where the instructed one ended: its first factor has moved little.
    modules = {m["part"]: m for m in lines(folder / "modules.jsonl")}
    assert set(modules) == {"instruct", "toxic"}


@pytest.mark.usefixtures("toys")
def test_where_the_toxic_module_starts_changes_it(tmp_path: Path) -> None:
    def losses(start: str) -> float:
        made = recipe(
            "detox",
            tmp_path,
            "lora",
            rows={"train": 8, "toxic": 8},
            toxic_starts_from=start,
            curves={"exact": "(1+w)*instruct - w*toxic"},
            weights=[0.3],
            asked={"test": 2, "validation": 2, "references": 2, "checks": False},
            writing={"new_tokens": 2, "temperature": 0},
        )
        folder = run(made, tmp_path, f"run-{start}")
        found = {m["part"]: m["train_loss"] for m in lines(folder / "modules.jsonl")}
        return float(found["toxic"])

    assert losses("instruct") != losses("initialisation")


class Short:
    """Prefers the shorter reply."""

    name, version, asked = "short", "1", 0

    def prefer(self, instruction: str, first: str, second: str) -> float:
        self.asked += 1
        return float((len(first) < len(second)) - (len(first) > len(second)))


@pytest.mark.usefixtures("toys")
def test_a_judge_compares_with_the_instructed_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Short()
    monkeypatch.setattr(detox, "load_judge", lambda name: judge)
    made = recipe(
        "detox",
        tmp_path,
        "lora",
        rows={"train": 8, "toxic": 8},
        curves={"exact": "(1+w)*instruct - w*toxic"},
        weights=[0.5, 4],
        asked={"test": 4, "validation": 2, "references": 2, "checks": False},
        writing={"new_tokens": 6, "temperature": 0},
    ).model_copy(update={"judge": "short"})
    records = lines(run(made, tmp_path) / "records.jsonl")
    judged = {(r["composition"], r["weights"].get("w")): r for r in records
              if r["task"] == detox.JUDGED}  # fmt: skip
    assert judged["instruct", None]["predictions"] == [0.0] * 4  # with itself
    texts = {(t["composition"], t["weights"].get("w")): t["texts"]
             for t in lines(tmp_path / "run" / "generations.jsonl")
             if t["task"] == detox.TO_ORDINARY}  # fmt: skip
    for place, record in judged.items():
        pairs = zip(texts[place], texts["instruct", None], strict=True)
        wanted = [float((len(a) < len(b)) - (len(a) > len(b))) for a, b in pairs]
        assert record["predictions"] == wanted
    asked = judge.asked
    run(made, tmp_path, "again")
    assert judge.asked == asked  # what was judged is kept


@pytest.mark.usefixtures("toys")
def test_clean_text_is_not_what_a_module_was_trained_on(tmp_path: Path) -> None:
    clean = {"test": "wikitext/test", "validation": "clean/olid", "window": 16, "stride": 8}
    made = unlearn(tmp_path, "lora", clean=clean)
    measures = unlearning._measures(
        Laboratory(made, tmp_path),
        Laboratory(made, tmp_path).setting(None, 0),
        Toy(),
        1,  # type: ignore[arg-type]
    )
    texts = corpus("clean/olid", None).texts
    read = {m.name: m.question.text for m in measures if m.task == unlearning.CLEAN}  # type: ignore[attr-defined]
    assert read[f"{unlearning.CLEAN} validation"] == "\n\n".join(texts[16:])
    with pytest.raises(RequestError, match="trained on all of it"):
        unlearning.check(Laboratory(unlearn(tmp_path, "lora", clean=clean, rows={}), tmp_path))


def test_transfer(tmp_path: Path) -> None:
    task = {"text": ["text"], "label": "label", "labels": ["bad", "good"],
            "prompt": "review : {0} answer :", "words": [" bad", " good"]}  # fmt: skip
    tasks = [
        {"name": "films", "train": films(tmp_path / "1.csv", "great", "awful"), **task},
        {"name": "books", "train": films(tmp_path / "2.csv", "fine", "dull"), **task},
    ]
    made = recipe(
        "transfer",
        tmp_path,
        "lora",
        "ia3",
        tasks=tasks,
        rows={"train": 16, "validation": 8, "test": 8, "texts": 16, "few": 4},
        curves={
            "analogy": "w*source + (1-w)*(target_lm - source_lm)",
            "paper": "paper(source, target_lm, source_lm, weights=[w, 1-w, w-1])",
        },
        weights=[0.5, 1],
    )
    folder = run(made, tmp_path)
    records = lines(folder / "records.jsonl")
    assert {r["task"] for r in records} == {"films to books", "books to films"}
    assert {r["chosen"] for r in records} == {"", "source labels", "target labels"}
    test = [r for r in records if r["part"] == "test"]
    for pem in ("lora", "ia3"):
        mine = [r for r in test if (r["pem"], r["task"]) == (pem, "films to books")]
        found = {(r["composition"], r["weights"].get("w"), r["chosen"]): r for r in mine}
        source = found["source", None, ""]["predictions"]
        assert found["analogy", 1.0, ""]["predictions"] == source
        if pem == "ia3":  # linear in its numbers: the paper's arithmetic is the exact one
            for w in (0.5, 1.0):
                assert (
                    found["paper", w, ""]["predictions"] == found["analogy", w, ""]["predictions"]
                )
    ratios = {r["weights"]["w"]: r["facts"]["norm_ratio"] for r in test
              if (r["composition"], r["pem"]) == ("paper", "lora")}  # fmt: skip
    assert ratios[1.0] == pytest.approx(1)
    trained = {(m["pem"], m["task"], m["part"]) for m in lines(folder / "modules.jsonl")}
    parts = {part for pem, task, part in trained if (pem, task) == ("lora", "books")}
    assert parts == {"source", "target", "source_lm", "target_lm"}


def test_the_papers_analogy_is_longer_where_all_start_as_one(tmp_path: Path) -> None:
    """(2 - w) times, as PAPER's equations say, where the A are equal."""
    import numpy as np
    from safetensors.numpy import save_file

    from pemath.lab.setting import Module

    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 16)).astype(np.float32)
    modules = {}
    for name in ("source", "source_lm", "target_lm"):
        folder = tmp_path / name
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        tensors = {
            "base_model.model.q.lora_A.weight": a,
            "base_model.model.q.lora_B.weight": rng.standard_normal((16, 4)).astype(np.float32),
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        modules[name] = Module(folder, "lora", {})
    facts = transfer._inflation(modules)
    for w in (0.5, 0.75, 0.9):
        text = f"paper(source, target_lm, source_lm, weights=[{w}, {1 - w}, {w - 1}])"
        assert facts(text)["norm_ratio"] == pytest.approx(2 - w, rel=1e-6)
    assert facts("0.5*source") == {}
    assert math.isfinite(facts("paper(source, source_lm)")["norm_ratio"])
