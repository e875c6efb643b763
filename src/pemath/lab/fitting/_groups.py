"""Which weight belongs to which site, and the expression that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pemath.errors import RequestError, UsageError
from pemath.expression.layers import OTHERS
from pemath.expression.tree import Expression, Layered, LayerWeights, Operand, Scaled, Sum
from pemath.kinds import Adapter
from pemath.lab.fitting._registry import Per
from pemath.names import display, listing


@dataclass(frozen=True)
class Groups:
    """The weights that each operand has: `keys` name them, `column` says which one a site gets."""

    keys: tuple[str, ...]
    column: Mapping[str, int]

    def expression(
        self, adapters: Mapping[str, Adapter], weights: Sequence[Sequence[Fraction]]
    ) -> Expression:
        """The sum of the operands with `weights` [operands, groups]; heads get equal shares.

        Raises: RequestError where no keys can say it.
        """
        share = Fraction(1, len(adapters))
        terms = [
            self._term(name, adapter, row, share)
            for (name, adapter), row in zip(adapters.items(), weights, strict=True)
        ]
        return terms[0] if len(terms) == 1 else Sum(tuple(terms))

    def _term(
        self, name: str, adapter: Adapter, weights: Sequence[Fraction], share: Fraction
    ) -> Expression:
        operand = Operand(name, name)
        if self.keys == (OTHERS,) and not adapter.heads:
            return Scaled(weights[0], operand)
        used = sorted({self.column[site] for site in adapter.sites})
        pairs = [*((head, share) for head in adapter.heads)]
        pairs += [(self.keys[column], weights[column]) for column in used]
        try:
            layers = LayerWeights(tuple(pairs))
        except UsageError as error:
            raise _unnamed(name, error.what) from None
        for site in adapter.sites:
            key = self.keys[self.column[site]]
            if (layers.decides(site) or ("",))[0] != key:
                raise _unnamed(name, f"`{display(site)}` cannot be told apart by {listing([key])}")
        return Layered(layers, operand)


def groups_of(adapters: Mapping[str, Adapter], per: Per) -> Groups:
    """One weight for a whole module, or one for each of its layers and one for what has no layer."""
    sites = list(dict.fromkeys(site for adapter in adapters.values() for site in adapter.sites))
    if per == "module":
        return Groups((OTHERS,), dict.fromkeys(sites, 0))
    layers = {site: _layer(site) for site in sites}
    stems = {found[0] for found in layers.values() if found}
    numbered = sorted({found for found in layers.values() if found})
    keys = {
        found: f"{found[0] if len(stems) > 1 else found[0].rsplit('.', 1)[-1]}.{found[1]}"
        for found in numbered
    }
    order = [*keys.values(), *([OTHERS] if None in layers.values() else [])]
    column = {site: order.index(keys[f] if f else OTHERS) for site, f in layers.items()}
    return Groups(tuple(order), column)


def _layer(site: str) -> tuple[str, int] | None:
    """The path before the first number in a site's name, and that number."""
    parts = site.split(".")
    for at, part in enumerate(parts[1:], 1):
        if part.isascii() and part.isdigit() and len(part) < 10:
            return ".".join(parts[:at]), int(part)
    return None


def _unnamed(name: str, why: str) -> RequestError:
    return RequestError(
        f"no weights by layer say what is fitted for operand `{display(name)}`: {why}",
        hint="fit one weight for each module: --per module",
    )
