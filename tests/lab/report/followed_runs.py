"""Run folders of unlearning, detoxifying and transfer, with numbers that are known beforehand.

In the two that subtract, the log perplexity of a curve rises by `rise * w`, and toxicity falls by
`slope` times that: curves of one slope lie on one line, a steeper one is better at every perplexity.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pemath.lab.metrics import metric

WEIGHTS = (0.25, 0.5, 0.75, 1, 1.5, 2)
PERPLEXITY = 40.0


@dataclass(frozen=True)
class Way:
    """A curve's expression, how fast it costs, and how much that takes away."""

    expression: str
    rise: float
    slope: float
    modules: tuple[str, ...] | None = None


UNLEARNED = {
    "negation": Way("-w*toxic", 0.16, 0.4),
    "projected": Way("-w*unshared(toxic, useful)", 0.08, 0.4, ("lora", "ia3")),
    "consensus": Way("-w*negmerge(toxic, other)", 0.12, 0.8, ("lora",)),
}
DETOXED = {
    "exact": Way("(1+w)*instruct - w*toxic", 0.12, 0.5),
    "paper": Way("paper_detox(instruct, toxic, weights=[1+w, -w])", 0.3, 0.2),
    "projected": Way("instruct - w*unshared(toxic - instruct, instruct)", 0.08, 0.9),
}
SCORER = {
    "name": "profanity",
    "title": "alt-profanity-check",
    "version": "1.9.1",
    "quality": [
        {
            "set": "toxic/made-up",
            "rows": 1000,
            "positives": 480,
            "auc": 0.843,
            "accuracy": 0.7515,
            "above_positives": 0.41,
            "above_negatives": 0.012,
        }
    ],
    "absent": ["toxic/elsewhere"],
}


@dataclass
class Folder:
    """The files of a run as they fill."""

    records: list[dict[str, Any]] = field(default_factory=list)
    modules: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def record(
        self,
        place: Mapping[str, Any],
        task: str,
        part: str,
        predictions: np.ndarray,
        facts: Mapping[str, float] | None = None,
    ) -> float:
        gold = np.array(self.labels[task][part])
        value = float(metric(self.tasks[task]["metric"])(gold, predictions))
        self.records.append(
            {
                "task": task,
                "initialisation": "shared",
                "weights": {},
                "chosen": "",
                "error_to_exact": None,
                **place,
                "part": part,
                "metric": value,
                "predictions": predictions.tolist(),
                "rows": len(predictions),
                "seconds": 1.5,
                "facts": dict(facts or {}),
            }
        )
        return value

    def measure(self, task: str, name: str, what: str, **labels: np.ndarray) -> None:
        self.tasks[task] = {"metric": name, "source": what, "labels": []}
        self.labels[task] = {part: values.tolist() for part, values in labels.items()}

    def trained(self, task: str, pem: str, seed: int, part: str) -> None:
        trainable = {"lora": 460_800, "ia3": 57_600, "full": 134_515_008}[pem]
        line = {"task": task, "pem": pem, "seed": seed, "part": part, "trainable": trainable}
        facts = {"rows": 512, "steps": 32, "seconds": 90.5, "train_loss": 3.25}
        self.modules.append({**line, "initialisation": "shared", **facts})

    def write(self, folder: Path, recipe: Mapping[str, Any], **facts: Any) -> Path:
        (folder / "labels").mkdir(parents=True)
        experiment = recipe["experiment"]
        run = {
            "experiment": experiment,
            "preset": "cpu",
            "command": f"pemath reproduce {experiment} --preset cpu --data-dir DATA",
            "recipe": recipe,
            "versions": {"pemath": "0.1.0", "torch": "2.13.0"},
            "device": "cpu, 2 cores",
            "seconds": 6_543.2,
            "started": "2026-11-24T15:26:24+00:00",
            "tasks": self.tasks,
            **facts,
        }
        (folder / "run.json").write_text(json.dumps(run))
        for name, parts in self.labels.items():
            (folder / "labels" / f"{name.replace('/', '__')}.json").write_text(json.dumps(parts))
        for file in ("records", "modules"):
            text = "".join(json.dumps(line) + "\n" for line in getattr(self, file))
            (folder / f"{file}.jsonl").write_text(text)
        return folder


