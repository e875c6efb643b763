"""Weights by layer against the sites that there are: every site is decided, and every key decides.

A head may have a key too; without one its weight is not known.
"""

from __future__ import annotations

from collections.abc import Mapping

from pemath.errors import RequestError
from pemath.expression.layers import OTHERS
from pemath.expression.tree import Expression, Layered, Operand, nodes, occurrences
from pemath.kinds import Adapter
from pemath.names import display, listing


def check_layers(expression: Expression, adapters: Mapping[Operand, Adapter]) -> None:
    """Refuse weights by layer that leave a site of their term out, or a key without a site.

    Raises: RequestError, naming the sites or the key.
    """
    for node in dict.fromkeys(n for n in nodes(expression) if isinstance(n, Layered)):
        holders = [adapters[operand] for operand in occurrences(node.term)]
        sites = list(dict.fromkeys(site for adapter in holders for site in adapter.sites))
        place = f"the weights of `{display(node.term, 60)}`"
        decided: dict[str, str] = {}
        for site in sites:
            found = node.weights.decides(site)
            if found is not None:
                decided[site] = found[0]
        heads = [module for adapter in holders for module in adapter.heads]
        found_heads = (node.weights.decides(module) for module in heads)
        used = {*decided.values(), *(found[0] for found in found_heads if found)}
        for key, _ in node.weights.weights:
            if key not in used and key != OTHERS:
                raise _useless(key, node, [*sites, *heads], place)
        lost = [site for site in sites if site not in decided]
        if lost:
            raise RequestError(
                f"{place} match {len(sites) - len(lost)} of its {len(sites)} sites",
                where=f"{len(lost)} site(s) without a weight: {listing(lost, 3)}",
                found=f"the keys {listing([key for key, _ in node.weights.weights])}",
                hint='name their layers too, or add "*" for all others',
            )


def _useless(key: str, node: Layered, sites: list[str], place: str) -> RequestError:
    shown = display(key, 60)
    if any(node.weights.only(key).decides(site) for site in sites):
        return RequestError(
            f"the key `{shown}` decides nothing: earlier keys match all of its sites",
            where=place,
            hint="the first key that matches wins: put the narrower one before the wider",
        )
    return RequestError(
        f"the key `{shown}` matches no site",
        where=place,
        found=f"sites such as {listing(sites, 2)}",
        hint="a key is name parts of a site in their order, such as layers.0-15 or q_proj",
    )
