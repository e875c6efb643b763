"""Trials: modules trained and compositions asked, each done once and kept.

A trial is a pure function of what its key names: the model, the settings, the rows (by their
digest), the seed and the module that it starts from.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from pemath.errors import Bug
from pemath.lab.data.rows import Row, Task
from pemath.lab.encoding import Encoder
from pemath.lab.evaluate import Host, Prediction, Questions
from pemath.lab.models import Base, family_of, load_model
from pemath.lab.modules import attach, initialise, parameters_of, save
from pemath.lab.store import Store
from pemath.lab.train import Training, train
from pemath.references import STATISTICS, WEIGHTS
from pemath.threads import Progress, silent

FACTS, ANSWERS, CERTIFICATE = "facts.json", "answers.json", "certificate.json"


@dataclass(frozen=True)
class Setting:
    """The base model and how rows of a task are shown to it; `head_seed` draws a missing head."""

    model: str
    task: Task
    max_length: int
    dtype: str
    head_seed: int

    @property
    def outputs(self) -> int:
        """The width of the classification head; 0 for a model that answers prompts."""
        return max(1, len(self.task.labels)) if family_of(self.model) == "encoder" else 0

    def base(self) -> Base:
        """The base model, loaded anew."""
        return load_model(self.model, outputs=self.outputs, seed=self.head_seed, dtype=self.dtype)

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
            "labels": list(self.task.labels),
            "prompt": self.task.prompt,
            "words": list(self.task.words),
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

    def encoder(self, base: Base) -> Encoder:
        """How rows become inputs of `base`."""
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


@dataclass(frozen=True)
class Quiz:
    """Rows to ask about, and how they are shown to the model."""

    setting: Setting
    rows: Sequence[Row]

    def key(self) -> dict[str, Any]:
        """What of it determines an answer."""
        return {**self.setting.key(), "rows": digest_of(self.rows)}


@dataclass(frozen=True)
class Answered:
    """What a composition answered to rows, and how far it is from the exact sum: in total and per
    site (None where the expression has no such sum to compare with).
    """

    predictions: list[Prediction]
    error_to_exact: float | None
    site_errors: Mapping[str, float | None]
    seconds: float


Ask: TypeAlias = Callable[[str, str], Answered]  # expression, name of a quiz


@dataclass(frozen=True)
class Trials:
    """Trains and asks, through a store. `report_to` names the trackers that transformers logs to."""

    store: Store
    report_to: Sequence[str] = ()
    progress: Progress = silent

    def module(
        self,
        setting: Setting,
        pem: str,
        settings: Mapping[str, Any],
        training: Training,
        rows: Sequence[Row],
        *,
        seed: int,
        start_seed: int,
    ) -> Module:
        """The module of type `pem` trained on `rows`, from the initialisation of `start_seed`.

        All modules with one `start_seed` begin with the same saved tensors. `seed` orders the rows.
        """
        start = None if pem == "full" else self._start(setting, pem, settings, start_seed)
        key = {
            **setting.key(),
            "pem": pem,
            "settings": dict(settings),
            "training": asdict(training),
            "rows": digest_of(rows),
            "seed": seed,
            "start": start_seed,
        }

        def make(folder: Path, scratch: Path) -> None:
            base = setting.base()
            before = parameters_of(base) if start is None else None
            if start is None:
                model = base.model.requires_grad_()
            else:
                model = attach(base, pem, start, trainable=True)
            facts = train(
                model,
                setting.encoder(base),
                rows,
                training,
                seed=seed,
                scratch=scratch,
                report_to=self.report_to,
                progress=self.progress,
            )
            save(model, base, folder, before)
            _write(folder / FACTS, {"rows": len(rows), **asdict(facts)})

        folder = self.store.get("modules", key, make)
        return Module(folder, pem, _read(folder / FACTS))

    def statistics(
        self,
        setting: Setting,
        module: Module,
        rows: Sequence[Row],
        *,
        gram_rows: int,
        fisher_rows: int,
        batch_size: int,
    ) -> Path:
        """The Gram matrices of `module` on the first `gram_rows` of `rows`, and its Fisher
        information on the first `fisher_rows`, as a file.
        """
        key = {
            **setting.key(),
            "module": module.digest,
            "rows": digest_of(rows[: max(gram_rows, fisher_rows)]),
            "gram_rows": gram_rows,
            "fisher_rows": fisher_rows,
            "batch_size": batch_size,
        }

        def make(folder: Path, scratch: Path) -> None:
            from pemath.lab.statistics.collect import collect

            base = setting.base()
            model = attach(base, module.pem, module.folder, trainable=True)
            encoder = setting.encoder(base)

            def batches(count: int) -> list[dict[str, Any]]:
                features = [encoder.features(row) for row in rows[:count]]
                cuts = range(0, len(features), batch_size)
                return [encoder.collate(features[cut : cut + batch_size]) for cut in cuts]

            collect(
                module.folder,
                model,
                batches(gram_rows),
                folder / STATISTICS,
                batches(fisher_rows),
            )

        return self.store.get("statistics", key, make) / STATISTICS

    @contextmanager
    def asking(
        self,
        modules: Mapping[str, Module],
        quizzes: Mapping[str, Quiz],
        *,
        batch_size: int,
        statistics: Mapping[str, Path] | None = None,
    ) -> Iterator[Ask]:
        """A function that says what an expression over `modules` answers to a quiz, by its name.

        The base is loaded once for all quizzes, if anything is to be asked at all, and the
        compositions are swapped into it in place. Equal weights are asked once.
        """
        with TemporaryDirectory(prefix="pemath-") as spare:
            desk = _Desk(
                self,
                modules,
                quizzes,
                batch_size=batch_size,
                statistics=statistics or {},
                spare=Path(spare),
            )
            yield desk.answer

    def _start(
        self, setting: Setting, pem: str, settings: Mapping[str, Any], start_seed: int
    ) -> Path:
        key = {**setting.base_key(), "pem": pem, "settings": dict(settings), "seed": start_seed}

        def make(folder: Path, scratch: Path) -> None:
            initialise(setting.base(), pem, dict(settings), start_seed, folder)

        return self.store.get("initialisations", key, make)


class _Desk:
    """Where the compositions of the same modules are asked, one after the other."""

    def __init__(
        self,
        trials: Trials,
        modules: Mapping[str, Module],
        quizzes: Mapping[str, Quiz],
        *,
        batch_size: int,
        statistics: Mapping[str, Path],
        spare: Path,
    ) -> None:
        self._trials, self._modules, self._quizzes = trials, modules, quizzes
        self._batch_size, self._statistics = batch_size, statistics
        self._composed = spare / "composed"
        self._present = ""  # the weights in the folder above
        self._hosted = ""  # the weights in the host
        self._host: Host | None = None
        self._questions: dict[str, Questions] = {}

    def answer(self, expression: str, quiz: str) -> Answered:
        certificate = self._certificate(expression)
        weights = certificate.pop("weights")
        asked = {**self._quizzes[quiz].key(), "weights": weights, "batch_size": self._batch_size}

        def ask(folder: Path, scratch: Path) -> None:
            if self._present != weights:
                self._compose(expression)
            if self._present != weights:
                raise Bug(f"`{expression}` gave other weights than before")
            _write(folder / ANSWERS, self._ask(quiz))

        found = self._trials.store.get("answers", asked, ask)
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

        return _read(self._trials.store.get("compositions", key, make) / CERTIFICATE)

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

    def _ask(self, quiz: str) -> dict[str, Any]:
        if self._host is None:
            base = next(iter(self._quizzes.values())).setting.base()
            self._questions = {
                name: Questions(one.setting.encoder(base), one.rows, self._batch_size)
                for name, one in self._quizzes.items()
            }
            self._host = Host(base, next(iter(self._modules.values())).pem, self._composed)
            self._hosted = self._present
        started = time.perf_counter()
        if self._hosted != self._present:
            self._host.swap(self._composed)
            self._hosted = self._present
        predictions = self._questions[quiz].ask(self._host.model, self._trials.progress)
        return {"predictions": predictions, "seconds": time.perf_counter() - started}


def _used(expression: str, modules: Mapping[str, Module]) -> list[str]:
    """The modules that occur in `expression`, sorted by name."""
    from pemath.expression.parser import parse
    from pemath.expression.tree import occurrences

    folders = {name: str(module.folder) for name, module in modules.items()}
    return sorted({str(operand.name) for operand in occurrences(parse(expression, folders))})


def digest_of(rows: Sequence[Row]) -> str:
    """A hash of rows in their order, labels included."""
    text = json.dumps([[list(row.texts), row.label] for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _finite(number: float) -> float | None:
    return number if number < float("inf") else None


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
