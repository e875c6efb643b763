"""What a user asks for: one dataclass for the command line, YAML and Python."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pemath.errors import ConfigError, PemathError, RequestError
from pemath.expression.parser import parse, parse_call
from pemath.expression.tree import (
    Call,
    Expression,
    Layered,
    Operand,
    Scaled,
    Sum,
    occurrences,
    operands,
    to_text,
)
from pemath.limits import LIMITS
from pemath.names import display, listing
from pemath.references import Resolved, resolve

Profile = Literal["portable", "compact"]
DTYPES = ("float32", "bfloat16", "float16", "float64")


_TYPES: dict[str, Any] = {
    "expression": str,
    "arithmetic": str,
    "rank": int,
    "max_error": float | int,
    "dtype": str,
    "heads": str,
    "profile": str,
    "base_model": str,
    "base_weights": str,
}


@dataclass(frozen=True, kw_only=True)
class ComposeRequest:
    """Everything that determines the bytes of the result.

    `max_error` is a fraction (0.01 is 1 %). `heads` is average, drop or the name of an operand.
    `statistics` names the statistics file of an operand, where it is not the one in its folder.
    `base_weights` is the folder of the base model's weights, for kinds that need them.
    """

    expression: str
    operands: Mapping[str, str] = field(default_factory=dict)
    arithmetic: str = "exact"
    rank: int | None = None
    max_error: float | None = None
    dtype: str | None = None
    heads: str | None = None
    profile: Profile = "portable"
    base_model: str | None = None
    base_weights: str | None = None
    statistics: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, wanted in _TYPES.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
                raise RequestError(
                    f"`{name}` has a wrong type",
                    found=f"{display(value, 60)} ({type(value).__name__})",
                    expected="text" if wanted is str else "a number",
                )
        if not all(isinstance(file, str) for file in self.statistics.values()):
            raise RequestError("`statistics` must name a file for each operand")
        if self.rank is not None and self.max_error is not None:
            raise RequestError(
                "--rank and --max-error exclude each other",
                hint="give the rank, or the error that the rank must keep to",
            )
        if self.rank is not None and not 1 <= self.rank <= 1 << 20:
            raise RequestError("the rank must be at least 1", found=self.rank)
        if self.max_error is not None and not (
            math.isfinite(self.max_error) and 0 <= self.max_error < 1
        ):
            raise RequestError(
                "the largest error must be at least 0 % and under 100 %",
                found=f"{self.max_error:.6g}",
                expected="for example 1%",
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise RequestError(f"unknown dtype `{display(self.dtype)}`", expected=", ".join(DTYPES))
        if self.profile not in ("portable", "compact"):
            raise RequestError(
                f"unknown profile `{display(self.profile)}`", expected="portable or compact"
            )
        if len(self.operands) > LIMITS.operands:
            raise RequestError("too many operands", expected=f"at most {LIMITS.operands}")

    @cached_property
    def tree(self) -> Expression:
        """The parsed expression. Raises ExpressionError."""
        return parse(self.expression, self.operands)

    @cached_property
    def resolved(self) -> dict[Operand, Resolved]:
        """The folder of every operand. Raises ReferenceNotFound, naming the operand."""
        found = {}
        for operand in operands(self.tree):
            try:
                found[operand] = resolve(operand.reference)
            except PemathError as error:
                raise error.within(f"operand `{display(operand, 60)}`") from None
        return found

    @cached_property
    def statistics_files(self) -> dict[Operand, Path]:
        """The statistics files that are named. Raises RequestError for a name of no operand."""
        by_name = {op.name or op.reference: op for op in operands(self.tree)}
        unknown = sorted(set(self.statistics) - set(by_name))
        if unknown:
            raise RequestError(
                f"statistics are given for {listing(unknown)}, which the expression does not use",
                expected=f"the name of an operand: {listing(list(by_name))}",
            )
        return {by_name[name]: Path(file) for name, file in self.statistics.items()}

    def with_sources(self, sources: Mapping[str, Resolved]) -> ComposeRequest:
        """The same request with its references resolved already.

        Raises: RequestError for a reference of the expression that `sources` lacks.
        """
        missing = [op.reference for op in operands(self.tree) if op.reference not in sources]
        if missing:
            raise RequestError(f"no source is recorded for {listing(missing)}")
        other = replace(self)
        vars(other)["resolved"] = {op: sources[op.reference] for op in operands(self.tree)}
        return other

    def method(self) -> Call:
        """The arithmetic: a method with its options. Raises ExpressionError."""
        return parse_call(self.arithmetic)

    def as_dict(self) -> dict[str, Any]:
        """The fields that were given, as plain values."""
        return {key: value for key, value in asdict(self).items() if value not in (None, {})}


def request_of(
    expression: Expression | str,
    bound: Mapping[str, str | os.PathLike[str] | Operand] | None = None,
    **options: Any,
) -> ComposeRequest:
    """A request from a tree or a text, with options as Python users write them.

    Names in a tree that stand for two references are dropped. `max_error` may be text such as
    "1%", `arithmetic` a call node. Raises: RequestError.
    """
    known = [field.name for field in fields(ComposeRequest) if field.name != "operands"]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise RequestError(
                f"there is no option `{display(name)}`",
                hint=f"did you mean `{close[0]}`?"
                if close
                else f"the options are {listing(known)}",
            )
    if isinstance(options.get("max_error"), str):
        options["max_error"] = parse_error_bound(options["max_error"])
    if options.get("statistics") is not None:
        given = options["statistics"].items()
        options["statistics"] = {name: os.fspath(file) for name, file in given}
    if isinstance(options.get("arithmetic"), Call):
        options["arithmetic"] = to_text(options["arithmetic"])
    if isinstance(expression, str):
        names = {name: _reference(reference) for name, reference in (bound or {}).items()}
        return ComposeRequest(expression=expression, operands=names, **options)
    if bound:
        raise RequestError("operands are bound in a text only; a tree has its own")
    names = {}
    for operand in occurrences(expression):
        if operand.name and names.setdefault(operand.name, operand.reference) != operand.reference:
            return ComposeRequest(expression=to_text(_anonymous(expression)), **options)
    return ComposeRequest(expression=to_text(expression), operands=names, **options)


def _reference(value: str | os.PathLike[str] | Operand) -> str:
    return value.reference if isinstance(value, Operand) else os.fspath(value)


def _anonymous(expression: Expression) -> Expression:
    match expression:
        case Operand():
            return Operand(expression.reference)
        case Scaled():
            return Scaled(expression.coefficient, _anonymous(expression.term))
        case Layered():
            return Layered(expression.weights, _anonymous(expression.term))
        case Sum():
            return Sum(tuple(_anonymous(term) for term in expression.terms))
        case Call():
            arguments = tuple(_anonymous(argument) for argument in expression.arguments)
            return Call(expression.method, arguments, expression.options)
    return expression


def parse_error_bound(text: str) -> float:
    """`1%` or `0.01` as a fraction. Raises RequestError."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        raise RequestError(
            f"`{display(text)}` is not an error bound", expected="for example 1% or 0.01"
        ) from None
    if number.endswith("%"):
        return value / 100
    if value >= 1:
        raise RequestError(
            f"`{display(text)}` as an error bound means {100 * value:.6g} %",
            hint=f"did you mean {value:.6g}%?",
        )
    return value


