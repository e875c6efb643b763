"""How well a language model predicts a text."""

from __future__ import annotations

import math
from typing import Any

from pemath.errors import ConfigError
from pemath.lab.models import Base
from pemath.names import display
from pemath.threads import Progress, silent

WINDOW, STRIDE = 1024, 512  # as in the authors' compute_ppl.py (arXiv 2306.14870)


def perplexity(
    base: Base,
    model: Any,
    text: str,
    *,
    window: int = WINDOW,
    stride: int = STRIDE,
    progress: Progress = silent,
) -> float:
    """exp of the mean negative log-likelihood per token that causal `model` gives to `text`.

    Windows of `window` tokens move on by `stride`; every token but the first is counted once, with
    at least window - stride tokens before it where the text has them. Raises ConfigError for a
    model that is not causal, or a text of fewer than two tokens; ValueError unless stride < window.
    """
    found = windows(base, model, text, window=window, stride=stride, progress=progress)
    return math.exp(sum(loss for loss, _ in found) / sum(count for _, count in found))


def windows(
    base: Base,
    model: Any,
    text: str,
    *,
    window: int,
    stride: int,
    tokens: int | None = None,
    progress: Progress = silent,
) -> list[tuple[float, int]]:
    """The same by windows: the summed negative log-likelihood of the tokens that a window counts,
    and their number; only the first `tokens` are read. Raises as `perplexity` does.
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
    ids = torch.tensor(
        base.tokenizer(text, verbose=False)["input_ids"][:tokens], device=base.device
    )
    if len(ids) < 2:
        raise ConfigError("a perplexity needs a text of at least two tokens", found=len(ids))
    found, done = [], 1
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        piece = ids[start:end]
        kept = end - done + 1  # the logits that predict what is not counted yet
        with torch.inference_mode():
            logits = model(input_ids=piece[None], logits_to_keep=kept).logits[0, :-1].float()
        target = piece[1 - kept :]
        likely = logits.log_softmax(-1).gather(-1, target[:, None]).double().sum()
        found.append((-float(likely), kept - 1))
        done = end
        progress("reading", done, len(ids))
        if end == len(ids):
            break
    return found
