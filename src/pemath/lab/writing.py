"""Texts as a language model's inputs: what it is to write, after a prompt or after nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pemath.errors import ConfigError
from pemath.lab.data.rows import Row, Writing
from pemath.lab.encoding import IGNORED, padded
from pemath.lab.models import Base
from pemath.names import display


@dataclass(frozen=True, eq=False)
class Writer:
    """Encodes rows of `writing` for one base model, cut at `max_length` tokens.

    The loss is that of the text alone, not of its prompt. Where both are too long together, a causal
    model's prompt loses its beginning, down to half the room, and then the text its end. Raises
    ConfigError for an encoder.
    """

    base: Base
    writing: Writing
    max_length: int

    def __post_init__(self) -> None:
        if self.base.family == "encoder":
            raise ConfigError(
                f"`{display(self.base.name)}` writes no text",
                expected="a causal or a sequence-to-sequence model",
                hint="pip:smollm2 is one that needs no download",
            )

    def features(self, row: Row) -> dict[str, Any]:
        """The token ids of `row`, with its labels, as the trainer takes them."""
        prompt, text = self.prompt_ids(row.texts[0]), self._text_ids(row.texts[1])
        most = self.max_length
        if self.base.family == "seq2seq":
            whole = len(prompt) <= most  # what ends every input stays its end
            return {"input_ids": prompt if whole else prompt[: most - 1] + prompt[-1:],
                    "labels": text[:most]}  # fmt: skip
        if len(prompt) + len(text) > most:
            prompt = prompt[max(0, len(prompt) - max(most - len(text), most // 2)) :]
        ids = (prompt + text)[:most]
        return {"input_ids": ids, "labels": [IGNORED] * len(prompt) + ids[len(prompt) :]}

    def prompt_ids(self, prompt: str) -> list[int]:
        """The token ids of a prompt, as what is to be written follows it."""
        tokenizer = self.base.tokenizer
        if self.writing.chat and tokenizer.chat_template:
            message = [{"role": "user", "content": prompt}]
            put = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            return list(tokenizer(put, add_special_tokens=False)["input_ids"])
        if self.writing.chat:
            prompt = f"Instruction: {prompt}\nReply:"
        if not prompt and self.base.family == "causal":
            return []
        return list(tokenizer(prompt)["input_ids"])

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A padded batch of tensors."""
        ids, mask = padded([f["input_ids"] for f in features], self.pad_id, left=False)
        labels, _ = padded([f["labels"] for f in features], IGNORED, left=False)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up."""
        return int(self.base.tokenizer.pad_token_id)

    def _text_ids(self, text: str) -> list[int]:
        tokenizer = self.base.tokenizer
        if self.base.family == "causal" and self.writing.chat and not tokenizer.chat_template:
            text = f" {text}"  # behind the colon
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, tokenizer.eos_token_id] if self.writing.closed else ids