def _corpus(name: str) -> dict[str, Any]:
    digest = hashlib.sha256(name.encode()).hexdigest()
    source = f"{name}, made up for a test"
    return {"metric": "mean", "labels": [], "source": source, "train_rows": 1674, "digest": digest}


def _recipe(
    experiment: str,
    ways: Mapping[str, Way],
    pems: Sequence[str],
    seeds: Sequence[int],
    weights: Sequence[float],
    **more: Any,
) -> dict[str, Any]:
    curves = {
        name: {"expression": way.expression, "modules": way.modules and list(way.modules)}
        for name, way in ways.items()
    }
    return {
        "experiment": experiment,
        "model": {"name": "pip:smollm2", "dtype": "bfloat16", "max_length": 48},
        "modules": {pem: {"learning_rate": 0.002} for pem in pems},
        "curves": curves,
        "weights": list(weights),
        "seeds": list(seeds),
        **more,
    }


def _facts(shift: float, *, detox: bool) -> dict[str, float]:
    facts = {
        "distinct_1": 0.6 - 0.1 * shift,
        "distinct_2": 0.9 - 0.3 * shift,
        "distinct_3": 0.95,
        "words": 14 - 8 * shift,
        "repetition": 0.01 + 0.2 * shift,
        "empty": 0.02 * shift,
    }
    return facts | ({"refusal": 0.05, "overlap": 0.3 - 0.1 * shift} if detox else {})


def subtraction(
    folder: Path,
    experiment: str,
    *,
    pems: Sequence[str] = ("lora", "ia3", "full"),
    seeds: Sequence[int] = (1, 2, 3),
    noise: float = 0.0,
    judge: bool = False,
) -> Path:
    """A finished `reproduce unlearning` or `reproduce detox`."""
    detox = experiment == "detox"
    made, draw = Folder(), np.random.default_rng(7)
    ways, corpora = (DETOXED, ("instruct/alpaca", "toxic/civil"))
    names = ("instruct", "toxic")
    tests, cost = ("toxicity/toxic-instructions", "toxicity/normal-instructions"), ""
    cost = "perplexity/references"
    if not detox:
        ways = UNLEARNED
        corpora, names = ("toxic/civil", "toxic/olid", "clean/olid"), ("toxic", "other", "useful")
        tests, cost = ("toxicity/paper", "toxicity/neutral"), "perplexity/clean"
    made.tasks |= {name: _corpus(name) for name in corpora}
    for task in tests:
        made.measure(task, "mean", "texts, scored", test=np.zeros(48), validation=np.zeros(32))
    tokens = draw.integers(200, 400, 30).astype(float)
    made.measure(cost, "perplexity", "wikitext/test", test=tokens, validation=tokens[:12])
    if detox:
        made.measure("checks", "mean", "checks", test=np.zeros(30))
    if judge:
        made.measure("judge", "mean", "preferred by a judge", test=np.zeros(48))
    levels = {task: draw.uniform(0.3, 0.9, 48) for task in tests}
    losses = np.log(PERPLEXITY) * tokens
    losses += draw.normal(0, 20, 30)
    losses *= np.log(PERPLEXITY) * tokens.sum() / losses.sum()  # exactly this perplexity

    def put(place: Mapping[str, Any], rise: float, slope: float, parts: Sequence[str]) -> None:
        """All measures of a composition whose log perplexity lies `rise` higher."""
        shift = rise * slope
        for task in tests:
            rows = levels[task] - shift + noise * draw.normal(0, 1, 48)
            for part in parts:
                size = len(made.labels[task][part])
                facts = _facts(rise, detox=detox)
                made.record(place, task, part, np.clip(rows[:size], 0, 1), facts)
        rows = losses + rise * tokens
        for part in parts:
            made.record(place, cost, part, rows[: len(made.labels[cost][part])])
        if detox and "test" in parts:
            passed = (np.arange(30) < 10 - round(10 * rise)).astype(float)
            made.record(place, "checks", "test", passed)
        if judge and "test" in parts:
            made.record(place, "judge", "test", np.full(48, -shift))

    both = ("test", "validation")
    start = "instruct" if detox else "base"
    for seed in seeds:
        for pem in pems:
            place = {"pem": pem, "seed": seed}
            for name, corpus in zip(names, corpora, strict=True):
                made.trained(corpus, pem, seed, name)
            if detox:
                put({**place, "composition": "base", "expression": "0*instruct"}, 0.1, 0.1, both)
            put({**place, "composition": start, "expression": start}, 0.0, 0.0, both)
            put({**place, "composition": "toxic", "expression": "toxic"}, 0.02, -5.0, both)
            for name, way in ways.items():
                if way.modules and pem not in way.modules:
                    continue
                line = {**place, "composition": name, "expression": way.expression}
                if name == "paper":
                    line["error_to_exact"] = 0.6
                for w in WEIGHTS:
                    put({**line, "weights": {"w": w}}, way.rise * w, way.slope, both)
                within = [w for w in WEIGHTS if way.rise * w <= np.log(1.1)]
                if within:
                    w = within[-1]
                    line |= {"weights": {"w": w}, "chosen": "validation"}
                    put(line, way.rise * w, way.slope, ("test",))
    texts: Any = dict(zip(names, corpora, strict=True))
    more = {"texts": texts, "choice": {"budget": 0.1}, "prompts": {"samples": 3}}
    recipe = _recipe(experiment, ways, pems, seeds, WEIGHTS, **more)
    return made.write(folder, recipe, scorer=SCORER)


