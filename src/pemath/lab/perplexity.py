"""How well a language model predicts a text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pemath.errors import ConfigError
from pemath.lab.models import Base
from pemath.names import display

WINDOW, STRIDE = 1024, 512  # as in the authors' compute_ppl.py (arXiv 2306.14870)


def perplexity(
    base: Base,
    model: Any,
    text: str,
    *,
    window: int = WINDOW,
    stride: int = STRIDE,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> float:
    """exp of the mean negative log-likelihood per token that causal `model` gives to `text`.

    Windows of `window` tokens move on by `stride`; every token but the first is counted once, with
    at least window - stride tokens before it where the text has them. Raises ConfigError for a
    model that is not causal, or a text of fewer than two tokens; ValueError unless stride < window.
    """
    import torch

    if not 0 < stride < window:
        raise ValueError("the stride must be smaller than the window, or tokens lose their context")

    if base.family != "causal":
        raise ConfigError(
            f"`{display(base.name)}` has no perplexity",
            found=f"a model of the family {base.family}",
            expected="a causal language model, such as pip:smollm2",
        )
    ids = torch.tensor(base.tokenizer(text, verbose=False)["input_ids"], device=base.device)
    if len(ids) < 2:
        raise ConfigError("a perplexity needs a text of at least two tokens", found=len(ids))
    total, done = 0.0, 1
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        piece = ids[start:end]
        kept = end - done + 1  # the logits that predict what is not counted yet
        with torch.inference_mode():
            logits = model(input_ids=piece[None], logits_to_keep=kept).logits[0, :-1].float()
        target = piece[1 - kept :]
        total -= float(logits.log_softmax(-1).gather(-1, target[:, None]).double().sum())
        done = end
        progress("reading", done, len(ids))
        if end == len(ids):
            break
    return math.exp(total / (len(ids) - 1))
