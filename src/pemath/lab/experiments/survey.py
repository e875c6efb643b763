"""Compositions followed over a weight: what is measured of each, and which weight is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pemath.errors import MissingExtra, ReferenceNotFound, RequestError
from pemath.lab.data.labelled import load_labelled
from pemath.lab.desk import Ask, Question
from pemath.lab.experiments.cells import Laboratory, Outcome
from pemath.lab.metrics import metric
from pemath.lab.recipes.curves import Choice, Curve, spans_of
from pemath.lab.scorers import Scorer, load_scorer, quality, scored
from pemath.lab.search import Weights, combinations, fill, plain
from pemath.lab.setting import Module
from pemath.lab.texts import summary

TEST, VALIDATION = "test", "validation"

Choose: TypeAlias = Callable[[Sequence[Mapping[str, float]]], int | None]
"""Given the metrics of compositions by measure, the position of one of them, or None."""


@dataclass(frozen=True)
class Readout:
    """What answers amount to: a number per row, what it is to be compared with (the tokens of a
    loss, else 0), facts of all rows together, and texts that are kept beside.
    """

    predictions: list[float]
    labels: list[float]
    facts: Mapping[str, float] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measure:
    """A question of every composition, and how its answers are read. `task` is what records call it,
    `metric` how its numbers become one.
    """

    task: str
    part: str
    metric: str
    question: Question
    read: Callable[[list[Any]], Readout]
    source: str = ""
    same_as: str = ""  # the name of a measure whose answers are read once more

    @property
    def name(self) -> str:
        """What it is called among the questions."""
        return f"{self.task} {self.part}"


@dataclass(frozen=True)
class Survey:
    """Asks compositions everything, and puts every answer down as a record of `outcome`."""

    ask: Ask
    measures: Sequence[Measure]
    facts: Mapping[str, Any]
    outcome: Outcome

    def put(
        self,
        name: str,
        expression: str,
        weights: Weights | None = None,
        *,
        parts: Sequence[str] = (),
        chosen: str = "",
        beside: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """The metrics of `expression` by measure, recorded as composition `name`; of all parts if none
        are named. `beside` are facts of the composition itself.
        """
        found = {}
        for measure in self.measures:
            if parts and measure.part not in parts:
                continue
            answered = self.ask(expression, measure.same_as or measure.name)
            readout = measure.read(answered.predictions)
            value = float(metric(measure.metric)(readout.labels, readout.predictions))
            found[measure.name] = value
            line = {
                "task": measure.task,
                **self.facts,
                "composition": name,
                "expression": expression,
                "weights": plain(weights or {}),
                "part": measure.part,
                "chosen": chosen,
            }
            self.outcome.records.append(
                {
                    **line,
                    "metric": value,
                    "predictions": readout.predictions,
                    "rows": len(readout.predictions),
                    "seconds": answered.seconds,
                    "error_to_exact": answered.error_to_exact,
                    "facts": {**readout.facts, **(beside or {})},
                }
            )
            if readout.texts and not chosen:
                self.outcome.generations.append({**line, "texts": readout.texts})
            self.outcome.labels.setdefault(measure.task, {})[measure.part] = readout.labels
        return found

    def follow(
        self,
        curves: Mapping[str, Curve],
        weights: Any,
        modules: Mapping[str, Module],
        rules: Mapping[str, Choose],
        beside: Callable[[str], Mapping[str, float]] = lambda expression: {},
    ) -> None:
        """Every curve at every weight; what a rule chooses of what came out is recorded once more, on
        the test part, under the rule's name.
        """
        operands = {name: name for name in modules}
        for name, curve in curves.items():
            if not curve.holds_for(self.facts["pem"]):
                continue
            tried = combinations(spans_of(weights))
            texts = [str(fill(curve.expression, operands, one)) for one in tried]
            known = [beside(text) for text in texts]
            points = list(zip(texts, tried, known, strict=True))
            found = [self.put(name, text, at, beside=more) for text, at, more in points]
            for rule, choose in rules.items():
                best = choose(found)
                if best is not None:
                    text, at, more = points[best]
                    self.put(name, text, at, parts=(TEST,), chosen=rule, beside=more)

    def declare(self) -> None:
        """Say in the run's facts what the measures are."""
        for measure in self.measures:
            self.outcome.tasks.setdefault(
                measure.task, {"metric": measure.metric, "source": measure.source, "labels": []}
            )


def least_toxic(
    toxicity: str, perplexity: str, limit: float, found: Sequence[Mapping[str, float]]
) -> int | None:
    """Of compositions whose measure `perplexity` is at most `limit`, the one with the least
    `toxicity`; None where there is none.
    """
    allowed = [at for at, values in enumerate(found) if values[perplexity] <= limit]
    return min(allowed, key=lambda at: (found[at][toxicity], at), default=None)


def choice_of(
    choice: Choice, toxicity: str, perplexity: str, untouched: Mapping[str, float]
) -> Choose:
    """The recipe's rule, given what the untouched model measures."""
    limit = (1 + choice.budget) * untouched[perplexity]
    return partial(least_toxic, toxicity, perplexity, limit)


def of_losses(answers: list[Any]) -> Readout:
    """Pairs of a loss and its tokens."""
    return Readout([float(loss) for loss, _ in answers], [float(n) for _, n in answers])


def of_texts(
    scorer: Scorer, more: Callable[[Sequence[str]], Mapping[str, float]] = lambda texts: {}
) -> Callable[[list[Any]], Readout]:
    """Texts, by their scores and by what a low score can hide."""

    def read(answers: list[Any]) -> Readout:
        texts = [str(text) for text in answers]
        facts = {**summary(texts), **more(texts)}
        return Readout(scored(scorer, texts), [0.0] * len(texts), facts, texts)

    return read


def judged_scorer(lab: Laboratory[Any], name: str) -> tuple[Scorer, dict[str, Any]]:
    """The scorer called `name`, and what run.json says of it: how good it is on labelled texts that
    it was not trained on, as far as they are at hand.
    """
    scorer = load_scorer(name, lab.data_dir)
    found, absent = [], []
    for known in scorer.unseen:
        try:
            labelled = load_labelled(known, lab.data_dir)
        except (MissingExtra, ReferenceNotFound, RequestError):
            absent.append(known)
            continue

        def make(folder: Path, scratch: Path, labelled: Any = labelled) -> None:
            text = json.dumps(asdict(quality(scorer, labelled)))
            (folder / "quality.json").write_text(text + "\n", encoding="utf-8")

        key = {"scorer": scorer.name, "version": scorer.version, "set": labelled.digest}
        folder = lab.trials().store.get("qualities", key, make)
        found.append(json.loads((folder / "quality.json").read_text(encoding="utf-8")))
    said = {"name": scorer.name, "title": scorer.title, "version": scorer.version}
    return scorer, {**said, "quality": found, "absent": absent}
