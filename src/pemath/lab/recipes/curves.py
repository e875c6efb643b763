"""The sections of experiments that follow expressions over a weight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pemath.errors import PemathError
from pemath.lab.recipes.expressions import check_sweep, is_data_driven, operands_in
from pemath.lab.recipes.mistakes import Place, one_line
from pemath.lab.recipes.sections import Modules, Positive, Section, distinct
from pemath.lab.sampling import Decoding
from pemath.lab.search import Span, combinations, used_weights, weight_grid

WEIGHT = "w"
Pem = Literal["lora", "ia3", "full"]


class Curve(Section):
    """An expression with the free weight, for all kinds of module or only some."""

    expression: str
    modules: Annotated[list[Pem], AfterValidator(distinct), Field(min_length=1)] | None = None

    def holds_for(self, pem: str) -> bool:
        """Whether it is drawn for this kind of module."""
        return self.modules is None or pem in self.modules


def _curve(given: Any) -> Any:
    return {"expression": given} if isinstance(given, str) else given


def _curve_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError("a curve cannot have this name")
    return name


def _weights(given: Any) -> Any:
    if not isinstance(given, str | list):
        raise ValueError("write START:STOP:STEP such as 0:1:0.1, or a list of numbers")  # noqa: TRY004
    try:
        combinations({WEIGHT: weight_grid(given)})
    except PemathError as error:
        raise ValueError(one_line(error)) from None
    return given


Curves = Annotated[
    dict[
        Annotated[str, AfterValidator(_curve_name)],
        Annotated[Curve, BeforeValidator(_curve)],
    ],
    Field(min_length=1),
]
Weights = Annotated[Any, BeforeValidator(_weights)]


def spans_of(weights: Any) -> dict[str, Span]:
    """The values of the one free weight."""
    return {WEIGHT: weight_grid(weights)}


class Writing(Section):
    """How texts are drawn: see `pemath.lab.sampling.Decoding`, whose defaults these are."""

    new_tokens: Positive = Decoding.new_tokens
    temperature: Annotated[float, Field(ge=0, le=10)] = Decoding.temperature
    top_k: Annotated[int, Field(ge=0)] = Decoding.top_k
    top_p: Annotated[float, Field(gt=0, le=1)] = Decoding.top_p
    beams: Annotated[int, Field(ge=1, le=64)] = Decoding.beams
    repetition_penalty: Annotated[float, Field(ge=1, le=10)] = Decoding.repetition_penalty

    def decoding(self) -> Decoding:
        """As the sampler takes it."""
        return Decoding(**self.model_dump())


class Choice(Section):
    """How the weight is chosen on what is held out: of the weights at which the perplexity is at
    most (1 + `budget`) times that of the untouched model, the one with the lowest mean toxicity.
    """

    budget: Annotated[float, Field(ge=0, le=100)] = 0.1


class TrainRows(Section):
    """How many texts a module is trained on; None takes all there are."""

    train: Positive | None = None


def mistakes_of_curves(
    curves: Mapping[str, Curve] | None,
    weights: Any,
    operands: Iterable[str],
    modules: Modules | None,
    reserved: Iterable[str],
) -> list[tuple[Place, str]]:
    """What is wrong with expressions over `operands`, seen with the weights and kinds of module."""
    found: list[tuple[Place, str]] = [
        (("modules", pem, "grid"), "training settings are not searched in this experiment")
        for pem, settings in (modules.chosen() if modules else {}).items()
        if settings.grid is not None
    ]
    known = {name: name for name in operands}
    for name, curve in (curves or {}).items():
        place: Place = ("curves", name)
        if name in {*reserved, *known}:
            found.append((place, "this name is taken"))
        missing = [p for p in curve.modules or () if modules and p not in modules.chosen()]
        if missing:
            found.append((place, f"`{missing[0]}` is not among the modules"))
        if weights is None or not known:
            continue
        spans = spans_of(weights)
        try:
            check_sweep(curve.expression, spans, known)
            first = combinations(spans)[0]
            if not used_weights(curve.expression, known, first):
                found.append((place, f"the expression does not use `{WEIGHT}`"))
            if is_data_driven(curve.expression, spans, known):
                message = "a method that needs data has none in this experiment"
                found.append((place, message))
        except PemathError as error:
            found.append((place, one_line(error)))
    return found


def needed(
    curves: Mapping[str, Curve], weights: Any, operands: Iterable[str], pem: str
) -> set[str]:
    """The operands that the curves of a kind of module use."""
    names, spans = list(operands), spans_of(weights)
    return {
        operand
        for curve in curves.values()
        if curve.holds_for(pem)
        for operand in operands_in(curve.expression, spans, names)
    }
