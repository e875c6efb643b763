"""Run folders as the experiments write them, with made-up predictions of a known character."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pemath.lab.metrics import metric

from .run_folder import Made, write

WEIGHTS = tuple(step / 10 for step in range(11))
COMPOSITIONS = {
    "exact": "0.5*a + 0.5*b",
    "paper": "paper(a, b, weights=[0.5, 0.5])",
    "regmean": "regmean(a, b)",
    "fisher": "fisher(a, b)",
}


TASKS = {
    "glue/sst2": Made(rows=872, signal=1.4),
    "glue/cola": Made("matthews", ("unacceptable", "acceptable"), 600, 0.15, 0.1),
    "glue/stsb": Made("pearson_spearman", (), 500, 1.3, 0.5),
    "glue/mnli": Made("accuracy", ("entailment", "neutral", "contradiction"), 600, 1.1, 0.6),
    "glue/mrpc": Made("accuracy_f1", ("not equivalent", "equivalent"), 408, 1.0, 0.5, (0.52, 0.13)),
    "glue/rte": Made(rows=277, signal=0.1, pull=0.3),
}


def distribution(
    folder: Path,
    *,
    tasks: Mapping[str, Made] = TASKS,
    pems: Sequence[str] = ("lora", "ia3", "full"),
    seeds: Sequence[int] = (1, 2, 3),
    initialisations: Sequence[str] = ("shared", "independent"),
) -> Path:
    """A finished `reproduce distribution`."""
    records, interference, modules = [], [], []
    gold = {name: labels(name, made) for name, made in tasks.items()}
    for name, made in tasks.items():
        for pem in pems:
            for seed in seeds:
                for initialisation in initialisations:
                    if initialisation == "independent" and pem != "lora":
                        continue
                    place = {
                        "task": name,
                        "pem": pem,
                        "seed": seed,
                        "initialisation": initialisation,
                    }
                    draw = np.random.default_rng(number(name, pem, seed))
                    records += halves(place, made, gold[name], draw)
                    interference += sites(place, draw)
                    modules += trained(place, made)
    recipe = {
        "experiment": "distribution",
        "model": {"name": "pip:minilm", "dtype": "float32", "max_length": 128},
        "tasks": list(tasks),
        "rows": {"train": 1000, "validation": 400, "test": None},
        "modules": {pem: {"learning_rate": 0.002, "epochs": 4, "batch_size": 32} for pem in pems},
        "initialisation": list(initialisations),
        "compositions": COMPOSITIONS,
        "sweep": {
            "expression": "(1-t)*a + t*b",
            "weights": {"t": "0:1:0.1"},
            "search": "grid",
            "trials": 30,
        },
        "seeds": list(seeds),
    }
    return write(folder, "distribution", tasks, recipe, gold, records, interference, modules)


def multitask(folder: Path, *, seeds: Sequence[int] = (1, 2, 3)) -> Path:
    """A finished `reproduce multitask`: a knows the first task, b the second."""
    tasks = {
        "glue/rte": Made(rows=277, signal=0.8, labels=("yes", "no")),
        "glue/mnli": Made(rows=600, signal=0.9, labels=("yes", "maybe", "no")),
    }
    records, interference, modules = [], [], []
    gold = {name: labels(name, made) for name, made in tasks.items()}
    for pem in ("lora", "ia3"):
        for seed in seeds:
            for position, (name, made) in enumerate(tasks.items()):
                draw = np.random.default_rng(number(name, pem, seed))
                place = {"task": name, "pem": pem, "seed": seed, "initialisation": "shared"}
                own = scores(made, gold[name], draw, made.signal)
                other = scores(made, gold[name], draw, 0.3)
                parts = {"a": own, "b": other} if position == 0 else {"a": other, "b": own}
                records += evaluated(place, made, gold[name], parts, draw)
                modules += [trained(place, made)[position]]
            pair = {"task": "glue/rte+glue/mnli", "pem": pem, "seed": seed}
            interference += sites({**pair, "initialisation": "shared"}, draw)
    recipe = {
        "experiment": "multitask",
        "model": {"name": "pip:smollm2", "dtype": "float32", "max_length": 256},
        "tasks": list(tasks),
        "rows": {"train": 1000, "validation": 200, "test": None},
        "modules": {"lora": {"learning_rate": 0.001}, "ia3": {"learning_rate": 0.01}},
        "initialisation": ["shared"],
        "compositions": COMPOSITIONS,
        "sweep": {"expression": "(1-t)*a + t*b", "weights": {"t": "0:1:0.1"}, "search": "grid"},
        "seeds": list(seeds),
    }
    return write(folder, "multitask", tasks, recipe, gold, records, interference, modules)


def number(*words: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4], "big")


def labels(name: str, made: Made) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(number(name))
    sizes = {"validation": 200, "test": made.rows}
    if not made.labels:
        return {part: draw.uniform(0, 5, size).round(1) for part, size in sizes.items()}
    return {part: draw.integers(len(made.labels), size=size) for part, size in sizes.items()}


Scores = dict[str, np.ndarray]


def scores(
    made: Made, gold: Mapping[str, np.ndarray], draw: np.random.Generator, signal: float
) -> Scores:
    """A score for every label of every row, larger for the right one."""
    if not made.labels:
        return {part: signal * y + draw.normal(0, 1.5, len(y)) for part, y in gold.items()}
    eye = np.eye(len(made.labels))
    return {
        part: signal * eye[y] + draw.normal(0, 0.8, (len(y), len(made.labels)))
        for part, y in gold.items()
    }


def mixed(one: Scores, other: Scores, t: float) -> Scores:
    return {part: (1 - t) * one[part] + t * other[part] for part in one}


def halves(
    place: dict[str, Any], made: Made, gold: Mapping[str, np.ndarray], draw: np.random.Generator
) -> list[dict[str, Any]]:
    common = scores(made, gold, draw, made.signal)
    parts = {}
    for name, sign in (("a", 1.0), ("b", -1.0)):
        own = scores(made, gold, draw, made.signal)
        pulled = {part: common[part] + own[part] for part in own}
        for values in pulled.values():
            if made.labels:
                values[:, 0] += sign * made.pull
            else:
                values[:] = np.where(
                    sign * (values - 2.5) > 0,
                    values,
                    values + draw.normal(0, made.pull * 3, len(values)),
                )
        parts[name] = pulled
    if place["initialisation"] == "independent":
        parts["b"] = {
            part: values + draw.normal(0, 0.8, values.shape) for part, values in parts["b"].items()
        }
    return evaluated(place, made, gold, parts, draw)


def evaluated(
    place: dict[str, Any],
    made: Made,
    gold: Mapping[str, np.ndarray],
    parts: Mapping[str, Scores],
    draw: np.random.Generator,
) -> list[dict[str, Any]]:
    def record(
        composition: str,
        expression: str,
        values: Scores,
        part: str = "test",
        weights: Mapping[str, float] | None = None,
        error: float | None = None,
    ) -> dict[str, Any]:
        guessed = values[part].argmax(-1) if made.labels else values[part].round(4)
        return {
            **place,
            "composition": composition,
            "expression": expression,
            "weights": dict(weights or {}),
            "part": part,
            "metric": float(metric(made.metric)(gold[part], guessed)),
            "predictions": guessed.tolist(),
            "rows": len(guessed),
            "seconds": 0.5,
            "error_to_exact": error,
        }

    shared = place["initialisation"] == "shared"
    a, b = parts["a"], parts["b"]
    whole = {part: v + draw.normal(0, 0.1, v.shape) for part, v in mixed(a, b, 0.5).items()}
    rough = {
        part: v + draw.normal(0, 0.1 if shared else 1.5, v.shape)
        for part, v in mixed(a, b, 0.5).items()
    }
    lora = place["pem"] == "lora"
    found = [record("a", "a", a), record("b", "b", b), record("all", "all", whole)]
    found += [
        record("exact", COMPOSITIONS["exact"], mixed(a, b, 0.5), error=0.0),
        record(
            "paper",
            COMPOSITIONS["paper"],
            rough if lora else mixed(a, b, 0.5),
            error=(0.03 if shared else 0.71) if lora else 0.0,
        ),
        record("regmean", COMPOSITIONS["regmean"], mixed(a, b, 0.45)),
        record("fisher", COMPOSITIONS["fisher"], mixed(a, b, 0.6)),
    ]
    expression = "(1-t)*a + t*b"
    tried = []
    for t in WEIGHTS:
        tried.append(record("sweep", expression, mixed(a, b, t), "validation", {"t": t}))
        found.append(record("sweep", expression, mixed(a, b, t), "test", {"t": t}))
    best = max(tried, key=lambda one: one["metric"])["weights"]
    return [*found, *tried, record("best", expression, mixed(a, b, best["t"]), "test", best)]


def sites(place: dict[str, Any], draw: np.random.Generator) -> list[dict[str, Any]]:
    shared = place["initialisation"] == "shared"
    return [
        {
            **place,
            "site": f"encoder.layer.{layer}.attention.{site}",
            "layer": layer,
            "cosine": float(
                np.clip(draw.normal(0.75 - 0.09 * layer if shared else 0.05, 0.05), -1, 1)
            ),
            "paper_error": float(draw.uniform(0.01, 0.05) if shared else 0.7),
        }
        for layer in range(6)
        for site in ("query", "value")
    ]


def trained(place: dict[str, Any], made: Made) -> list[dict[str, Any]]:
    return [
        {
            **place,
            "part": part,
            "rows": 1000,
            "steps": 125,
            "seconds": 21.5,
            "train_loss": max(0.05, 0.69 - 0.35 * made.signal),
            "trainable": {"lora": 37_632, "ia3": 12_288, "full": 22_713_216}[place["pem"]],
        }
        for part in ("a", "b", "all")
    ]
