"""What train, evaluate and sweep share: how rows are named, and how scores are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pemath.cli._output import show_table

if TYPE_CHECKING:
    from pemath.lab.own.scores import Score
    from pemath.lab.own.subject import Subject

Metric = Literal["accuracy", "f1", "matthews", "pearson_spearman", "accuracy_f1"]
Pem = Literal["lora", "ia3", "full"]
Dtype = Literal["float32", "bfloat16"]


def parted(text: str | None) -> list[str] | None:
    """The words of a list with commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def subject(
    *,
    task: str | None,
    data_dir: Path | None,
    validation_rows: int | None,
    text: str | None,
    label: str | None,
    labels: str | None,
    metric: str | None,
    prompt: str | None,
    words: str | None,
) -> Subject:
    """What is asked, from the options of the command line."""
    from pemath.lab.own.subject import Subject

    return Subject(
        task=task,
        data_dir=data_dir,
        validation_rows=validation_rows,
        text=parted(text),
        label=label,
        labels=parted(labels),
        metric=metric,
        prompt=prompt,
        words=parted(words),
    )


def metric_text(name: str, value: float, *, signed: bool = False) -> str:
    """Accuracy in percent (differences of it in points), other metrics as they are."""
    sign = "+" if signed else ""
    if name == "accuracy":
        return f"{100 * value:{sign}.1f}" + ("" if signed else " %")
    return f"{value:{sign}.3f}"


def show_scores(title: str, metric: str, scores: Sequence[Score]) -> None:
    """The scores as a table; how much the first is better than the others stands beside those."""

    def cells(score: Score) -> Iterable[str]:
        yield score.name
        yield metric_text(metric, score.value)
        yield f"{metric_text(metric, score.low)} to {metric_text(metric, score.high)}"
        if len(scores) > 1:
            yield _behind(metric, score)

    columns = ["composition", metric, "95 % interval"]
    if len(scores) > 1:
        columns.append("the first is better by")
    show_table(title, columns, [list(cells(score)) for score in scores])


def _behind(metric: str, score: Score) -> str:
    if score.behind is None:
        return ""
    value, low, high = (metric_text(metric, x, signed=True) for x in score.behind)
    return f"{value} ({low} to {high})"