def read_request(path: Path) -> dict[str, Any]:
    """The fields of a request in a YAML file, validated whole.

    The keys are those of `ComposeRequest`, and `out` and `force`. `max_error` may be `1%`.
    Raises: StorageError, ConfigError listing every mistake at once.
    """
    from pydantic import BaseModel, ConfigDict, ValidationError

    from pemath.formats.yaml import read_yaml

    class Fields(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

        expression: str | None = None
        operands: dict[str, str] | None = None
        arithmetic: str | None = None
        statistics: dict[str, str] | None = None
        rank: int | None = None
        max_error: float | str | None = None
        dtype: str | None = None
        heads: str | None = None
        profile: Profile | None = None
        base_model: str | None = None
        base_weights: str | None = None
        out: str | None = None
        force: bool | None = None

    try:
        found: dict[str, Any] = Fields.model_validate(read_yaml(path)).model_dump(exclude_none=True)
    except ValidationError as error:
        mistakes = "; ".join(
            f"`{display('.'.join(map(str, item['loc'])) or 'file')}`: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigError(
            f"the request has mistakes: {mistakes}",
            where=display(path),
            expected=f"the keys {', '.join(Fields.model_fields)}",
        ) from None
    if "max_error" in found:
        found["max_error"] = parse_error_bound(str(found["max_error"]))
    return found
