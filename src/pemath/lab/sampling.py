"""Texts that a model writes after prompts: batched, with the key-value cache, from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from pemath.lab.desk import Answer
from pemath.lab.encoding import padded
from pemath.lab.models import Base, on_device_of
from pemath.lab.setting import Setting
from pemath.lab.writing import Writer
from pemath.threads import Progress


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How texts are drawn. Temperature 0 takes the likeliest token, with `beams` the likeliest
    text; otherwise tokens are drawn from the `top_k` likeliest (0: all) that make up `top_p`.
    """

    new_tokens: int = 32
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    beams: int = 1
    repetition_penalty: float = 1.0

    def options(self) -> dict[str, Any]:
        """As `generate` of transformers takes them."""
        common = {
            "max_new_tokens": self.new_tokens,
            "num_beams": self.beams,
            "repetition_penalty": self.repetition_penalty,
            "do_sample": self.temperature > 0,
            "remove_invalid_values": True,  # of a module that was negated too far
        }
        if not self.temperature:  # or the checkpoint's own values would stand beside it
            return {**common, "temperature": None, "top_k": None, "top_p": None}
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return {**common, **drawn}


@dataclass(frozen=True)
class Sampling:
    """What is written after prompts, `samples` times after each; the answers are texts, those of
    one prompt together. The setting is one of writing.

    The same seed draws with the same random numbers for every composition.
    """

    setting: Setting
    prompts: Sequence[str]
    samples: int
    decoding: Decoding
    seed: int

    def key(self) -> dict[str, Any]:
        """What of it determines an answer."""
        prompts = hashlib.sha256(repr(list(self.prompts)).encode()).hexdigest()[:20]
        return {
            **self.setting.key(),
            "prompts": prompts,
            "samples": self.samples,
            "decoding": asdict(self.decoding),
            "seed": self.seed,
        }

    def prepare(self, base: Base, batch_size: int) -> Answer:
        """The prompts encoded, for every model that is asked."""
        encoder = self.setting.encoder(base)
        if not isinstance(encoder, Writer):
            raise TypeError("what is written is no label")
        room = self.setting.max_length
        ids = [encoder.prompt_ids(prompt)[-room:] for prompt in self.prompts]
        lines = [line for line in ids for _ in range(self.samples)]
        parts = self._parts(lines, batch_size)

        def answer(model: Any, progress: Progress) -> list[Any]:
            texts = [""] * len(lines)
            for done, part in enumerate(parts):
                seed = self.seed * len(parts) + done
                found = self._written(base, model, [lines[i] for i in part], seed)
                for position, text in zip(part, found, strict=True):
                    texts[position] = text
                progress("writing", done + 1, len(parts))
            return texts

        return answer

    def _parts(self, lines: list[list[int]], batch_size: int) -> list[list[int]]:
        """Batches of lines of like length; of equal length where a repetition is penalised, as
        padding would count as one.
        """
        order = sorted(range(len(lines)), key=lambda i: (len(lines[i]), i))
        groups: Iterable[list[int]] = [order]
        if self.decoding.repetition_penalty != 1:
            groups = [list(group) for _, group in groupby(order, key=lambda i: len(lines[i]))]
        return [
            group[start : start + batch_size]
            for group in groups
            for start in range(0, len(group), batch_size)
        ]

    def _written(self, base: Base, model: Any, lines: list[list[int]], seed: int) -> list[str]:
        import torch

        causal, pad = base.family == "causal", int(base.tokenizer.pad_token_id)
        ids, mask = padded(lines, pad, left=causal)
        batch = on_device_of(model)({"input_ids": ids, "attention_mask": mask})
        there = batch["input_ids"].device
        devices = [there] if there.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            whole = model.generate(
                **batch, **self.decoding.options(), use_cache=True, pad_token_id=pad
            )
        new = whole[:, ids.shape[1] :] if causal else whole
        decoded: list[str] = base.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in decoded]
