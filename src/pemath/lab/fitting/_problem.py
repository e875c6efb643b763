"""What is made small: a loss over rows, as a function of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pemath.lab.evaluate import Questions
from pemath.lab.fitting._blend import Blend
from pemath.threads import Progress


def cross_entropy(scores: Any, labels: Any) -> Any:
    """−log p(label) of each row; of a regression the squared error."""
    import torch

    if labels.is_floating_point():
        return (scores.squeeze(-1) - labels) ** 2
    return torch.nn.functional.cross_entropy(scores, labels, reduction="none")


def entropy(scores: Any, labels: Any) -> Any:
    """−Σ p log p over the labels of each row; what the label is does not matter."""
    logs = scores.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


@dataclass(eq=False)
class Problem:
    """Rows on a model with a weighted sum of modules in it, and the loss of the method.

    `start` are equal weights [operands, groups]; `names` those of the operands. `evaluations` counts
    passes over all rows, forwards only or with gradients.
    """

    blend: Blend
    questions: Questions
    labels: Any
    measure: Callable[[Any, Any], Any]
    penalty: Callable[[Any], Any]
    start: Any
    names: Sequence[str]
    seed: int
    progress: Progress
    evaluations: float = field(default=0.0, init=False)

    def loss(self, weights: Any) -> float:
        """The mean over all rows at `weights`, with the penalty."""
        import torch

        with torch.inference_mode():
            self.blend.put(weights)
            rows = torch.cat([self._rows(batch) for batch in range(len(self.questions.sizes))])
            return float(rows.double().mean() + self.penalty(weights))

    def batch_loss(self, weights: Any, batch: int) -> Any:
        """The same over one batch, as a tensor to differentiate."""
        self.blend.put(weights)
        return self._rows(batch).mean() + self.penalty(weights)

    def _rows(self, batch: int) -> Any:
        import torch

        positions, scores = self.questions.scores(self.blend.model, batch)
        self.evaluations += len(positions) / self.questions.count
        precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return self.measure(precise, self.labels[positions].to(precise.device))
