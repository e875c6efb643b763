"""What a merge method is, and the registry that its decorator fills."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

from pemath import methods as package
from pemath import plugins
from pemath.errors import KindMismatch, PemathError, RequestError
from pemath.kinds import Adapter, kinds
from pemath.kinds.full import FullDelta
from pemath.kinds.ia3 import Ia3
from pemath.kinds.lora import Lora
from pemath.methods._statistics import Needed, SiteStatistics
from pemath.names import display

Space = Literal["factor", "delta", "core"]
Weights = Literal["ones", "shares", "first"]
Operands = Sequence[Adapter | None]

GROUP = "pemath.methods"

# No option is as large, and float64 holds everything smaller.
_HUGE = 1e300


@dataclass(frozen=True, eq=False)
class Stack:
    """The values of one site that a method merges: those of the operands that have the site, with
    their weights (the coefficient of the operand included) and names.

    `operands` are all the call's operands, whether they have the site or not; None for one that is
    an expression itself. `statistics` are those of the values, for a method that needs them.
    """

    site: str
    values: Sequence[Any]
    weights: Sequence[float]
    names: Sequence[str]
    operands: Operands = ()
    statistics: Sequence[SiteStatistics] = ()


@dataclass(frozen=True, eq=False)
class Method:
    """A registered method.

    `space` is where it works: on factors, on dense deltas, or in the joint low-rank core. `check`
    looks at a stack before any tensor is read and returns what is wrong with it, or None. `rank`
    bounds the rank of the result, given the operands' ranks at the site, the operands and the
    options. `needs` are the statistics that it is driven by. `weights` says what the operands weigh
    where no weights are given: one each, equal shares of one for a mean, or one for the first and
    nothing for the others, which only steer what becomes of it. `origin` is the package that it
    comes from, where that is not pemath.
    """

    name: str
    space: Space
    summary: str
    source: str
    function: Callable[..., Any]
    check: Callable[[Stack], PemathError | None]
    rank: Callable[..., int]
    needs: Needed | None = None
    weights: Weights = "ones"
    origin: str | None = None

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword-only parameters by name: the same in Python, expressions, YAML and docs."""
        parameters = inspect.signature(self.function, eval_str=True).parameters
        return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    def signature(self) -> str:
        """The call as a user writes it; `…` stands for more operands and for what has no default."""
        weights = {"ones": "1", "shares": "1/n", "first": "1, 0"}[self.weights]
        defaults = {name: option.default for name, option in self.options.items()}
        return self.call("a", "b", "…", f"weights=[{weights}, …]", **defaults)

    def call(self, *operands: str, **options: Any) -> str:
        """A call of the method, spelled as in an expression."""
        shown = [f"{name}={_shown(value)}" for name, value in options.items()]
        return f"{self.name}({', '.join([*operands, *shown])})"

    def default_weights(self, count: int) -> list[Fraction]:
        """What `count` operands weigh where no weights are given."""
        if self.weights == "first":
            return [Fraction(int(index == 0)) for index in range(count)]
        each = Fraction(1, max(count, 1)) if self.weights == "shares" else Fraction(1)
        return [each] * count

    def bind(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options checked and converted. Raises RequestError, naming the option."""
        known = self.options
        bound = {}
        for name, value in options.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                listing = ", ".join(f"`{n}`" for n in ("weights", *known))
                raise RequestError(
                    f"method `{self.name}` has no option `{display(name)}`",
                    hint=f"did you mean `{close[0]}`?" if close else f"its options are {listing}",
                )
            bound[name] = _converted(self.name, name, value, known[name].annotation)
        return bound


_METHODS: dict[str, Method] = {}


def _no_check(stack: Stack) -> PemathError | None:
    return None


def _of_known_kinds(
    name: str, check: Callable[[Stack], PemathError | None]
) -> Callable[[Stack], PemathError | None]:
    def checked(stack: Stack) -> PemathError | None:
        for value in stack.values:
            if not isinstance(value, Lora | Ia3 | FullDelta):
                known = (kind.name for kind in kinds().values() if kind.value is type(value))
                return KindMismatch(
                    f"`{name}` looks into the weights, which kind {next(known, 'unknown')} does not show",
                    expected="lora, ia3 or full",
                    hint="convert the operands first: `pemath convert SOURCE --to lora`",
                )
        return check(stack)

    return checked


def _sum_of_ranks(ranks: Sequence[int], operands: Operands, **options: Any) -> int:
    return sum(ranks)


def method(
    *,
    space: Space,
    source: str,
    check: Callable[[Stack], PemathError | None] = _no_check,
    rank: Callable[..., int] = _sum_of_ranks,
    needs: Needed | None = None,
    weights: Weights | None = None,
    any_kind: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: register a function as the merge method of its name.

    The function takes the `Stack` of one site and returns one value of the same kind. Keyword-only
    parameters are the method's options, annotated with bool, int, float, str or a union with None.
    A method that is driven by data is a mean: its `weights` are shares. `any_kind` says that it needs
    no more of a value than its arithmetic; other methods are given LoRA, (IA)³ and full deltas only.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        if not str(function.__module__).startswith(f"{package.__name__}."):
            _load_built_in()  # whose names are taken, whoever comes first
        if name in _METHODS:
            raise ValueError(f"method {name} is registered twice")
        summary = (function.__doc__ or "").strip().split("\n")[0]
        usual = weights or ("shares" if needs else "ones")
        checked = check if any_kind else _of_known_kinds(name, check)
        _METHODS[name] = Method(name, space, summary, source, function, checked, rank, needs, usual)
        return function

    return register


def methods() -> dict[str, Method]:
    """All methods by name: pemath's own, those of installed plug-ins, and any defined since."""
    _load_built_in()
    _load_plugins()
    return dict(sorted(_METHODS.items()))


def named_method(name: str) -> Method:
    """The method called `name`. Plug-ins are looked for only where pemath has none of that name.

    Raises: RequestError with the nearest name.
    """
    _load_built_in()
    found = _METHODS.get(name) or methods().get(name)
    if found is None:
        close = difflib.get_close_matches(name, _METHODS, 1)
        listing = ", ".join(f"`{n}`" for n in sorted(_METHODS))
        raise RequestError(
            f"there is no method `{display(name)}`",
            hint=f"did you mean `{close[0]}`?" if close else f"the methods are {listing}",
        )
    return found


@cache
def _load_built_in() -> None:
    for module in iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"{package.__name__}.{module.name}")


@cache
def _load_plugins() -> None:
    for name, origin in plugins.load(GROUP, _METHODS, Method).items():
        _METHODS[name] = replace(_METHODS[name], origin=origin)


def _shown(value: Any) -> str:
    return "…" if value is None else json.dumps(value, ensure_ascii=False)


def _converted(method_name: str, option: str, value: Any, annotation: Any) -> Any:
    wanted = set(getattr(annotation, "__args__", (annotation,))) - {type(None)}
    if bool in wanted and isinstance(value, bool):
        return value
    if not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < _HUGE:
        if int in wanted and value == int(value):
            return int(value)
        if float in wanted:
            return float(value)
    if str in wanted and isinstance(value, str):
        return value
    names = " or ".join(sorted(kind.__name__ for kind in wanted))
    raise RequestError(
        f"option `{option}` of `{method_name}` has a wrong value",
        found=display(value, 60),
        expected=names,
    )
