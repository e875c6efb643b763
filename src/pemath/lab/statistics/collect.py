"""What data-driven methods need to know about an adapter, measured with its model on a few rows.

Gram matrices as in Jin et al. 2023 (RegMean, arXiv 2212.09849), diagonal Fisher information as in
Matena and Raffel 2022 (arXiv 2111.09832). The format is `pemath.methods._statistics`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pemath.errors import StorageError
from pemath.formats.files import sha256
from pemath.formats.peft import PeftFolder
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.kinds import open_adapter
from pemath.lab.models import quiet
from pemath.lab.statistics.batches import Batch
from pemath.lab.statistics.information import fisher_information
from pemath.lab.statistics.moments import gram_matrices
from pemath.names import display
from pemath.references import STATISTICS, WEIGHTS


def collect(
    folder: Path,
    model: Any,
    batches: Iterable[Batch],
    out: Path | None = None,
    fisher_batches: Iterable[Batch] = (),
    *,
    seed: int = 0,
) -> Path:
    """Measure the adapter in `folder`, which is loaded in `model`, and write its statistics file.

    `model` is the PEFT model, or the plain one for full deltas; batches are what it is called with,
    labels included. `batches` give the Gram matrices, `fisher_batches` the Fisher information
    (none: it is left out); `seed` is for tokens that a generative model samples. `out` defaults to
    the file in `folder` that compose finds by itself. Raises: LayoutError, InputError.
    """
    adapter = open_adapter(PeftFolder.open(folder))
    target = folder / STATISTICS if out is None else out
    with _measuring(model):
        grams, rows, tokens = gram_matrices(adapter, model, batches)
        fisher, fisher_rows = fisher_information(adapter, model, fisher_batches, seed)
    metadata = {
        "adapter": sha256(folder / WEIGHTS),
        "rows": str(rows),
        "tokens": str(tokens),
        "fisher_rows": str(fisher_rows),
        "seed": str(seed),
    }
    _write(target, {**grams, **fisher}, metadata)
    return target


@contextmanager
def _measuring(model: Any) -> Iterator[None]:
    """The model without dropout; afterwards as it was, its gradients too."""
    training = model.training
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        with quiet():
            yield
    finally:
        model.train(training)
        for parameter, trained in wanted:
            parameter.requires_grad_(trained)


def _write(target: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write the file whole or not at all, in float32; the same bytes for the same numbers."""
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    specs = [Spec(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()]
    try:
        writer = TensorWriter(staging, specs, metadata)
        try:
            for name, tensor in tensors.items():
                writer.write(name, tensor.float().cpu().numpy())
            writer.close()
            staging.replace(target)
        finally:
            writer.abandon()
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write the statistics: {error.strerror}", where=display(target)
        ) from None
