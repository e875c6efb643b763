"""The sections of a recipe, as strict pydantic models: unknown keys and wrong types are refused."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from pemath.lab.assets import ASSETS, PREFIX
from pemath.lab.recipes.expressions import OPERANDS, check_sweep
from pemath.lab.recipes.mistakes import as_value_error, nearest
from pemath.lab.search import Search, Span, combinations, every, used_weights, weight_grid
from pemath.names import display


def distinct(items: list[Any]) -> list[Any]:
    """The list, if nothing stands in it twice."""
    if len(set(items)) < len(items):
        raise ValueError("every entry may stand only once")
    return items


def _weight_name(name: str) -> str:
    if name in OPERANDS or not name.isidentifier():
        raise ValueError("a weight cannot have this name")
    return name


def _weight_values(given: Any) -> Any:
    if not isinstance(given, str | list):
        raise ValueError("write START:STOP:STEP such as 0:1:0.1, or a list of numbers")  # noqa: TRY004
    with as_value_error():
        weight_grid(given)
    return given


def beside(name: str | Path, info: ValidationInfo) -> Path:
    """The path that `name` means: a relative one starts at the recipe's folder."""
    path = Path(name)
    with suppress(RuntimeError):  # a user who has no home here
        path = path.expanduser()
    return Path((info.context or {}).get("folder", "."), path)


def _model_name(name: str, info: ValidationInfo) -> str:
    """A model's name; a folder beside the recipe goes before a name on the hub."""
    models = [asset.name for asset in ASSETS.values() if asset.hub_name]
    if name.startswith(PREFIX):
        if name not in models:
            raise ValueError(nearest(name, models, "model"))
        return name
    path = beside(name, info)
    with suppress(OSError, ValueError):
        if path.is_dir():
            return str(path)
    if name.startswith((".", "/", "~")) or not name.isprintable():
        raise ValueError(f"there is no folder `{display(path)}`")
    return name


Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1e3)]
Share = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(distinct)]
WeightName = Annotated[str, AfterValidator(_weight_name)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """What all sections share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Section):
    """The base model: `pip:NAME`, a folder or a name on the hub."""

    name: Annotated[str, Field(min_length=1), AfterValidator(_model_name)]
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: Annotated[int, Field(ge=8, le=1 << 20)] = 128


class Rows(Section):
    """How many rows are used: for training per module, held out of training, and for the test.

    None takes all there are.
    """

    train: Positive | None = None
    validation: Positive = 200
    test: Positive | None = None


class Grid(Section):
    """Training settings to choose from on the validation rows, in place of one value each."""

    learning_rate: list[Rate] | None = Field(default=None, min_length=1)
    epochs: list[Rate] | None = Field(default=None, min_length=1)
    max_steps: list[Positive] | None = Field(default=None, min_length=1)
    batch_size: list[Positive] | None = Field(default=None, min_length=1)


class Full(Section):
    """Full fine-tuning, and the training that all modules share. `max_steps` overrides `epochs`."""

    learning_rate: Rate = 1e-4
    epochs: Rate = 1.0
    max_steps: Positive | None = None
    batch_size: Positive = 16
    grid: Grid | None = None

    def candidates(self) -> list[Self]:
        """The settings to train with: themselves, or every combination of the grid."""
        lists = {k: v for k, v in self.grid.model_dump().items() if v} if self.grid else {}
        return [
            self.model_copy(update={**dict(zip(lists, values, strict=True)), "grid": None})
            for values in itertools.product(*lists.values())
        ]

    def training(self) -> dict[str, Any]:
        """The fields that say how to train."""
        return {name: getattr(self, name) for name in Full.model_fields if name != "grid"}

    def shape(self) -> dict[str, Any]:
        """The fields that say what the module is."""
        return {n: getattr(self, n) for n in type(self).model_fields if n not in Full.model_fields}


class Lora(Full):
    """A LoRA; without `target_modules` PEFT chooses them by the architecture."""

    learning_rate: Rate = 5e-4
    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    alpha: Positive = 8
    dropout: Share = 0.0
    target_modules: Annotated[Names, Field(min_length=1)] | None = None


class Ia3(Full):
    """An (IA)³; a feed-forward module is scaled at its input, any other at its output."""

    learning_rate: Rate = 1e-3
    target_modules: Annotated[Names, Field(min_length=1)] | None = None
    feedforward_modules: Names | None = None

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if (self.target_modules is None) != (self.feedforward_modules is None):
            raise ValueError("`target_modules` and `feedforward_modules` go together")
        if set(self.feedforward_modules or ()) - set(self.target_modules or ()):
            raise ValueError("`feedforward_modules` must be among `target_modules`")
        return self


class Modules(Section):
    """The kinds of module to train: any, at least one."""

    lora: Lora | None = None
    ia3: Ia3 | None = None
    full: Full | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.chosen():
            raise ValueError("at least one of lora, ia3 and full is needed")
        return self

    def chosen(self) -> dict[str, Full]:
        """The settings by kind."""
        every_kind = {"lora": self.lora, "ia3": self.ia3, "full": self.full}
        return {kind: settings for kind, settings in every_kind.items() if settings is not None}


class Training(Section):
    """The optimiser, for all modules; the defaults are those of the paper's scripts."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_ratio: Share = 0.06
    adam_beta1: Share = 0.9
    adam_beta2: Share = 0.98
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-6
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    report_to: Names = Field(default_factory=list)


class Sweep(Section):
    """An expression with free weights, and how they are searched."""

    expression: str
    weights: dict[WeightName, Annotated[Any, BeforeValidator(_weight_values)]] = Field(min_length=1)
    search: Search = "grid"
    trials: Annotated[int, Field(ge=1, le=10_000)] = 30

    @model_validator(mode="after")
    def _holds_for_all_weights(self) -> Self:
        spans = self.spans()
        with as_value_error():
            if self.search == "grid":
                combinations(spans)
            check_sweep(self.expression, spans)
            unused = set(spans) - used_weights(self.expression, OPERANDS, next(every(spans)))
        if unused:
            raise ValueError(f"the expression does not use `{min(unused)}`")
        return self

    def spans(self) -> dict[str, Span]:
        """The values of every weight."""
        return {name: weight_grid(given) for name, given in self.weights.items()}


class Evaluation(Section):
    """Rows per batch, and per statistic of the methods that need data."""

    batch_size: Positive = 32
    fisher_rows: Positive = 64
    gram_rows: Positive = 200
