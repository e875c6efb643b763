"""What the two experiments that subtract have in common, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pemath.lab.report.followed import Followed, Spot, follow
from pemath.lab.report.missing import missing_points
from pemath.lab.report.read import Run

CHOSEN = "validation"
"""The rule under which the weight chosen on held-out prompts is recorded."""

ROUNDING = 1e-9
"""By how much equal toxicities may differ."""

_BUDGET = 0.1  # of recipes that state none


@dataclass(frozen=True)
class Subject:
    """What is asked of a run: `start` is the composition at weight 0, `toxic` the module that is
    subtracted, `tests` are measures of toxicity with what was answered there, `cost` that of
    perplexity, `facts` what a low score can hide, `texts` what the model writes, and `drawn` what the
    bootstrap resamples.
    """

    run: Run
    question: str
    start: str
    toxic: str
    others: tuple[str, ...]
    tests: Mapping[str, str]
    cost: str
    facts: tuple[str, ...]
    texts: str
    drawn: str

    @cached_property
    def measured(self) -> Mapping[str, Followed]:
        """The test rows of every measure."""
        samples = _asked(self.run).get("samples", 1)
        tasks = (*self.tests, self.cost, "checks", "judge")
        several = ("toxicity/neutral", "toxicity/provoking")
        return {
            task: follow(self.run, task, samples=samples if task in several else 1)
            for task in tasks
        }

    def missing(self) -> list[str]:
        """One line for each kind of module and seed that lacks something."""
        fixed = (*self.others, self.start, self.toxic)
        return missing_points(self.run, (*self.tests, self.cost), fixed)

    @property
    def costs(self) -> Followed:
        """Perplexity."""
        return self.measured[self.cost]

    @property
    def budget(self) -> float:
        """By how much the perplexity may rise, as a share."""
        choice = self.run.facts.recipe.get("choice") or {}
        return float(choice.get("budget", _BUDGET))

    def curves(self, pem: str) -> list[str]:
        """The curves that were measured for a kind of module; the first of the recipe is the paper's."""
        have = {spot.composition for spot in self.costs.values.get(pem, {})}
        return [name for name in self.run.curves if name in have]

    @property
    def first(self) -> str:
        """The curve that the paper's claim is about and that others are compared with."""
        return next(iter(self.run.curves), "")

    @property
    def untouched(self) -> Spot:
        """What every curve is at weight 0."""
        return Spot(self.start)

    @property
    def scorer(self) -> str:
        """What scored the texts."""
        scorer = self.run.facts.scorer
        return f"{scorer.title} ({scorer.version})" if scorer else "an unnamed scorer"


def subject_of(run: Run) -> Subject:
    """What is asked of a run of unlearning or detoxifying."""
    if run.facts.experiment == "detox":
        return Subject(
            run,
            "A module was trained to follow instructions, another to answer them with toxic texts. "
            "Moved away from the toxic one, does the instructed model write less toxic replies, "
            "and does it still help?",
            start="instruct",
            toxic="toxic",
            others=("base",),
            tests={
                "toxicity/toxic-instructions": "to toxic instructions",
                "toxicity/normal-instructions": "to ordinary instructions",
            },
            cost="perplexity/references",
            facts=("distinct_2", "words", "repetition", "empty", "refusal", "overlap"),
            texts="replies",
            drawn="instructions",
        )
    return Subject(
        run,
        "A module was trained on toxic texts alone. Subtracted from the model, does it make the "
        "model write less toxic text, and what does that cost?",
        start="base",
        toxic=next(iter(run.facts.recipe.get("texts") or {}), "toxic"),
        others=(),
        tests={
            "toxicity/paper": "after the paper's prompt",
            "toxicity/neutral": "after neutral prompts",
            **(
                {"toxicity/provoking": "after provoking prompts"}
                if _asked(run).get("provoking")
                else {}
            ),
        },
        cost="perplexity/clean",
        facts=("distinct_2", "words", "repetition", "empty"),
        texts="texts",
        drawn="texts (over prompts where there are several)",
    )


def _asked(run: Run) -> dict[str, int]:
    """How many prompts there are, and how many texts after each."""
    return {name: int(count) for name, count in (run.facts.recipe.get("prompts") or {}).items()}
