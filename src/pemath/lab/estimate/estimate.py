"""What carrying out a recipe would do and cost, from the recipe alone: no torch, network or data."""

from __future__ import annotations

from pemath.lab.estimate.detox import estimate_detox
from pemath.lab.estimate.merging import estimate_merge
from pemath.lab.estimate.parts import Estimate
from pemath.lab.estimate.transfer import estimate_transfer
from pemath.lab.estimate.unlearning import estimate_unlearning
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.recipe import Recipe
from pemath.lab.recipes.subtraction import Detox, Unlearning
from pemath.lab.recipes.transfer import Transfer

__all__ = ["Estimate", "estimate"]


def estimate(recipe: Common) -> Estimate:
    """What carrying out `recipe` would do and cost, if nothing of it were done yet."""
    match recipe:
        case Recipe():
            return estimate_merge(recipe)
        case Unlearning():
            return estimate_unlearning(recipe)
        case Transfer():
            return estimate_transfer(recipe)
        case Detox():
            return estimate_detox(recipe)
    raise TypeError(f"no estimate is known of {type(recipe).__name__}")
