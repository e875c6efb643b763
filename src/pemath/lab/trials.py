"""Trials: modules trained and compositions asked, each done once and kept.

A trial is a pure function of what its key names: the model, the settings, the rows (by their
digest), the seed and the module that it starts from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pemath.lab.data.rows import Row
from pemath.lab.desk import Ask, Desk, Question
from pemath.lab.modules import attach, initialise, parameters_of, save
from pemath.lab.setting import Module, Setting, digest_of
from pemath.lab.store import Store
from pemath.lab.train import Training, train
from pemath.references import STATISTICS
from pemath.threads import Progress, silent

FACTS = "facts.json"


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
        start: int | Module,
    ) -> Module:
        """The module of type `pem` trained on `rows`; `seed` orders them.

        `start` is the seed of its initialisation, which modules share as the same saved tensors, or
        the module whose training is carried on.
        """
        key = {
            **setting.key(),
            "pem": pem,
            "settings": dict(settings),
            "training": asdict(training),
            "rows": digest_of(rows),
            "seed": seed,
            "start": start.digest if isinstance(start, Module) else start,
        }

        def make(folder: Path, scratch: Path) -> None:
            base = setting.base(pem)
            before = parameters_of(base) if pem == "full" else None
            if isinstance(start, Module):
                model = attach(base, pem, start.folder, trainable=True)
            elif pem == "full":
                model = base.model.requires_grad_()
            else:
                begun = self._start(setting, pem, settings, start)
                model = attach(base, pem, begun, trainable=True)
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
            found = {"rows": len(rows), **asdict(facts)}
            (folder / FACTS).write_text(json.dumps(found) + "\n", encoding="utf-8")

        folder = self.store.get("modules", key, make)
        return Module(folder, pem, json.loads((folder / FACTS).read_text(encoding="utf-8")))

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

            base = setting.base(module.pem)
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
        questions: Mapping[str, Question],
        *,
        batch_size: int,
        statistics: Mapping[str, Path] | None = None,
    ) -> Iterator[Ask]:
        """A function that says what an expression over `modules` answers to a question, by its name.

        The base is loaded once for all questions, if anything is to be asked at all, and the
        compositions are swapped into it in place. Equal weights are asked once.
        """
        with TemporaryDirectory(prefix="pemath-") as spare:
            desk = Desk(
                self.store,
                modules,
                questions,
                batch_size=batch_size,
                statistics=statistics or {},
                spare=Path(spare),
                progress=self.progress,
            )
            yield desk.answer

    def _start(
        self, setting: Setting, pem: str, settings: Mapping[str, Any], start_seed: int
    ) -> Path:
        key = {**setting.base_key(), "pem": pem, "settings": dict(settings), "seed": start_seed}

        def make(folder: Path, scratch: Path) -> None:
            initialise(setting.base(pem), pem, dict(settings), start_seed, folder)

        return self.store.get("initialisations", key, make)
