"""Rows of a task as a model's inputs: for a classification head, or as a prompt that the label's
word answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pemath.errors import ConfigError
from pemath.lab.data.rows import Row, Task
from pemath.lab.models import Base
from pemath.names import display

IGNORED = -100  # a label that transformers leaves out of the loss


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes the rows of one task for one base model, cut at `max_length` tokens.

    An encoder gets the texts and a class or a number. A generative model gets the prompt and the
    label's word; where a prompt is too long, the longest of its texts loses its end.
    """

    base: Base
    task: Task
    max_length: int

    def __post_init__(self) -> None:
        if self.base.family != "encoder" and (self.task.prompt is None or not self.task.words):
            raise ConfigError(
                f"task `{display(self.task.name)}` has no prompt",
                hint=f"`{display(self.base.name)}` answers prompts: give `prompt` and `words`, "
                "or choose an encoder",
            )

    def features(self, row: Row) -> dict[str, Any]:
        """The token ids of `row`, with its label, as the trainer takes them."""
        tokenizer = self.base.tokenizer
        if self.base.family == "encoder":
            found = tokenizer(*row.texts, truncation=True, max_length=self.max_length)
            kind = float if self.task.is_regression else int
            return {**found, "labels": kind(row.label)}
        prompt, answer = self.prompt_ids(row), self.word_ids()[int(row.label)]
        if self.base.family == "seq2seq":
            return {"input_ids": prompt, "labels": answer}
        return {"input_ids": prompt + answer, "answer": len(answer)}

    def prompt_ids(self, row: Row) -> list[int]:
        """The token ids of the prompt, at most `max_length` with the longest label word."""
        tokenizer, template = self.base.tokenizer, self.task.prompt or ""
        room = self.max_length - max(map(len, self.word_ids()))
        texts = list(row.texts)
        while True:
            ids: list[int] = tokenizer(template.format(*texts))["input_ids"]
            if len(ids) <= room or not any(texts):
                return ids[:room]
            longest = max(range(len(texts)), key=lambda i: len(texts[i]))
            words = texts[longest].split()
            texts[longest] = " ".join(words[: -max(1, (len(ids) - room) // 2)])

    def word_ids(self) -> list[list[int]]:
        """The token ids of every label's word."""
        tokenizer = self.base.tokenizer
        if self.base.family == "seq2seq":
            return [tokenizer(word.strip())["input_ids"] for word in self.task.words]
        return [tokenizer(w, add_special_tokens=False)["input_ids"] for w in self.task.words]

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A padded batch of tensors."""
        import torch

        if self.base.family == "encoder":
            batch = self.base.tokenizer.pad(
                [{k: v for k, v in f.items() if k != "labels"} for f in features],
                return_tensors="pt",
            )
            return {**batch, "labels": torch.tensor([f["labels"] for f in features])}
        if self.base.family == "seq2seq":
            inputs = padded([f["input_ids"] for f in features], self.pad_id, left=False)
            labels, _ = padded([f["labels"] for f in features], IGNORED, left=False)
            return {"input_ids": inputs[0], "attention_mask": inputs[1], "labels": labels}
        # Padded on the left, all answers end in the same column: only their logits are computed.
        ids, mask = padded([f["input_ids"] for f in features], self.pad_id, left=True)
        tail = 1 + max(f["answer"] for f in features)
        labels = torch.full_like(ids[:, -tail:], IGNORED)
        for line, feature in enumerate(features):
            labels[line, -feature["answer"] :] = ids[line, -feature["answer"] :]
        return {**self.on_the_left(ids, mask), "labels": labels, "logits_to_keep": tail}

    def on_the_left(self, ids: Any, mask: Any) -> dict[str, Any]:
        """A batch padded on the left; a model that has learned an embedding for every position is
        told where each row begins (rotary positions only know distances).
        """
        config = self.base.model.config
        batch = {"input_ids": ids, "attention_mask": mask}
        if getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None):
            return batch
        if "position_ids" in inspect.signature(self.base.model.forward).parameters:
            batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return batch

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up."""
        return int(self.base.tokenizer.pad_token_id)


def padded(lines: Sequence[Sequence[int]], value: int, *, left: bool) -> tuple[Any, Any]:
    """Lines of ids as one tensor [lines, longest], and the mask of what is no padding."""
    import torch

    width = max(map(len, lines))
    ids = torch.full((len(lines), width), value)
    mask = torch.zeros_like(ids)
    for row, line in enumerate(lines):
        span = slice(width - len(line), width) if left else slice(0, len(line))
        ids[row, span] = torch.tensor(line)
        mask[row, span] = 1
    return ids, mask