SIZES = {"test": 200, "validation": 64, "source": 80}
REVIEWS = ("reviews/yelp", "reviews/amazon")
SHARES = (0.5, 0.7, 0.8, 0.9, 1)


def transfer(
    folder: Path,
    *,
    pems: Sequence[str] = ("lora", "ia3", "full"),
    seeds: Sequence[int] = (1, 2, 3),
    best: float = 0.8,
) -> Path:
    """A finished `reproduce transfer`: of 200 rows the source's classifier gets 140 right, the
    analogy 40 more at w = 0.8 and fewer away from it, the target's 190.
    """
    made = Folder()
    digest = hashlib.sha256(b"reviews").hexdigest()
    for name in REVIEWS:
        made.tasks[name] = {
            "metric": "accuracy",
            "labels": ["negative", "positive"],
            "source": f"{name}, made up for a test",
            "train_rows": 1200,
            "validation_rows": 80,
            "test_rows": 200,
            "digest": digest,
        }
    curves = {
        "analogy": Way("w*source + (1-w)*(target_lm - source_lm)", 0, 0),
        "paper": Way("paper(source, target_lm, source_lm, weights=[w, 1-w, w-1])", 0, 0),
    }
    for source, target in (REVIEWS, REVIEWS[::-1]):
        task = f"{source} to {target}"
        draw = np.random.default_rng(len(task) + ord(task[-1]))
        gold = {part: draw.integers(0, 2, size).astype(float) for part, size in SIZES.items()}
        made.measure(task, "accuracy", "reviews", **gold)
        for seed in seeds:
            for pem in pems:
                for part, name in (("source", source), ("target", target)):
                    made.trained(name, pem, seed, part)
                    made.trained(name, pem, seed, f"{part}_lm")
                _direction(made, task, {"pem": pem, "seed": seed}, list(curves), best)
    rows = {"train": 320, "validation": 80, "test": 200, "texts": 320, "few": 64}
    more = {"tasks": list(REVIEWS), "rows": rows}
    return made.write(folder, _recipe("transfer", curves, pems, seeds, SHARES, **more))


def _direction(
    made: Folder, task: str, place: Mapping[str, Any], curves: Sequence[str], best: float
) -> None:
    def put(name: str, part: str, right: float, **more: Any) -> None:
        """The first `right` of 200 rows are right, and as many of other sizes."""
        rows = made.labels[task][part]
        count = round(right * len(rows) / 200)
        said = [y if at < count else 1 - y for at, y in enumerate(rows)]
        facts = more.pop("facts", None)
        line = {**place, "composition": name, "expression": name, **more}
        made.record(line, task, part, np.array(said), facts)

    put("source", "test", 140)
    put("target", "test", 190)
    for name in curves:
        inflated = name == "paper" and place["pem"] == "lora"
        found = {}
        for w in SHARES:
            right = 140 if w == 1 else 180 - 200 * abs(w - best) - 5 * inflated
            facts = {"norm_ratio": 2 - w} if inflated else {}
            found[w] = {"right": right, "facts": facts, "weights": {"w": w}}
            for part in SIZES:
                put(name, part, **found[w])
        put(name, "test", **found[1], chosen="source labels")
        put(name, "test", **found[best], chosen="target labels")
