"""What PEFT's `add_weighted_adapter` takes from the configs of its operands.

Source: PEFT 0.21.2, tuners/lora/model.py. The result's config is the first operand's with r and
lora_alpha replaced, whatever that means for the other operands.
"""

from __future__ import annotations

import math
import re

from pemath.formats.patterns import names_match
from pemath.kinds import Adapter
from pemath.methods._registry import Operands, Stack

_LAYER = re.compile(r"\.(\d+)\.")


def largest_rank(operands: Operands) -> int:
    """The one rank that svd gives to all sites: the largest r or pattern value of any operand."""
    ranks = [1]
    for adapter in operands:
        if adapter is not None:
            config = adapter.folder.config
            pattern = (config.get("rank_pattern") or {}).values()
            ranks += [rank for rank in (config.get("r"), *pattern) if isinstance(rank, int)]
    return max(ranks)


def shipped_scale(stack: Stack, rank: int) -> float:
    """What the written config multiplies the factors by: √r too much under rsLoRA, since
    `use_rslora` is kept beside lora_alpha = r.
    """
    first = stack.operands[0] if stack.operands else None
    rooted = first is not None and first.folder.config.get("use_rslora")
    return math.sqrt(rank) if rooted else 1.0


def loses(stack: Stack) -> bool:
    """Whether the first operand's filters keep this site out of the result."""
    first = stack.operands[0] if stack.operands else None
    if first is None or stack.site in first.sites:
        return False
    return _is_filtered(first, stack.site)


def _is_filtered(adapter: Adapter, site: str) -> bool:
    config = adapter.folder.config
    layers = config.get("layers_to_transform")
    layer = _LAYER.search(f".{site}.")
    if layers is not None and layer is not None:
        wanted = layers if isinstance(layers, list) else [layers]
        if int(layer[1]) not in wanted:
            return True
    excluded = config.get("exclude_modules")
    if isinstance(excluded, list):
        return any(site == name or site.endswith(f".{name}") for name in excluded)
    return excluded is not None and names_match(site, excluded, "exclude_modules")
