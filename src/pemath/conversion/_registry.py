"""What a target of `convert` is, and the registry that its decorator fills."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

from pemath import conversion as package
from pemath.composition.certificate import Certificate
from pemath.errors import RequestError
from pemath.names import display, listing

Output = Literal["adapter", "checkpoint", "file"]


@dataclass(frozen=True)
class Outcome:
    """What a target says of its work.

    `kind` is what the source was. `certificate` has each site's rank, deviation and norm; it is None
    where nothing but names and places changed. `left_out` names what the output does not hold, with
    its Frobenius norm (NaN if that is not known); `facts` are further lines of the report by name.
    """

    kind: str
    certificate: Certificate | None = None
    left_out: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Target:
    """A registered target. `output` is what lies at the place that it is given to write to: a folder
    with an adapter or a checkpoint (made before, empty), or a file (not made yet).
    """

    name: str
    summary: str
    output: Output
    function: Callable[..., Outcome]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword-only parameters by name; they are the options of the command line."""
        parameters = inspect.signature(self.function, eval_str=True).parameters
        return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


_TARGETS: dict[str, Target] = {}


def target(
    *, summary: str, output: Output = "adapter"
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Decorator: register `function(source: Source, out: Path, *, options…)` as the target of its
    name.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        name = function.__name__.strip("_")
        if name in _TARGETS:
            raise ValueError(f"target {name} is registered twice")
        _TARGETS[name] = Target(name, summary, output, function)
        return function

    return register


@cache
def targets() -> dict[str, Target]:
    """All targets by name."""
    for module in iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_TARGETS.items()))


def named_target(name: str) -> Target:
    """The target called `name`. Raises RequestError with the nearest name."""
    known = targets()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise RequestError(
            f"there is no target `{display(name)}`",
            hint=f"did you mean `{close[0]}`?" if close else f"the targets are {listing([*known])}",
        )
    return known[name]
