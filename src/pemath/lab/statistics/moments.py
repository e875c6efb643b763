"""Gram matrices of what an adapter's sites compute with (Jin et al. 2023, arXiv 2212.09849)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pemath.errors import LayoutError
from pemath.formats.peft import PREFIX
from pemath.kinds import Adapter
from pemath.lab.encoding import IGNORED
from pemath.lab.models import on_device_of
from pemath.lab.statistics.batches import Batch
from pemath.methods import GRAM
from pemath.names import display


def gram_matrices(
    adapter: Adapter, model: Any, batches: Iterable[Batch]
) -> tuple[dict[str, Any], int, int]:
    """The Gram matrix of every site that multiplies its inputs, the rows and the tokens."""
    import torch

    padding = _Padding(model)
    moments = _Moments(padding)
    handles = list(_watch(adapter, model, moments))
    rows = tokens = 0
    try:
        with torch.no_grad():
            for batch in map(on_device_of(model), batches):
                padding.begin(batch)
                model(**batch)
                moments.forget()
                ids = batch["input_ids"]
                rows += len(ids)
                mask = batch.get("attention_mask")
                tokens += int(ids.numel() if mask is None else mask.sum())
    finally:
        padding.close()
        for handle in handles:
            handle.remove()
    return {GRAM + site: moment for site, moment in moments.means().items()}, rows, tokens


class _Padding:
    """Which positions of the present batch are tokens, for tensors of either side of a model."""

    def __init__(self, model: Any) -> None:
        self._two_sided = bool(getattr(model.config, "is_encoder_decoder", False))
        self._memory: Any = None
        self._masks: list[Any] = []
        self._handles: list[Any] = []
        if self._two_sided:
            encoder = model.get_encoder()
            self._handles.append(encoder.register_forward_hook(self._encoded))

    def begin(self, batch: Batch) -> None:
        self._memory, self._masks = None, []
        for mask in (_decoded(batch) if self._two_sided else None, batch.get("attention_mask")):
            self._masks.append(None if mask is None else mask.bool())

    def tokens(self, x: Any) -> Any:
        """The vectors of `x` [..., n] that belong to tokens, [tokens, n]."""
        decoder, encoder = self._masks
        after_encoder = self._memory is not None and x is not self._memory
        for mask in (decoder, encoder) if after_encoder else (encoder,):
            if mask is not None and mask.shape == x.shape[:-1]:
                return x[mask]
        return x.reshape(-1, x.shape[-1])

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _encoded(self, module: Any, inputs: Any, output: Any) -> None:
        self._memory = output[0]


def _decoded(batch: Batch) -> Any:
    """The mask of the decoder's positions: where it has something to predict."""
    if "decoder_attention_mask" in batch or "labels" not in batch:
        return batch.get("decoder_attention_mask")
    return batch["labels"] != IGNORED


class _Moments:
    """Sums over tokens of x xᵀ, or of x², at every place that is watched."""

    def __init__(self, padding: _Padding) -> None:
        self._padding = padding
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        # Queries, keys and values have one input: it is multiplied once.
        self._last: tuple[Any, Any, int] | None = None

    def add(self, name: str, x: Any, *, diagonal: bool) -> None:
        if diagonal:
            vectors = self._padding.tokens(x.detach()).double()
            moment, count = (vectors**2).sum(0), len(vectors)
        elif self._last is not None and self._last[0] is x:
            _, moment, count = self._last
        else:
            vectors = self._padding.tokens(x).detach().float()
            moment, count = (vectors.T @ vectors).double(), len(vectors)
            self._last = (x, moment, count)
        self._counts[name] = self._counts.get(name, 0) + count
        if name in self._sums:
            self._sums[name] += moment
        else:
            self._sums[name] = moment.clone()

    def forget(self) -> None:
        """The present batch is over: its tensors may go."""
        self._last = None

    def means(self) -> dict[str, Any]:
        return {name: total / max(self._counts[name], 1) for name, total in self._sums.items()}


def _watch(adapter: Adapter, model: Any, moments: _Moments) -> Iterator[Any]:
    """Hooks that add what each site's module computes with; sites that RegMean does not know, such
    as embeddings, have none.
    """
    import torch

    values: Mapping[str, Any] = adapter.sites
    for site, value in values.items():
        if adapter.kind.name == "full":
            owner, _, parameter = site.rpartition(".")
            module = _module(model, owner, adapter)
            if parameter == "weight" and isinstance(module, torch.nn.Linear):
                yield module.register_forward_pre_hook(_inputs(moments, site, diagonal=False))
            continue
        module = _module(model, PREFIX + site, adapter)
        if adapter.kind.name == "ia3":
            if value.side == "input":
                yield module.register_forward_pre_hook(_inputs(moments, site, diagonal=True))
            else:
                yield module.base_layer.register_forward_hook(_outputs(moments, site))
        elif value.geometry.layout == "linear":
            yield module.register_forward_pre_hook(_inputs(moments, site, diagonal=False))


def _inputs(moments: _Moments, site: str, *, diagonal: bool) -> Any:
    def hook(module: Any, arguments: tuple[Any, ...]) -> None:
        moments.add(site, arguments[0], diagonal=diagonal)

    return hook


def _outputs(moments: _Moments, site: str) -> Any:
    def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        moments.add(site, output, diagonal=True)

    return hook


def _module(model: Any, name: str, adapter: Adapter) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise LayoutError(
            f"the model has no module `{display(name)}`",
            where=display(adapter.folder.path),
            hint="load this adapter into the model that it was trained on",
        ) from None
