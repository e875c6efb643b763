"""What the numbers of an estimate rest on, where that is not plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pemath.lab.estimate.model_sizes import ModelSize
from pemath.lab.estimate.parts import BYTES, Amount, Rows
from pemath.lab.estimate.sizes import TASK_SIZES
from pemath.lab.recipes.common import Common
from pemath.names import display

CHECKPOINTS_FROM = 200  # steps
PROMPTED = "an answer counts as one pass: a label word of several tokens makes one per word"
WRITTEN = "every text counts with all its new tokens: one that ends early costs less"
APPROXIMATE = (
    "how many texts `hub/civil` has is not known here: its share of the test part is taken"
)


def about_size(recipe: Common, size: ModelSize | None, steps: Sequence[Amount]) -> Iterator[str]:
    """A size that is not known, or the room that a checkpoint of full fine-tuning takes."""
    if size is None:
        name = display(recipe.model.name)
        yield f"the size of `{name}` is not known here: no operations, hours and disk space"
    elif max((one for one in steps if one is not None), default=0) > CHECKPOINTS_FROM:
        gigabytes = 3 * BYTES * size.parameters / 1e9
        yield f"while a full module trains, its checkpoint takes {gigabytes:.1f} GB more"


def about_rows(rows: Sequence[Rows]) -> Iterator[str]:
    """Rows of tasks whose number, or whose length, is not known."""
    if any(one.all_of and one.task.startswith("glue/") for one in rows):
        yield "`all` counts the official rows of GLUE; a data folder may hold fewer"
    if any(one.train is None or one.test is None for one in rows):
        yield "rows of your own files are counted only where the recipe says how many to use"
    if any(one.task not in TASK_SIZES for one in rows):
        yield "how long your own rows are is not known: all are counted with max_length"
