"""What an estimate consists of: rows, lines of work, kept files, and what they add up to.

The rule for arithmetic, with N working parameters (`sizes.ModelSize`): 2·N operations per token
forwards, 2·N backwards through frozen weights, 4·N through trained ones. An adapter's own
parameters and the attention scores are left out; they are a few percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from pemath.lab.estimate.model_sizes import ModelSize

Amount = int | None  # None: not known without the data or the model

BYTES = 4  # of a number in the store: float32
FORWARD, THROUGH_FROZEN, THROUGH_TRAINED = 2, 2, 4  # operations per token and parameter

# Operations per second of one core in float32, by work: MiniLM forwards at 3,800 tokens/s, LoRA
# training at 1,700, full fine-tuning at 1,000; SmolLM2 and MPNet agree within a fifth.
CORE_RATES = {"adapters": 72e9, "full": 64e9, "forward": 80e9}
BFLOAT16_FASTER = 1.7
# A step on a core, beside its arithmetic: Python, and AdamW for every trained parameter.
CORE_STEP_SECONDS, ADAMW_SECONDS = 0.03, 5e-9
# Of one GPU: assumed, not measured. Small batches are bound by launching, so a step has a floor.
GPU_RATE = 25e12
GPU_STEP_SECONDS, GPU_BATCH_SECONDS = 0.06, 0.02
# Loading, setting up and saving, per module; composing and swapping, per composition and byte.
MODULE_SECONDS, COMPOSE_SECONDS, COMPOSE_SECONDS_PER_BYTE = 2.0, 0.1, 1e-8

RULES = (
    f"operations per token and working parameter: {FORWARD} forwards, {THROUGH_FROZEN} backwards "
    f"through frozen weights, {THROUGH_TRAINED} through trained ones",
    f"a core does {CORE_RATES['adapters'] / 1e9:.0f} GFLOP/s in float32 training adapters, "
    f"{CORE_RATES['full'] / 1e9:.0f} in full fine-tuning, {CORE_RATES['forward'] / 1e9:.0f} "
    f"otherwise, and {BFLOAT16_FASTER} times that in bfloat16 (measured on small models, the machine "
    "idle); k cores take a k-th of the time",
    f"a GPU is assumed to do {GPU_RATE / 1e12:.0f} TFLOP/s, and to need {GPU_STEP_SECONDS} s for a "
    f"training step and {GPU_BATCH_SECONDS} s for another batch at least",
)


def product(*factors: float | None) -> Amount:
    """The product, rounded; unknown if a factor is."""
    known = [factor for factor in factors if factor is not None]
    return round(math.prod(known)) if len(known) == len(factors) else None


def total(amounts: Iterable[Amount]) -> Amount:
    """The sum; unknown if a summand is."""
    found = list(amounts)
    known = [amount for amount in found if amount is not None]
    return sum(known) if len(known) == len(found) else None


def least(*amounts: Amount) -> Amount:
    """The smallest of those known."""
    return min((amount for amount in amounts if amount is not None), default=None)


class Both(NamedTuple):
    """An amount at most, and as it likely is."""

    most: Amount
    likely: Amount

    def times(self, *factors: float | None) -> Both:
        """Both of them multiplied."""
        return Both(product(self.most, *factors), product(self.likely, *factors))

    def plus(self, other: Both) -> Both:
        """The sums of both."""
        return Both(total((self.most, other.most)), total((self.likely, other.likely)))


@dataclass(frozen=True)
class Rows:
    """Rows of a task: per module, held out, and asked. `all_of` names the parts taken whole. Of
    texts, what is written or read are rows too.
    """

    task: str
    train: Amount
    validation: Amount
    test: Amount
    all_of: tuple[str, ...]
    tokens: Amount  # of a usual row, at most the recipe's max_length


@dataclass(frozen=True)
class Line:
    """One sort of work of one kind of module on one task, with everything that it adds up to.

    `work` is train, choose (the candidates of a grid, on the validation rows), evaluate, write,
    read (how likely texts are), gram or fisher (the statistics of data-driven methods). `part` is
    that of the module, or of the rows. `steps` are batches where nothing is trained, and batches of
    a token each where texts are written. `tokens` is at most, `likely` by the usual length of a row.
    """

    work: str
    pem: str
    task: str
    part: str
    times: int
    rows: Amount
    steps: Amount
    tokens: Amount
    likely: Amount
    operations: Amount
    likely_operations: Amount

    def __add__(self, other: Line) -> Line:
        """Both together, of the same work and kind; `rows` are the larger's."""
        rows = (self.rows or 0, other.rows or 0)
        return Line(
            work=self.work,
            pem=self.pem,
            task=self.task if self.task == other.task else "",
            part=self.part if self.part == other.part else "",
            times=self.times + other.times,
            rows=None if None in (self.rows, other.rows) else max(rows),
            steps=total((self.steps, other.steps)),
            tokens=total((self.tokens, other.tokens)),
            likely=total((self.likely, other.likely)),
            operations=total((self.operations, other.operations)),
            likely_operations=total((self.likely_operations, other.likely_operations)),
        )

    def seconds(self, dtype: str, *, likely: bool) -> tuple[float | None, float | None]:
        """On one core, and on one GPU."""
        operations = self.likely_operations if likely else self.operations
        if operations is None or self.steps is None:
            return None, None
        faster = BFLOAT16_FASTER if dtype == "bfloat16" else 1.0
        training = "full" if self.pem == "full" else "adapters"
        rate = CORE_RATES[training if self.work == "train" else "forward"]
        floor = GPU_STEP_SECONDS if self.work == "train" else GPU_BATCH_SECONDS
        return operations / rate / faster, max(operations / GPU_RATE, self.steps * floor)


