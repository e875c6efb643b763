"""Adam on the weights. There are few of them, so a step looks at many rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pemath.lab.fitting._problem import Problem

ROWS = 256  # of one step; all rows, where there are no more


def descend(problem: Problem, steps: int, learning_rate: float) -> Any:
    """The weights after `steps` of Adam (β = 0.9, 0.999) from equal ones, each along the gradient
    of the mean loss over all rows. Where these are more than 256 it is over as many batches as make
    256, in an order that the seed draws anew for every pass.
    """
    import torch

    weights = problem.start.clone().requires_grad_()
    adam = torch.optim.Adam([weights], lr=learning_rate)
    sizes = problem.questions.sizes
    taken = len(sizes) if sum(sizes) <= ROWS else max(1, ROWS // max(sizes))
    batches = _batches(len(sizes), problem.seed)
    for step in range(steps):
        chosen = list(islice(batches, taken))
        rows = sum(sizes[batch] for batch in chosen)
        adam.zero_grad()
        for batch in chosen:  # one after the other: the memory of one
            (problem.batch_loss(weights, batch) * (sizes[batch] / rows)).backward()
        adam.step()
        problem.progress("fitting", step + 1, steps)
    return weights.detach()


def _batches(count: int, seed: int) -> Iterator[int]:
    """The batches again and again; each pass has an order of its own."""
    turn = 0
    while True:
        keys = {b: hashlib.sha256(f"{seed}:{turn}:{b}".encode()).digest() for b in range(count)}
        yield from sorted(keys, key=keys.__getitem__)
        turn += 1
