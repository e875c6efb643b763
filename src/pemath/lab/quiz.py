"""The question of a labelled task: which label, or which number?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pemath.lab.data.rows import Row, Task
from pemath.lab.desk import Answer
from pemath.lab.encoding import Encoder
from pemath.lab.evaluate import Questions
from pemath.lab.models import Base
from pemath.lab.setting import Setting, digest_of


@dataclass(frozen=True)
class Quiz:
    """Rows to ask about, and how they are shown to the model. The answers are predictions."""

    setting: Setting
    rows: Sequence[Row]

    @property
    def task(self) -> Task:
        """What is asked. Raises TypeError where the setting is one of writing."""
        task = self.setting.task
        if not isinstance(task, Task):
            raise TypeError("a quiz is about a task with labels")
        return task

    def key(self) -> dict[str, Any]:
        """What of it determines an answer."""
        return {**self.setting.key(), "rows": digest_of(self.rows)}

    def prepare(self, base: Base, batch_size: int) -> Answer:
        """The rows encoded, for every model that is asked."""
        encoder = Encoder(base, self.task, self.setting.max_length)
        return Questions(encoder, self.rows, batch_size).ask