_COSTS = ("tokens", "likely", "operations", "likely_operations")


@dataclass(frozen=True)
class Kept:
    """What the store keeps of one kind of module: all that are trained, candidates of a grid too,
    the initialisations that they start from, and statistics.
    """

    pem: str
    candidates: int
    modules: int
    starts: int
    trainable: Amount
    module_bytes: Amount
    statistics: int
    statistics_bytes: Amount
    compositions: int  # made and swapped in, not kept

    @property
    def bytes(self) -> Amount:
        """Everything of this kind."""
        together = (
            product(self.modules + self.starts, self.module_bytes),
            product(self.statistics, self.statistics_bytes) if self.statistics else 0,
        )
        return total(together)


@dataclass(frozen=True)
class Estimate:
    """What carrying out a recipe would do; numbers are at most where it does not say `likely`."""

    experiment: str
    model: str
    size: ModelSize | None
    dtype: str
    seeds: int
    cells: int
    rows: tuple[Rows, ...]
    lines: tuple[Line, ...] = field(repr=False)
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]

    def summed(self) -> list[Line]:
        """The lines added up over tasks and parts: one for each work and kind of module."""
        found: dict[tuple[str, str], Line] = {}
        for line in self.lines:
            key = (line.work, line.pem)
            found[key] = found[key] + line if key in found else line
        return list(found.values())

    def hours(self, *, likely: bool) -> tuple[float | None, float | None]:
        """On one core (k cores take a k-th), and on one GPU. None where a size is not known."""
        core, gpu = self._core_steps_seconds() + self._seconds_aside(), self._seconds_aside()
        for line in self.lines:
            on_core, on_gpu = line.seconds(self.dtype, likely=likely)
            if on_core is None or on_gpu is None:
                return None, None
            core, gpu = core + on_core, gpu + on_gpu
        return core / 3600, gpu / 3600

    def total(self, name: str) -> Amount:
        """One of the numbers of `Line`, over everything."""
        return total(getattr(line, name) for line in self.lines)

    @property
    def bytes(self) -> Amount:
        """What the store keeps."""
        return total(kept.bytes for kept in self.kept)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        (core, gpu), (core_most, gpu_most) = self.hours(likely=True), self.hours(likely=False)
        return {
            "experiment": self.experiment,
            "model": self.model,
            "parameters": self.size and self.size.parameters,
            "working_parameters": self.size and self.size.working,
            "size_from": self.size and self.size.source,
            "seeds": self.seeds,
            "cells": self.cells,
            "rows": [{**asdict(rows), "all_of": list(rows.all_of)} for rows in self.rows],
            "work": [asdict(line) for line in self.lines],
            "modules": [{**asdict(kept), "bytes": kept.bytes} for kept in self.kept],
            "total": {
                **{name: self.total(name) for name in _COSTS},
                "bytes": self.bytes,
                "core_hours": _rounded(core),
                "core_hours_at_most": _rounded(core_most),
                "gpu_hours": _rounded(gpu),
                "gpu_hours_at_most": _rounded(gpu_most),
            },
            "notes": list(self.notes),
            "rules": list(RULES),
        }

    def _core_steps_seconds(self) -> float:
        """What training steps take on a core beside their arithmetic."""
        each = {k.pem: CORE_STEP_SECONDS + ADAMW_SECONDS * (k.trainable or 0) for k in self.kept}
        return sum(
            each[line.pem] * (line.steps or 0) for line in self.lines if line.work == "train"
        )

    def _seconds_aside(self) -> float:
        """What is neither training nor asking; an adapter of unknown size counts as a small one."""
        seconds = 0.0
        for kept in self.kept:
            each = COMPOSE_SECONDS + (kept.module_bytes or 0) * COMPOSE_SECONDS_PER_BYTE
            seconds += kept.modules * MODULE_SECONDS + kept.compositions * each
        return seconds


def _rounded(hours: float | None) -> float | None:
    return None if hours is None else round(hours, 4)
