"""The value of an expression at one site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pemath.errors import (
    OperandError,
    PemathError,
    RequestError,
    ShapeMismatch,
    StatisticsNeeded,
)
from pemath.expression.linear import Atom, call_weights, normal_form, weight
from pemath.expression.tree import Call, Expression, Operand, thaw, to_text, varies
from pemath.kinds import Adapter
from pemath.methods import Method, Needed, Stack, Statistics, named_method
from pemath.names import display, listing


class Evaluator:
    """Evaluates expressions over opened adapters, site by site.

    A site that an operand lacks counts as zero. Sums are lazy; a method call reads tensors.
    `files` are statistics that lie elsewhere than beside the adapter; `statistics` are those that
    data-driven methods have asked for.
    """

    def __init__(
        self, adapters: Mapping[Operand, Adapter], files: Mapping[Operand, Path] | None = None
    ) -> None:
        self._adapters = adapters
        self._files = files or {}
        self.statistics: dict[Operand, Statistics] = {}
        self._forms: dict[tuple[Expression, str], list[tuple[Atom, float]]] = {}
        self._found: dict[Expression, list[Atom]] = {}
        self._calls: dict[Call, tuple[Method, dict[str, Any], list[float]]] = {}

    def value(self, expression: Expression, site: str) -> Any | None:
        """The value at `site`, or None where no operand has it.

        Raises: OperandError, naming the site.
        """
        total: Any = None
        for atom, coefficient in self._form(expression, site):
            value = self._atom(atom, site)
            if value is None:
                continue
            term = value if coefficient == 1.0 else value * coefficient
            try:
                total = term if total is None else total + term
            except ShapeMismatch as error:
                raise ShapeMismatch(
                    f"`{to_text(atom)}` does not fit the operands before it: {error.what}",
                    where=f"site `{site}`",
                    found=error.found,
                    expected=error.expected,
                    hint="the adapters were trained on different base models",
                ) from None
        return total

    def check(self, expression: Expression, site: str) -> OperandError | None:
        """What a method of `expression` finds wrong at `site`, without reading a tensor."""
        for atom, _ in self._form(expression, site):
            if isinstance(atom, Call):
                for argument in atom.arguments:
                    inside = self.check(argument, site)
                    if inside is not None:
                        return inside
                method, _, _ = self.call(atom)
                if not any(self._has_call(argument, site) for argument in atom.arguments):
                    stack = self._stack(atom, site)
                    error = method.check(stack) if stack.values else None
                    if isinstance(error, OperandError):
                        return error
        return None

    def rank(self, expression: Expression, site: str) -> int:
        """A bound on the rank of the value at `site`, without reading a tensor."""
        return sum(self._atom_rank(atom, site) for atom, _ in self._form(expression, site))

    def _atom_rank(self, atom: Atom, site: str) -> int:
        if isinstance(atom, Operand):
            return getattr(self._adapters[atom].sites.get(site), "rank", 0)
        method, options, _ = self.call(atom)
        ranks = [self.rank(argument, site) for argument in atom.arguments]
        return method.rank(ranks, self._operands(atom), **options)

    def call(self, call: Call) -> tuple[Method, dict[str, Any], list[float]]:
        """A call's method, options and weights. Raises RequestError."""
        if call not in self._calls:
            method = named_method(call.method)
            if not call.arguments:
                raise RequestError(f"method `{call.method}` needs at least one operand")
            options = {n: thaw(v) for n, v in call.options if n != "weights"}
            weights = [weight(number) for number in call_weights(call)]
            if method.needs and not all(self._operands(call)):
                raise RequestError(
                    f"`{call.method}` takes operands, not expressions: the inputs of an adapter "
                    "that does not exist yet were not measured",
                    found=to_text(call),
                )
            self._calls[call] = method, method.bind(options), weights
        return self._calls[call]

    def _atom(self, atom: Atom, site: str) -> Any | None:
        if isinstance(atom, Operand):
            return self._adapters[atom].sites.get(site)
        method, options, _ = self.call(atom)
        stack = self._stack(atom, site)
        if not stack.values:
            return None
        error = method.check(stack)
        if error is not None:
            raise error
        left_out = sum(
            abs(w) * getattr(v, "left_out", 0.0)
            for v, w in zip(stack.values, stack.weights, strict=True)
        )
        if not left_out:
            return method.function(stack, **options)
        whole = replace(stack, values=[replace(value, left_out=0.0) for value in stack.values])
        found = method.function(whole, **options)
        return replace(found, left_out=found.left_out + left_out)

    def _stack(self, call: Call, site: str) -> Stack:
        """The arguments at `site`; an argument's own coefficient joins its weight, and is no part of
        its name: random draws do not depend on it.
        """
        method, _, weights = self.call(call)
        operands = self._operands(call)
        values, kept, names = [], [], []
        for argument, share in zip(call.arguments, weights, strict=True):
            form = self._form(argument, site)
            if len(form) == 1:
                atom, coefficient = form[0]
                value, name = self._atom(atom, site), to_text(atom)
            else:
                coefficient = 1.0
                value, name = self.value(argument, site), to_text(argument)
            if value is not None:
                values.append(value)
                kept.append(share * coefficient)
                names.append(name)
        if not method.needs or not values:
            return Stack(site, values, kept, names, operands)
        known = self._known(call, method.needs)
        if len(values) < len(known):
            raise StatisticsNeeded(
                f"`{call.method}` cannot weigh a site that not all operands have: what reaches it "
                "in the others was not measured",
                where=f"site `{display(site)}`",
                found=f"only in {listing(names)}",
                hint="use the exact arithmetic",
            )
        return Stack(site, values, kept, names, operands, [k.at(site) for k in known])

    def _known(self, call: Call, needs: Needed) -> list[Statistics]:
        """The statistics of a call's operands. Raises StatisticsNeeded, InputError, StorageError."""
        known = []
        for operand in self._atoms(call):
            if not isinstance(operand, Operand):  # refused by `call` already
                continue
            place = f"operand `{display(operand.name or operand.reference, 60)}`"
            try:
                if operand not in self.statistics:
                    path = self._files.get(operand)
                    self.statistics[operand] = Statistics.open(
                        path, self._adapters[operand], call.method
                    )
                known.append(self.statistics[operand].holding(needs))
            except PemathError as error:
                raise error.within(place) from None
        return known

    def _operands(self, call: Call) -> list[Adapter | None]:
        return [self._adapters[a] if isinstance(a, Operand) else None for a in self._atoms(call)]

    def _atoms(self, call: Call) -> list[Atom | None]:
        """The arguments that are one atom, whatever its coefficient; None for the others."""
        found = (self.atoms(argument) for argument in call.arguments)
        return [atoms[0] if len(atoms) == 1 else None for atoms in found]

    def atoms(self, expression: Expression) -> list[Atom]:
        """The atoms of the normal form, at whatever site."""
        if expression not in self._found:
            sites: Iterable[str] = ("",)
            if varies(expression):
                sites = dict.fromkeys(s for a in self._adapters.values() for s in a.sites)
            forms = (self._form(expression, site) for site in sites)
            self._found[expression] = list(
                dict.fromkeys(atom for form in forms for atom, _ in form)
            )
        return self._found[expression]

    def _form(self, expression: Expression, site: str) -> list[tuple[Atom, float]]:
        """The normal form, as numbers to compute with: one for all sites, or this site's."""
        key = (expression, site if varies(expression) else "")
        if key not in self._forms:
            form = normal_form(expression, site)
            self._forms[key] = [(atom, weight(number)) for atom, number in form.items()]
        return self._forms[key]

    def _has_call(self, expression: Expression, site: str) -> bool:
        return any(isinstance(atom, Call) for atom, _ in self._form(expression, site))
