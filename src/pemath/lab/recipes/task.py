"""The section of a recipe that describes a task of the user's own."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from pemath.lab.data.tasks import TASKS
from pemath.lab.recipes.sections import Names, Section, beside, distinct
from pemath.names import display

Metric = Literal["accuracy", "f1", "matthews", "pearson_spearman", "accuracy_f1"]
_REGRESSION: Metric = "pearson_spearman"


def existing_file(given: Any, info: ValidationInfo) -> Path:
    """A data file that is there."""
    if not isinstance(given, str | Path) or not str(given) or "\0" in str(given):
        raise ValueError("the path of a file is needed")
    path = beside(given, info)
    try:
        found = path.is_file()
    except OSError:
        found = False
    if not found:
        raise ValueError(f"there is no file `{display(path)}`")
    return path


def _label_name(given: Any) -> Any:
    """Labels such as 0, 1, true are what a file's column holds as text."""
    if isinstance(given, bool):
        return str(given).lower()
    return str(given) if isinstance(given, int) else given


DataFile = Annotated[Path, BeforeValidator(existing_file)]
LabelName = Annotated[str, BeforeValidator(_label_name)]


class TaskSpec(Section):
    """A task of the user's own: CSV, TSV, JSONL or Parquet files with named columns.

    Without `labels` they are the values of the label column, sorted. `prompt` holds `{0}` (and
    `{1}`, …) where the texts stand; `words` are its answers, one for each label.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w./-]*$", max_length=80)
    train: DataFile
    test: DataFile | None = None
    validation: DataFile | None = None
    text: Names = Field(min_length=1)
    label: str = Field(min_length=1)
    labels: Annotated[list[LabelName], AfterValidator(distinct), Field(min_length=2)] | None = None
    metric: Metric = "accuracy"
    prompt: str | None = None
    words: Names | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number and not a class."""
        return self.metric == _REGRESSION

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._name_and_columns(), *self._prompt()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _name_and_columns(self) -> Iterator[str]:
        if self.name in TASKS:
            yield f"`{self.name}` is the name of a known task"
        if self.label in self.text:
            yield "the label's column is among the text columns"
        if self.is_regression and (self.labels or self.prompt):
            yield "pearson_spearman is for numbers: neither labels nor prompt go with it"

    def _prompt(self) -> Iterator[str]:
        if (self.prompt is None) != (self.words is None):
            yield "`prompt` and `words` go together"
        if self.words is not None and len(self.words) != len(self.labels or ()):
            yield "`words` needs `labels`, and one word for each of them"
        if self.prompt is None:
            return
        wanted = [str(index) for index in range(len(self.text))]
        try:
            fields = [field[1:] for field in string.Formatter().parse(self.prompt)]
        except ValueError:
            fields = []
        # Neither conversions nor widths: a recipe from elsewhere could ask for a gigabyte of blanks.
        plain = {(name, "", None) for name in wanted}
        if {field for field in fields if field[0] is not None} != plain:
            places = " and ".join(f"{{{name}}}" for name in wanted)
            yield f"the prompt needs {places} where the texts stand, and no other braces"
        joined = self.prompt.endswith((" ", "\n"))
        if not joined and not all(word.startswith(" ") for word in self.words or ()):
            yield "each of `words` begins with a space where the prompt ends without one"
