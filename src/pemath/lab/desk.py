"""Where compositions of the same modules are asked, one after the other, each thing once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pemath.errors import Bug
from pemath.lab.evaluate import Host
from pemath.lab.models import Base
from pemath.lab.setting import Module, Setting
from pemath.lab.store import Store
from pemath.references import WEIGHTS
from pemath.threads import Progress

ANSWERS, CERTIFICATE = "answers.json", "certificate.json"

Answer: TypeAlias = Callable[[Any, Progress], list[Any]]  # of a model: one item for every row


class Question(Protocol):
    """What can be asked of any composition: labels of rows, texts after prompts, likelihoods."""

    @property
    def setting(self) -> Setting:
        """The base model, and how rows are shown to it."""

    def key(self) -> dict[str, Any]:
        """What of it determines an answer, as JSON values."""

    def prepare(self, base: Base, batch_size: int) -> Answer:
        """All that can be done once, for every model that is asked."""


@dataclass(frozen=True)
class Answered:
    """What a composition answered to rows, and how far it is from the exact sum: in total and per
    site (None where the expression has no such sum to compare with).
    """

    predictions: list[Any]
    error_to_exact: float | None
    site_errors: Mapping[str, float | None]
    seconds: float


Ask: TypeAlias = Callable[[str, str], Answered]  # expression, name of a question


class Desk:
    """Where the compositions of the same modules are asked, one after the other."""

    def __init__(
        self,
        store: Store,
        modules: Mapping[str, Module],
        questions: Mapping[str, Question],
        *,
        batch_size: int,
        statistics: Mapping[str, Path],
        spare: Path,
        progress: Progress,
    ) -> None:
        self._store, self._modules, self._questions = store, modules, questions
        self._batch_size, self._statistics = batch_size, statistics
        self._progress = progress
        self._composed = spare / "composed"
        self._present = ""  # the weights in the folder above
        self._hosted = ""  # the weights in the host
        self._host: Host | None = None
        self._prepared: dict[str, Answer] = {}

    def answer(self, expression: str, question: str) -> Answered:
        """What the composition answers; raises what composing it raises."""
        certificate = self._certificate(expression)
        weights = certificate.pop("weights")
        asked = {
            **self._questions[question].key(),
            "weights": weights,
            "batch_size": self._batch_size,
        }

        def ask(folder: Path, scratch: Path) -> None:
            if self._present != weights:
                self._compose(expression)
            if self._present != weights:
                raise Bug(f"`{expression}` gave other weights than before")
            _write(folder / ANSWERS, self._ask(question))

        found = self._store.get("answers", asked, ask)
        return Answered(**certificate, **_read(found / ANSWERS))

    def _certificate(self, expression: str) -> dict[str, Any]:
        used = _used(expression, self._modules)
        key = {
            "modules": {name: self._modules[name].digest for name in used},
            "expression": expression,
            "statistics": {n: p.parent.name for n, p in self._statistics.items() if n in used},
        }

        def make(folder: Path, scratch: Path) -> None:
            _write(folder / CERTIFICATE, self._compose(expression))

        return _read(self._store.get("compositions", key, make) / CERTIFICATE)

    def _compose(self, expression: str) -> dict[str, Any]:
        """Compose into the spare folder: the hash of the weights, and the certificate."""
        from pemath.composition.run import compose
        from pemath.formats.files import sha256

        used = _used(expression, self._modules)
        given = {name: str(path) for name, path in self._statistics.items() if name in used}
        certificate = compose(
            expression,
            self._composed,
            operands={name: str(self._modules[name].folder) for name in used},
            force=True,
            heads="average",
            dtype="float32",
            statistics=given,
        ).certificate
        self._present = sha256(self._composed / WEIGHTS)
        return {
            "weights": self._present,
            "error_to_exact": _finite(certificate.error),
            "site_errors": {name: _finite(s.error) for name, s in certificate.sites.items()},
        }

    def _ask(self, question: str) -> dict[str, Any]:
        if self._host is None:
            pem = next(iter(self._modules.values())).pem
            base = next(iter(self._questions.values())).setting.base(pem)
            self._prepared = {
                name: one.prepare(base, self._batch_size) for name, one in self._questions.items()
            }
            self._host = Host(base, pem, self._composed)
            self._hosted = self._present
        started = time.perf_counter()
        if self._hosted != self._present:
            self._host.swap(self._composed)
            self._hosted = self._present
        predictions = self._prepared[question](self._host.model, self._progress)
        return {"predictions": predictions, "seconds": time.perf_counter() - started}


def _used(expression: str, modules: Mapping[str, Module]) -> list[str]:
    """The modules that occur in `expression`, sorted by name."""
    from pemath.expression.parser import parse
    from pemath.expression.tree import occurrences

    folders = {name: str(module.folder) for name, module in modules.items()}
    return sorted({str(operand.name) for operand in occurrences(parse(expression, folders))})


def _finite(number: float) -> float | None:
    return number if number < float("inf") else None


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
