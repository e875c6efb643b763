"""What an experiment trains, asks and measures, and how often: as its file in `experiments` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pemath.lab.estimate.parts import Amount, least, product, total
from pemath.lab.recipes.recipe import Recipe

Settings = dict[str, Any]  # of one training
CHOICE, ANEW = "choice of settings", "b, independent"


@dataclass(frozen=True)
class Trained:
    """Modules trained on rows of one part of a task, so many `times` in all: with each of the
    settings, or with the one of them that was chosen before.
    """

    task: int
    part: str
    rows: Amount
    settings: list[Settings]
    times: int

    def together(self, amount: Callable[[Settings], Amount]) -> Amount:
        """An amount over all times; of a choice not known yet the largest."""
        amounts = [amount(one) for one in self.settings]
        if self.part == CHOICE:
            return total(amounts)
        known = [found for found in amounts if found is not None]
        return product(self.times, max(known) if len(known) == len(amounts) else None)


class Schedule:
    """The work for one kind of module, as if the store were empty.

    `rows` are those that a module of each task is trained on. What the store certainly holds from
    an earlier step is not counted again.
    """

    def __init__(self, recipe: Recipe, pem: str, rows: list[Amount]) -> None:
        self._recipe, self._rows, self._seeds = recipe, rows, len(recipe.seeds)
        self._split = recipe.experiment == "distribution"
        self._needed = recipe.needs_statistics()
        self.independent = pem == "lora" and "independent" in recipe.initialisation
        candidates = recipe.modules.chosen()[pem].candidates()
        self.candidates = [recipe.training_of(one) for one in candidates]

    def trained(self) -> list[Trained]:
        """Every module that is trained, for all seeds."""
        found = []
        for task, rows in enumerate(self._rows):
            undivided = product(2, rows) if self._split else rows
            if len(self.candidates) > 1:
                count = len(self.candidates)
                found.append(Trained(task, CHOICE, undivided, self.candidates, count))
            for part in self._parts(task):
                whole = part == "all"
                found.append(
                    Trained(
                        task,
                        part,
                        undivided if whole else rows,
                        self._as_long_as_a_half(rows) if whole else self.candidates,
                        self._seeds - self._is_the_choice(part),
                    )
                )
        return found

    def _parts(self, task: int) -> list[str]:
        parts = ["a", "b", "all"] if self._split else ["ab"[task]]
        return [*parts, ANEW] if self.independent and "b" in parts else parts

    def _is_the_choice(self, part: str) -> bool:
        """Whether the first seed's module was trained to choose the settings."""
        if len(self.candidates) == 1 or part == ANEW:
            return False
        # Module `all` gets the steps of a half, which the settings may say in epochs.
        return part == "all" and bool(self.candidates[0]["max_steps"]) if self._split else True

    def asked(self) -> dict[str, int]:
        """How many compositions are asked about each part of a task, for one seed."""
        compositions, swept = len(self._recipe.compositions), self._swept()
        # Module a is the same for both starts, so that its answers are there the second time.
        if self._split:
            plain = sum(name not in self._needed for name in self._recipe.compositions)
            best, whole = int(swept > 0), 1
            test = 2 + compositions + best + whole + self.independent * (1 + plain)
            return {"test": test, "validation": swept}
        # The best weight is one of the curve, and answered with it.
        test = 2 + compositions + swept + self.independent * (1 + compositions + swept)
        return {"test": test, "validation": swept * (1 + self.independent)}

    def measured(self) -> list[int]:
        """For how many modules of each task statistics are collected, for one seed."""
        if not self._needed:
            return [0] * len(self._rows)
        return [2] * len(self._rows) if self._split else [1, 1 + self.independent]

    def starts(self) -> int:
        """Saved initialisations, for one seed: one for each head, and those of another start."""
        return (len(self._rows) if self._split else 1) * (1 + self.independent)

    def _as_long_as_a_half(self, rows: Amount) -> list[Settings]:
        return [{**one, "max_steps": steps_of(one, rows)} for one in self.candidates]

    def _swept(self) -> int:
        """The most weights that the sweep tries."""
        sweep = self._recipe.sweep
        if sweep is None:
            return 0
        # A range without a step has no number of values: there only the trials count.
        grid = product(*(len(span.values) or None for span in sweep.spans().values()))
        return least(grid, sweep.trials if sweep.search == "optuna" else None) or 0


def steps_of(settings: Settings, rows: Amount) -> Amount:
    """The steps of one training, as `train` counts them."""
    if settings["max_steps"]:
        return int(settings["max_steps"])
    if rows is None:
        return None
    batches = -(-rows // int(settings["batch_size"]))
    return max(1, round(float(settings["epochs"]) * batches))
