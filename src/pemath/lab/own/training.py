"""One module of one's own, trained on one file or on a known task."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pemath
from pemath.errors import RequestError
from pemath.formats.commit import check_target, staged
from pemath.lab.models import require
from pemath.lab.own.card import Card, card_of, write_card
from pemath.lab.own.subject import Subject, check_answers, read, refuse, validated
from pemath.lab.recipes.sections import Full, Ia3, Lora, Model
from pemath.lab.recipes.sections import Training as Optimiser
from pemath.lab.setting import Setting, digest_of
from pemath.lab.store import Store
from pemath.lab.train import Training, check_trackers
from pemath.lab.trials import Trials
from pemath.names import display
from pemath.references import CONFIG, WEIGHTS
from pemath.threads import Progress, silent

SECTIONS: Mapping[str, type[Full]] = {"lora": Lora, "ia3": Ia3, "full": Full}
EPOCHS = 3.0
_LARGEST_SEED = 1 << 32


@dataclass(frozen=True)
class Trained:
    """A trained module: its folder, what is kept about it, and what its training was (`rows`,
    `steps`, `train_loss`, `seconds`, `trainable`).
    """

    folder: Path
    pem: str
    card: Card
    facts: Mapping[str, Any]


def train(
    out: str | os.PathLike[str],
    *,
    model: str,
    data: str | os.PathLike[str] | None = None,
    subject: Subject | None = None,
    pem: str = "lora",
    settings: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    max_length: int = 128,
    seed: int = 0,
    start_seed: int = 0,
    report_to: Sequence[str] = (),
    store: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train a module on all rows of the file `data`, or on the train rows of a known task.

    `settings` are those of the module and its training: rank, alpha, dropout, target_modules,
    learning_rate, epochs, max_steps, batch_size. Modules with one `start_seed` begin with the same
    tensors, which are kept in `store` (without it, the folder `store` beside `out`); `seed` orders
    the rows. Raises: UsageError, InputError, StorageError.
    """
    target, subject = Path(os.path.abspath(out)), subject or Subject()
    check_target(target, force=force)
    chosen, base, optimiser = _checked(
        pem,
        {"epochs": EPOCHS, **(settings or {})},
        {"name": model, "dtype": dtype, "max_length": max_length},
        report_to,
    )
    require("torch", "transformers", "peft", "accelerate")
    check_trackers(report_to)
    for number in (seed, start_seed):
        if not 0 <= number < _LARGEST_SEED:
            raise RequestError("a seed lies between 0 and 2^32", found=number)
    asked = read(subject, {} if data is None else {"train": Path(data)})
    check_answers(asked.task, subject, base)
    # The head that an encoder lacks is a part of the start.
    setting = Setting(base.name, asked.task, max_length, dtype, start_seed)
    rows = asked.parts["train"]
    options = {**optimiser.model_dump(exclude={"report_to"}), **chosen.training()}
    module = Trials(
        Store(Path(store) if store is not None else target.parent / "store"),
        tuple(report_to),
        progress,
    ).module(
        setting,
        pem,
        chosen.shape(),
        Training(**options),
        rows,
        seed=seed,
        start=start_seed,
    )
    name = os.path.abspath(base.name) if Path(base.name).is_dir() else base.name
    card = card_of(
        subject,
        asked.task,
        model=name,
        dtype=dtype,
        max_length=max_length,
        start_seed=start_seed,
    )
    with staged(target, force=force) as folder:
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(module.folder / file, folder / file)
        write_card(
            folder,
            card,
            pem=pem,
            data=None if data is None else Path(data).name,
            rows_digest=digest_of(rows),
            seed=seed,
            settings=chosen.shape(),
            training=options,
            facts=dict(module.facts),
            pemath=pemath.__version__,
        )
    return Trained(target, pem, card, module.facts)


def _checked(
    pem: str,
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    report_to: Sequence[str],
) -> tuple[Full, Model, Optimiser]:
    """The settings, all their mistakes refused at once. Raises: RequestError."""
    if pem not in SECTIONS:
        raise RequestError(
            f"there is no module type `{display(pem)}`", expected=", ".join(SECTIONS)
        )
    found: list[str] = []
    foreign = [name for name in settings if name not in SECTIONS[pem].model_fields]
    found += [f"--{name.replace('_', '-')}: {pem} has no such setting" for name in foreign]
    known = {name: value for name, value in settings.items() if name not in foreign}
    chosen = validated(SECTIONS[pem], known, found)
    base = validated(Model, model, found)
    optimiser = validated(Optimiser, {"report_to": list(report_to)}, found)
    refuse(found)
    assert chosen is not None and base is not None and optimiser is not None  # noqa: PT018, S101
    return chosen, base, optimiser
