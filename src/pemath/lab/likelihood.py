"""How likely a model finds given texts, per row or per window: perplexities with intervals.

Every answer is a pair: the negative log-likelihood in nats, and the tokens that it is summed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pemath.lab.data.rows import Row
from pemath.lab.desk import Answer
from pemath.lab.encoding import IGNORED
from pemath.lab.models import Base, on_device_of
from pemath.lab.perplexity import windows
from pemath.lab.setting import Setting, digest_of
from pemath.lab.writing import Writer
from pemath.threads import Progress


@dataclass(frozen=True)
class Likelihood:
    """How likely every row's text is after its prompt. The setting is one of writing."""

    setting: Setting
    rows: Sequence[Row]

    def key(self) -> dict[str, Any]:
        """What of it determines an answer."""
        return {**self.setting.key(), "likelihood": digest_of(self.rows)}

    def prepare(self, base: Base, batch_size: int) -> Answer:
        """The rows encoded, for every model that is asked."""
        encoder = self.setting.encoder(base)
        if not isinstance(encoder, Writer):
            raise TypeError("a likelihood is that of texts, not of labels")
        features = [encoder.features(row) for row in self.rows]
        order = sorted(range(len(features)), key=lambda i: (len(features[i]["input_ids"]), i))
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

        def answer(model: Any, progress: Progress) -> list[Any]:
            found: list[Any] = [None] * len(features)
            for done, part in enumerate(parts):
                batch = on_device_of(model)(encoder.collate([features[i] for i in part]))
                for position, pair in zip(part, _summed(base, model, batch), strict=True):
                    found[position] = pair
                progress("reading", done + 1, len(parts))
            return found

        return answer


@dataclass(frozen=True)
class Reading:
    """How likely a running text is, or its first `tokens`, per window: see `perplexity`."""

    setting: Setting
    text: str
    window: int
    stride: int
    tokens: int | None = None

    def key(self) -> dict[str, Any]:
        """What of it determines an answer."""
        text = digest_of([Row((self.text,), 0)])
        span = {"window": self.window, "stride": self.stride, "tokens": self.tokens}
        return {**self.setting.key(), "reading": text, **span}

    def prepare(self, base: Base, batch_size: int) -> Answer:
        """A function that reads the text, a window at a time."""

        def answer(model: Any, progress: Progress) -> list[Any]:
            found = windows(
                base,
                model,
                self.text,
                window=self.window,
                stride=self.stride,
                tokens=self.tokens,
                progress=progress,
            )
            return [list(pair) for pair in found]

        return answer


def _summed(base: Base, model: Any, batch: dict[str, Any]) -> list[list[float]]:
    """The summed loss and the number of counted tokens of every row of a batch."""
    import torch

    labels = batch["labels"]
    with torch.inference_mode():
        if base.family == "seq2seq":
            logits = model(**batch).logits
        else:  # what stands at a position is predicted at the one before
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            logits, labels = model(**inputs).logits[:, :-1], labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    sums, counts = losses.double().sum(1), (labels != IGNORED).sum(1)
    return [[float(s), int(n)] for s, n in zip(sums, counts, strict=True)]
