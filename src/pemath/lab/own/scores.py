"""What answers are worth: the metric with its interval, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pemath.lab.data.rows import Row, Task
from pemath.lab.desk import Answered


@dataclass(frozen=True)
class Score:
    """The metric of one composition with its 95 % interval (Wilson's for accuracy, else bootstrap).

    `behind` is how much the first composition of the list is better than this one, with the
    interval of the paired bootstrap over the rows; None for the first itself.
    """

    name: str
    expression: str
    value: float
    low: float
    high: float
    error_to_exact: float | None
    behind: tuple[float, float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "expression": self.expression,
            "metric": self.value,
            "interval": [self.low, self.high],
            "error_to_exact": self.error_to_exact,
            "behind": None
            if self.behind is None
            else {"difference": self.behind[0], "interval": list(self.behind[1:])},
        }


def scored(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, tuple[str, Answered]],
) -> list[Score]:
    """The scores of `answers` (expression and what it answered, by name); the first is compared
    with the others.
    """
    import numpy as np

    from pemath.lab.accuracy import wilson_interval
    from pemath.lab.metrics import bootstrap, interval, metric

    labels = np.array([row.label for row in rows])
    predictions = np.array([answered.predictions for _, answered in answers.values()])
    values = metric(task.metric)(labels, predictions)
    resampled = bootstrap(task.metric, labels, predictions)
    lows, highs = interval(resampled)
    found = []
    for position, (name, (expression, answered)) in enumerate(answers.items()):
        value, low, high = (float(many[position]) for many in (values, lows, highs))
        if task.metric == "accuracy":
            low, high = wilson_interval(value, len(rows))
        behind = None
        if position:
            below, above = interval(resampled[0] - resampled[position])
            behind = (float(values[0]) - value, float(below), float(above))
        error = answered.error_to_exact
        found.append(Score(name, expression, value, low, high, error, behind))
    return found
