"""What a trial is about: a base model with what is asked or written, and a module trained for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.lab.data.rows import Row, Task, Writing
from pemath.lab.encoding import Encoder
from pemath.lab.models import Base, family_of, load_model
from pemath.lab.writing import Writer


@dataclass(frozen=True)
class Setting:
    """The base model and how rows are shown to it; `head_seed` draws a missing head."""

    model: str
    task: Task | Writing
    max_length: int
    dtype: str
    head_seed: int

    @property
    def outputs(self) -> int:
        """The width of the classification head; 0 for a model that answers prompts."""
        if isinstance(self.task, Writing) or family_of(self.model) != "encoder":
            return 0
        return max(1, len(self.task.labels))

    def base(self, pem: str) -> Base:
        """The base model, loaded anew for a module of type `pem`.

        What full fine-tuning changes would be rounded away in half precision: there it is float32.
        """
        dtype = "float32" if pem == "full" else self.dtype
        return load_model(self.model, outputs=self.outputs, seed=self.head_seed, dtype=dtype)

    def base_key(self) -> dict[str, Any]:
        """What determines the base model, for tasks of any prompt."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            "head_seed": self.head_seed,
            "outputs": self.outputs,
            **self._files(),
        }

    def key(self) -> dict[str, Any]:
        """What of it determines a result."""
        return {
            "model": self.model,
            "max_length": self.max_length,
            "dtype": self.dtype,
            "head_seed": self.head_seed,
            **self.task.key(),
            **self._files(),
        }

    def _files(self) -> dict[str, str]:
        """Of a model in a folder the sizes and times of its files: others may come to lie there."""
        folder = Path(self.model)
        if not folder.is_dir():
            return {}
        stamps = [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for file in sorted(folder.iterdir())
            if file.is_file()
        ]
        return {"files": hashlib.sha256(repr(stamps).encode()).hexdigest()}

    def encoder(self, base: Base) -> Encoder | Writer:
        """How rows become inputs of `base`."""
        if isinstance(self.task, Writing):
            return Writer(base, self.task, self.max_length)
        return Encoder(base, self.task, self.max_length)


@dataclass(frozen=True)
class Module:
    """A trained module: its folder, and what its training was (`rows`, `steps`, `train_loss`,
    `seconds`, `trainable`).
    """

    folder: Path
    pem: str
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What determines the module, as the store calls it."""
        return self.folder.name


def digest_of(rows: Sequence[Row]) -> str:
    """A hash of rows in their order, labels included."""
    text = json.dumps([[list(row.texts), row.label] for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:20]
