"""Batches: tables of tensors that a model is called with, and what else it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Batch = Mapping[str, Any]
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


def rows_of(batch: Batch) -> Iterator[Batch]:
    """Each row of a batch as a batch of one, without the padding behind its text; what is no tensor
    goes with each.
    """
    mask = batch.get("attention_mask")
    # A label for every token would have to be cut as well, or not, as the model is.
    if mask is not None and batch["labels"].shape == mask.shape:
        mask = None
    for index in range(len(batch["input_ids"])):
        row = {k: v[index : index + 1] if hasattr(v, "ndim") else v for k, v in batch.items()}
        if mask is not None:
            width = int(mask[index].nonzero().max()) + 1
            row |= {k: row[k][:, :width] for k in _TEXT if k in row}
        yield row
