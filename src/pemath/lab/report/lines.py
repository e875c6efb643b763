"""The lines of a run folder's files, checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Line(BaseModel):
    """What a later version adds is passed over; what is missing is refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskFacts(_Line):
    """What run.json says of a task; `share0` is the first label's share in each half."""

    metric: str
    labels: tuple[str, ...] = ()
    source: str = ""
    train_rows: int = 0
    validation_rows: int = 0
    test_rows: int = 0
    digest: str = ""
    share0: tuple[Finite, Finite] | None = None


class Quality(_Line):
    """How good a scorer is on labelled texts that it was not trained on; all but counts in 0..1."""

    set: str
    rows: int
    positives: int
    auc: Finite
    accuracy: Finite
    above_positives: Finite
    above_negatives: Finite


class ScorerFacts(_Line):
    """What scored texts, and on which sets it was judged; `absent` ones were not at hand."""

    name: str
    title: str
    version: str
    quality: tuple[Quality, ...] = ()
    absent: tuple[str, ...] = ()


class Facts(_Line):
    """run.json."""

    experiment: str
    preset: str | None = None
    command: str = ""
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}
    device: str = ""
    seconds: Finite | None = None
    started: str = ""
    tasks: dict[str, TaskFacts]
    scorer: ScorerFacts | None = None


class Record(_Line):
    """One evaluated composition. `chosen` names the rule by which its weights were chosen, `facts`
    are numbers of all rows together.
    """

    task: str
    pem: str
    seed: int
    initialisation: str = "shared"
    composition: str
    expression: str
    weights: dict[str, Finite] = {}
    part: str
    metric: float
    predictions: tuple[float, ...]
    seconds: float = 0.0
    error_to_exact: float | None = None
    chosen: str = ""
    facts: dict[str, Finite] = {}

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it one of its kind."""
        where = (self.task, self.pem, self.seed, self.initialisation, self.composition, self.part)
        return (*where, self.chosen, tuple(sorted(self.weights.items())))


class Site(_Line):
    """How the modules a and b lie to each other at one site."""

    task: str
    pem: str
    seed: int
    initialisation: str = "shared"
    site: str
    layer: int | None = None
    cosine: float | None = None
    paper_error: float | None = None


class Training(_Line):
    """One training run."""

    task: str
    pem: str
    seed: int
    initialisation: str = "shared"
    part: str
    rows: int
    steps: int
    seconds: float
    train_loss: float | None = None
    trainable: int
