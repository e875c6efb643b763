"""Operands with the rows that they are asked about, and one loaded model to ask them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from pemath.errors import LayoutError, RequestError
from pemath.lab.data.rows import Row
from pemath.lab.desk import Answered, Ask
from pemath.lab.models import family_of, require
from pemath.lab.own.agreement import agreed, check_labels, held_out_alike, model_of, subject_of
from pemath.lab.own.card import Card, card_of
from pemath.lab.own.operands import (
    Foreign,
    base_notes,
    check_expression,
    check_head,
    open_operands,
)
from pemath.lab.own.subject import Asked, Subject, check_answers, read, refuse, validated
from pemath.lab.quiz import Quiz
from pemath.lab.recipes.sections import Evaluation
from pemath.lab.setting import Setting
from pemath.lab.store import Store
from pemath.lab.trials import Trials
from pemath.names import display
from pemath.threads import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How operands are asked. What is None is taken from their own records, where they have some:
    `model`, `dtype`, `max_length`, and `start_seed` (it drew the head that full fine-tuning began
    with). `store` keeps the answers for another time.
    """

    model: str | None = None
    dtype: str | None = None
    max_length: int | None = None
    start_seed: int | None = None
    batch_size: int = 32
    statistics: Mapping[str, str] = field(default_factory=dict)
    store: Path | None = None
    progress: Progress = silent


@dataclass(frozen=True)
class Bench:
    """Operands that were checked, with the rows that they are to be asked about."""

    modules: Mapping[str, Foreign]
    setting: Setting
    subject: Subject
    asked: Asked
    asking: Asking
    notes: tuple[str, ...]

    @contextmanager
    def ask(self) -> Iterator[Ask]:
        """A function that says what an expression answers to a part of the rows."""
        quizzes = {part: Quiz(self.setting, rows) for part, rows in self.asked.parts.items()}
        statistics = {name: Path(file) for name, file in self.asking.statistics.items()}
        with TemporaryDirectory(prefix="pemath-") as spare:
            trials = Trials(Store(self.asking.store or Path(spare)), (), self.asking.progress)
            size = self.asking.batch_size
            with trials.asking(
                self.modules, quizzes, batch_size=size, statistics=statistics
            ) as asked:
                yield self._fitting(asked)

    def card(self) -> Card:
        """What a module made of these is to be asked, and on which model."""
        setting = self.setting
        return card_of(
            self.subject,
            self.asked.task,
            model=setting.model,
            dtype=setting.dtype,
            max_length=setting.max_length,
            start_seed=setting.head_seed,
        )

    def rows(self, part: str) -> Sequence[Row]:
        """The rows of a part."""
        return self.asked.parts[part]

    def _fitting(self, ask: Ask) -> Ask:
        """The same, but the composition's own folder, which nobody knows, is in no refusal."""

        def answer(expression: str, quiz: str) -> Answered:
            try:
                return ask(expression, quiz)
            except LayoutError as error:
                raise LayoutError(
                    f"`{display(expression)}` does not fit `{display(self.setting.model)}`",
                    found=error.found,
                    hint="ask it on the model that it was trained on",
                ) from None

        return answer


def prepare(
    expressions: Sequence[str],
    bound: Mapping[str, str],
    subject: Subject,
    files: dict[str, Path],
    asking: Asking,
    *,
    chooses: bool = False,
    labelled: bool = True,
) -> Bench:
    """Open and check everything that can be checked before the model is loaded.

    `expressions` over the names in `bound` are those that will be asked, or some of them; `chooses`
    says that they are also chosen from, on the validation part. Without `labelled` the first of two
    files, or the only one, needs no column of labels.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    mistakes: list[str] = []
    validated(Evaluation, {"batch_size": asking.batch_size}, mistakes)
    refuse(mistakes)
    modules = open_operands(bound, asking.statistics)
    for expression in expressions:
        check_expression(expression, modules, asking.statistics)
    cards = {name: one.card for name, one in modules.items() if one.card is not None}
    require("torch", "transformers", "peft")
    model = model_of(asking.model, asking.dtype, asking.max_length, cards)
    has_head = family_of(model.name) == "encoder"
    if has_head:
        check_labels(subject.labels, cards)
    whole = subject_of(subject, cards, from_files=bool(files))
    if chooses:
        whole = held_out_alike(whole, cards)
    asked = read(whole, files, labelled=labelled)
    check_answers(asked.task, subject, model)
    if has_head:
        check_labels(asked.task.labels, cards)
        for name, module in modules.items():
            check_head(name, module, max(1, len(asked.task.labels)))
    seed = agreed(asking.start_seed, cards, "start_seed")
    if seed is None and has_head and next(iter(modules.values())).pem == "full":
        raise RequestError(
            "it is not known with which head the full fine-tuning began",
            hint="add --start-seed with the number that it was trained with (0 unless it was named)",
        )
    setting = Setting(model.name, asked.task, model.max_length, model.dtype, seed or 0)
    notes = (*base_notes(modules, model.name), *asked.notes)
    return Bench(modules, setting, whole, asked, asking, notes)
