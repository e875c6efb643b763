"""Free weights of an expression: `(1-t)*a + t*b` over `t=0:1:0.1`.

The values are exact decimals. A weight gets into an expression through the parser, never by
replacing text, so a weight may be called like a method, an option or a part of a quoted reference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Literal

from pemath.errors import MissingExtra, RequestError, UsageError
from pemath.expression.parser import Value, _Parser
from pemath.expression.tree import Expression, Number, Option, exact_number, number_text
from pemath.names import display, listing

Search = Literal["grid", "optuna"]
Weights = dict[str, Fraction]
MOST_COMBINATIONS = 1001  # each costs a pass over the data
_DECIMALS = 4  # of a weight drawn from a range without a step


@dataclass(frozen=True)
class Span:
    """The values a weight may take: listed, or every number between `low` and `high`."""

    low: Fraction
    high: Fraction
    values: tuple[Fraction, ...] = ()

    @property
    def middle(self) -> Fraction:
        """The value in the middle: where a search begins."""
        return self.values[len(self.values) // 2] if self.values else (self.low + self.high) / 2


@dataclass(frozen=True)
class Tried:
    """Weights that were evaluated, and their score on the validation part."""

    weights: Weights
    score: float


def weight_grid(given: str | Sequence[Number]) -> Span:
    """`0:1:0.1`, the range `0:1` (for a search that draws), one number, or a list of numbers.

    Raises: RequestError.
    """
    if not isinstance(given, str):
        values = tuple(_number(item, given) for item in given)
    else:
        parts = [_number(part, given) for part in given.split(":")]
        if len(parts) > 3:
            raise _not_a_grid(given)
        if len(parts) == 2 and parts[0] < parts[1]:
            return Span(parts[0], parts[1])
        step = parts[2] if len(parts) == 3 else Fraction(0)
        values = (parts[0],) if len(parts) == 1 else _steps(given, parts[0], parts[1], step)
    if not values or len(set(values)) < len(values):
        raise RequestError("a weight needs values, each once", found=display(given, 60))
    return Span(min(values), max(values), values)


def combinations(spans: Mapping[str, Span]) -> list[Weights]:
    """Every combination of the values, the first weight varying slowest.

    Raises: RequestError for a range without a step, or for too many combinations.
    """
    for name, span in spans.items():
        if not span.values:
            raise RequestError(
                f"the weight `{display(name)}` has a range without a step",
                hint=f"write {number_text(span.low)}:{number_text(span.high)}:STEP, "
                "or search with optuna",
            )
    count = math.prod(len(span.values) for span in spans.values())
    if count > MOST_COMBINATIONS:
        raise RequestError(
            "the weights have too many combinations",
            found=count,
            expected=f"at most {MOST_COMBINATIONS}",
            hint="take larger steps, or search with optuna",
        )
    products = itertools.product(*(span.values for span in spans.values()))
    return [dict(zip(spans, values, strict=True)) for values in products]


def fill(text: str, operands: Mapping[str, str], weights: Mapping[str, Number]) -> Expression:
    """The tree of `text` with its weights filled in; `str` of it is the expression to report.

    Raises: ExpressionError, UsageError.
    """
    return _Weighted(text, operands, weights).whole()


def used_weights(text: str, operands: Mapping[str, str], weights: Mapping[str, Number]) -> set[str]:
    """The names of `weights` that `text` uses. Raises: ExpressionError, UsageError."""
    parser = _Weighted(text, operands, weights)
    parser.whole()
    return parser.used


def plain(weights: Weights) -> dict[str, float]:
    """The weights as records hold them."""
    return {name: float(value) for name, value in weights.items()}


def search(
    spans: Mapping[str, Span],
    evaluate: Callable[[Weights], float],
    *,
    kind: Search = "grid",
    trials: int = 30,
    seed: int = 0,
) -> list[Tried]:
    """Scores (higher is better) of the weights that a search tries, in the order of trying.

    `grid` tries every combination. `optuna` tries `trials` times: the middle of every span first,
    then what its seeded sampler draws; weights that come again are not evaluated again.
    Raises: MissingExtra, RequestError.
    """
    require(kind)
    if kind == "grid":
        return [Tried(weights, float(evaluate(weights))) for weights in combinations(spans)]
    scores: dict[tuple[Fraction, ...], Tried] = {}
    study = _study(seed)
    # The middle is tried first, so that the best is never worse there than equal weights.
    study.enqueue_trial({name: _position(span) for name, span in spans.items()})
    for _ in range(trials):
        trial = study.ask()
        weights = {name: _draw(trial, name, span) for name, span in spans.items()}
        key = tuple(weights.values())
        if key not in scores:
            scores[key] = Tried(weights, float(evaluate(weights)))
        score = scores[key].score
        _tell(study, trial, score)
    return list(scores.values())


def best(tried: Iterable[Tried]) -> Tried:
    """The weights with the highest score.

    Small validation parts give equal scores to neighbours: of those, the one nearest to their mean
    is taken (the middle of the plateau), and the earliest of equally near ones. A score that is no
    number never wins. Raises: RequestError if nothing was tried.
    """
    everything = list(tried)
    known = [one for one in everything if not math.isnan(one.score)] or everything
    if not known:
        raise RequestError("no weights were tried, so none is the best")
    top = max((one.score for one in known if not math.isnan(one.score)), default=math.nan)
    plateau = [one for one in known if one.score == top] or known
    count = len(plateau)
    names = list(plateau[0].weights)
    centre = {name: sum(one.weights[name] for one in plateau) / count for name in names}
    return min(plateau, key=lambda one: sum((one.weights[n] - centre[n]) ** 2 for n in names))


def require(kind: Search) -> None:
    """Refuse a search whose package is missing, before anything is trained. Raises: MissingExtra."""
    if kind == "optuna" and find_spec("optuna") is None:
        raise MissingExtra(
            "Searching with optuna needs `optuna`, which is not installed",
            hint='pip install "pemath[lab]", or search with grid',
        )


class _Weighted(_Parser):
    """The parser of expressions, where some names stand for numbers."""

    def __init__(
        self, text: str, operands: Mapping[str, str], weights: Mapping[str, Number]
    ) -> None:
        both = [name for name in weights if name in operands]
        if both:
            raise RequestError(f"{listing(both)}: both a weight and an operand")
        super().__init__(text, dict(operands))
        self.weights = {name: exact_number(value) for name, value in weights.items()}
        self.used: set[str] = set()

    def _at_weight(self) -> bool:
        behind = self.tokens[self.next + 1].text if self.here.kind == "name" else ""
        return self.here.kind == "name" and self.here.text in self.weights and behind != "("

    def atom(self) -> Value:
        if not self._at_weight():
            return super().atom()
        name = self.take().text
        self.used.add(name)
        return self.weights[name]

    def option(self) -> Option:
        start = self.here
        if not self._at_weight():
            return super().option()
        value = self.expression(0)
        if not isinstance(value, Fraction):
            raise self.error("an option takes numbers, true, false, text or a list", start)
        return value


def _steps(given: str, low: Fraction, high: Fraction, step: Fraction) -> tuple[Fraction, ...]:
    if step <= 0 or high < low:
        raise _not_a_grid(given)
    count = (high - low) / step
    if count.denominator != 1:
        last = low + math.floor(count) * step
        raise RequestError(
            f"`{display(given, 60)}` does not reach its end",
            hint=f"did you mean {number_text(low)}:{number_text(last)}:{number_text(step)}?",
        )
    if count >= MOST_COMBINATIONS:
        raise RequestError(
            "a weight has too many values",
            found=int(count) + 1,
            expected=f"at most {MOST_COMBINATIONS}",
        )
    return tuple(low + index * step for index in range(int(count) + 1))


def _number(item: Any, given: object) -> Fraction:
    try:
        if isinstance(item, str):
            if not item.isascii() or len(item) > 40:
                raise ValueError(item)
            # The size is looked at first: an exact 1e99999999 would take all memory.
            size = exact_number(float(item))
            return exact_number(Fraction(item.strip())) if size else size
        if isinstance(item, bool) or not isinstance(item, int | float | Fraction):
            raise TypeError(item)
        return exact_number(item)
    except (ValueError, TypeError, OverflowError, UsageError):
        raise _not_a_grid(given) from None


def _not_a_grid(given: object) -> RequestError:
    return RequestError(
        f"`{display(given, 60)}` are no values for a weight",
        expected="START:STOP:STEP such as 0:1:0.1, or numbers",
    )


def _study(seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


def _tell(study: Any, trial: Any, score: float) -> None:
    from optuna.trial import TrialState

    if math.isnan(score):  # no value for optuna
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, score)


def _position(span: Span) -> int | float:
    """The middle of a span, as `_draw` counts."""
    return len(span.values) // 2 if span.values else float(span.middle)


def _draw(trial: Any, name: str, span: Span) -> Fraction:
    if span.values:  # an index, so that the values stay exact
        return span.values[int(trial.suggest_int(name, 0, len(span.values) - 1))]
    drawn = trial.suggest_float(name, float(span.low), float(span.high))
    value = exact_number(round(drawn, _DECIMALS))
    return min(max(value, span.low), span.high)


def every(spans: Mapping[str, Span]) -> Iterator[Weights]:
    """Weights that show whether an expression holds for all: combinations, or ends and middles."""
    if all(span.values for span in spans.values()):
        yield from combinations(spans)
        return
    probes = [sorted({s.low, s.middle, s.high, *s.values}) for s in spans.values()]
    for values in itertools.islice(itertools.product(*probes), MOST_COMBINATIONS):
        yield dict(zip(spans, values, strict=True))
