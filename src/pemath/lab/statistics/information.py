"""Diagonal Fisher information of an adapter's tensors (Matena and Raffel 2022, arXiv 2111.09832)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pemath.errors import LayoutError
from pemath.formats.peft import PREFIX
from pemath.kinds import Adapter
from pemath.lab.encoding import IGNORED
from pemath.lab.models import on_device_of
from pemath.lab.statistics.batches import Batch, rows_of
from pemath.methods import FISHER
from pemath.names import display, listing


def fisher_information(
    adapter: Adapter, model: Any, batches: Iterable[Batch], seed: int
) -> tuple[dict[str, Any], int]:
    """The mean over rows x of E[(∂ log p(y | x) / ∂θ)²], y from the model itself, per parameter."""
    import torch

    tensors = [t for t in adapter.folder.tensors.entries if not _is_head(adapter, t)]
    parameters = _parameters(adapter, model, tensors)
    for parameter in parameters:
        parameter.requires_grad_(requires_grad=True)
    sums = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    generator = torch.Generator().manual_seed(seed)
    rows = 0
    for batch in map(on_device_of(model), batches):
        for row in rows_of(batch):
            rows += 1
            logits = model(**row).logits
            for share, log_p in _likelihoods(logits, row.get("labels"), model, generator):
                gradients = torch.autograd.grad(
                    log_p, parameters, retain_graph=True, allow_unused=True
                )
                for total, gradient in zip(sums, gradients, strict=True):
                    if gradient is not None:
                        total.addcmul_(gradient.float(), gradient.float(), value=share)
    if not rows:
        return {}, 0
    return {FISHER + t: total / rows for t, total in zip(tensors, sums, strict=True)}, rows


def _likelihoods(
    logits: Any, labels: Any, model: Any, generator: Any
) -> Iterator[tuple[float, Any]]:
    """Pairs (probability, log p(y | x)) whose weighted squared gradients are E over y.

    Exact for classes, and for a number under a normal distribution of variance one, where the
    expectation of (y - f)² is 1. Of a generative model's answer one sample is taken, each token
    given the true ones before it.
    """
    import torch

    logits = logits.float()
    if logits.ndim == 2 and logits.shape[1] == 1:
        yield 1.0, logits.sum()
    elif logits.ndim == 2:
        log_p = logits.log_softmax(-1)[0]
        yield from zip(log_p.exp().tolist(), log_p, strict=True)
    else:
        if not getattr(model.config, "is_encoder_decoder", False):
            logits, labels = logits[:, :-1], labels[:, 1:]
        log_p = logits[labels != IGNORED].log_softmax(-1)
        drawn = torch.multinomial(log_p.detach().double().exp().cpu(), 1, generator=generator)
        yield 1.0, log_p.gather(1, drawn.to(log_p.device)).sum()


def _is_head(adapter: Adapter, tensor: str) -> bool:
    return any(tensor in head.tensors.values() for head in adapter.heads.values())


def _parameters(adapter: Adapter, model: Any, tensors: list[str]) -> list[Any]:
    """The model's parameters that the file's tensors hold, in their order."""
    named = dict(model.named_parameters())
    if adapter.kind.name == "full":
        found = {PREFIX + name: parameter for name, parameter in named.items()}
    else:
        active = f".{model.active_adapter}"  # PEFT leaves this name out of the file
        found = {name.replace(active, "", 1): p for name, p in named.items() if active in name}
    missing = [tensor for tensor in tensors if tensor not in found]
    if missing:
        raise LayoutError(
            f"the model has no parameters for {listing(missing)}",
            where=display(adapter.folder.path),
            hint="load this adapter into the model that it was trained on",
        )
    return [found[tensor] for tensor in tensors]
