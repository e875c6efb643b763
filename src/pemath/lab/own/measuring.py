"""The statistics of an adapter that lies in a folder, on rows of a known task."""

from __future__ import annotations

from pathlib import Path

from pemath.errors import RequestError
from pemath.formats.peft import PeftFolder
from pemath.kinds import open_adapter
from pemath.lab.data import tasks
from pemath.lab.data.split import sample
from pemath.lab.modules import attach
from pemath.lab.statistics.batches import Batch
from pemath.lab.statistics.collect import collect
from pemath.lab.trials import Setting
from pemath.names import display
from pemath.references import resolve


def measure(
    reference: str,
    model: str,
    task: str,
    *,
    data_dir: Path | None = None,
    out: Path | None = None,
    rows: int = 200,
    fisher_rows: int = 64,
    max_length: int = 128,
) -> Path:
    """Load an adapter into its model, and collect its statistics on train rows of a known task.

    Raises: RequestError, MissingExtra, InputError, StorageError.
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
    data = tasks.load_task(task, data_dir=data_dir)
    setting = Setting(model, data.task, max_length, "float32", 0)
    base = setting.base()
    encoder = setting.encoder(base)
    loaded = attach(base, kind, folder)

    def batches(count: int) -> list[Batch]:
        features = [encoder.features(row) for row in sample(data.train, count)]
        return [
            encoder.collate(features[start : start + 16]) for start in range(0, len(features), 16)
        ]

    return collect(folder, loaded, batches(rows), out, batches(fisher_rows))
