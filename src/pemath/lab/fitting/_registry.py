"""What a method of fitting is, and the registry that its decorator fills."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

from pemath.errors import RequestError
from pemath.lab import fitting as package
from pemath.names import display, listing

Per = Literal["module", "layer"]
Fitter = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class FittingMethod:
    """A registered way to choose weights.

    `measure(scores, labels)` is each row's loss; `penalty(weights)` is added to their mean. `per`
    lists what may have a weight of its own in each operand, the usual first. `labelled` says whether
    it looks at labels (which may then be numbers). `function(problem, **options)` returns the
    weights [operands, groups] that it found.
    """

    name: str
    summary: str
    source: str
    loss: str
    measure: Callable[[Any, Any], Any]
    penalty: Callable[[Any], Any]
    per: Sequence[Per]
    labelled: bool
    function: Fitter

    @property
    def options(self) -> dict[str, Any]:
        """Its options with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options, the given ones over the defaults. Raises RequestError."""
        unknown = [name for name in given if name not in self.options]
        if unknown:
            raise RequestError(
                f"{self.name} has no option {listing([n.replace('_', '-') for n in unknown])}",
                hint=f"it takes {listing([n.replace('_', '-') for n in self.options])}",
            )
        for name, value in given.items():
            if not value > 0:
                raise RequestError(
                    f"--{name.replace('_', '-')} must be above zero", found=display(value)
                )
        return self.options | dict(given)


_METHODS: dict[str, FittingMethod] = {}


def _nothing(weights: Any) -> Any:
    return 0.0


def fitting_method(
    *,
    source: str,
    loss: str,
    measure: Callable[[Any, Any], Any],
    per: Sequence[Per],
    penalty: Callable[[Any], Any] = _nothing,
    labelled: bool = True,
) -> Callable[[Fitter], Fitter]:
    """Decorator: register a function as the method of its name; keyword-only parameters are its
    options. `loss` says in words what is made small.
    """

    def register(function: Fitter) -> Fitter:
        summary = (function.__doc__ or "").strip().split("\n")[0]
        _METHODS[function.__name__] = FittingMethod(
            function.__name__, summary, source, loss, measure, penalty, per, labelled, function
        )
        return function

    return register


@cache
def fitting_methods() -> dict[str, FittingMethod]:
    """All methods by name."""
    for module in iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_METHODS.items()))


def named_fitting_method(name: str) -> FittingMethod:
    """The method called `name`. Raises RequestError with the nearest name."""
    known = fitting_methods()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise RequestError(
            f"there is no method of fitting `{display(name)}`",
            hint=f"did you mean `{close[0]}`?" if close else f"the methods are {listing([*known])}",
        )
    return known[name]
