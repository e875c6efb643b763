"""The statistics of an adapter that lies in a folder, on the rows that it was trained on."""

from __future__ import annotations

from pathlib import Path

from pemath.errors import RequestError
from pemath.formats.peft import PeftFolder
from pemath.kinds import open_adapter
from pemath.lab.data.split import sample
from pemath.lab.modules import attach
from pemath.lab.own.agreement import model_of, subject_of
from pemath.lab.own.card import read_card
from pemath.lab.own.subject import Subject, check_answers, read
from pemath.lab.setting import Setting
from pemath.lab.statistics.batches import Batch
from pemath.lab.statistics.collect import collect
from pemath.names import display
from pemath.references import resolve

_BATCH_ROWS = 16


def measure(
    reference: str,
    *,
    model: str | None = None,
    data: Path | None = None,
    subject: Subject | None = None,
    max_length: int | None = None,
    out: Path | None = None,
    rows: int = 200,
    fisher_rows: int = 64,
) -> Path:
    """Load an adapter into its model, and collect its statistics on rows of the file `data`, or on
    train rows of a known task (never on those that are held out to choose weights on).

    What is not given is taken from the adapter's training.json, where there is one.
    Raises: UsageError, MissingExtra, InputError, OperandError, StorageError.
    """
    if rows < 0 or fisher_rows < 0:
        raise RequestError("numbers of rows cannot be negative")
    folder = resolve(reference).folder
    if out is None and not Path(reference).is_dir():
        raise RequestError(
            f"the folder of `{display(reference)}` is not yours to write into",
            hint="add --out FILE, and compose with --statistics NAME=FILE",
        )
    kind = open_adapter(PeftFolder.open(folder)).kind.name
    card = read_card(folder)
    cards = {} if card is None else {"adapter": card}
    if card is None and kind == "full":
        raise RequestError(
            "it is not known with which head the full fine-tuning began",
            where=display(folder),
            hint="only folders that `pemath train` wrote can be measured",
        )
    chosen = model_of(model, None, max_length, cards)
    given = subject or Subject()
    asked = read(
        subject_of(given, cards, from_files=data is not None),
        {} if data is None else {"train": data},
    )
    check_answers(asked.task, given, chosen)
    seed = 0 if card is None else card.start_seed
    setting = Setting(chosen.name, asked.task, chosen.max_length, chosen.dtype, seed)
    base = setting.base(kind)
    encoder = setting.encoder(base)
    loaded = attach(base, kind, folder)

    def batches(count: int) -> list[Batch]:
        features = [encoder.features(row) for row in sample(asked.parts["train"], count)]
        cuts = range(0, len(features), _BATCH_ROWS)
        return [encoder.collate(features[cut : cut + _BATCH_ROWS]) for cut in cuts]

    return collect(folder, loaded, batches(rows), out, batches(fisher_rows))
