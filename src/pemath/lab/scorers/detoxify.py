"""Detoxify, the scorer of the paper, where its package and its checkpoint can be had.

The checkpoint is a file of torch that runs code when the package loads it: whoever names this scorer
trusts the package's authors. Nothing of it is pinned or checked here but the package's version.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemath.errors import MissingExtra, ReferenceNotFound
from pemath.names import display

BATCH = 32
_NAMES = {"unbiased": "detoxify", "original": "detoxify-original"}
_TRAINED_ON = {"unbiased": "Civil Comments", "original": "Wikipedia comments"}


@dataclass(frozen=True, eq=False)
class DetoxifyScorer:
    """The `toxicity` that one of Detoxify's models gives (Hanu and Unitary team, 2020)."""

    variant: str
    release: str
    model: Any

    unseen = ("toxic/surge", "toxic/hatecheck", "toxic/davidson", "toxic/olid")

    @property
    def name(self) -> str:
        """What recipes call it."""
        return _NAMES[self.variant]

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"Detoxify {self.variant} (BERT-like, trained on {_TRAINED_ON[self.variant]})"

    @property
    def version(self) -> str:
        """The package's version and the model's name."""
        return f"{self.release} {self.variant}"

    def score(self, texts: Sequence[str]) -> list[float]:
        """The probability of toxicity for each text."""
        scores: list[float] = []
        for start in range(0, len(texts), BATCH):
            found = self.model.predict(list(texts[start : start + BATCH]))
            scores.extend(float(score) for score in found["toxicity"])
        return scores


def load_detoxify(data_dir: Path | None = None, *, variant: str = "unbiased") -> DetoxifyScorer:
    """The scorer with the model called `variant`, downloaded by the package where it has to be.

    Raises: MissingExtra (no package), ReferenceNotFound (no checkpoint).
    """
    hint = "pip install --no-deps detoxify; or score with `profanity`, which needs no download"
    try:
        package = importlib.import_module("detoxify")
    except ImportError as missing:
        raise MissingExtra(
            "the scorer Detoxify needs a package that is not installed",
            found=display(missing.name),
            hint=hint,
        ) from missing
    from pemath.lab.models import device

    try:
        model = package.Detoxify(variant, device=device())
    except (OSError, RuntimeError, ValueError) as error:
        raise ReferenceNotFound(
            f"the checkpoint of Detoxify `{variant}` is neither here nor can it be fetched",
            where="torch's folder `hub/checkpoints`, and the hub's cache for its tokenizer",
            found=display(error, 200),
            hint="put there what the package's page links to; or score with `profanity`",
        ) from error
    release = "?"
    with suppress(importlib.metadata.PackageNotFoundError):
        release = importlib.metadata.version("detoxify")
    return DetoxifyScorer(variant, release, model)
