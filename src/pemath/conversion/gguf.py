"""GGUF: a LoRA for llama.cpp."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pemath.composition.certificate import Certificate, SiteReport
from pemath.conversion._llama_names import base_of, heads_of, tensor_names
from pemath.conversion._parts import Part, factors
from pemath.conversion._registry import Outcome, target
from pemath.conversion._source import Source
from pemath.errors import OutOfRange, RequestError
from pemath.formats import gguf as layout
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.floats import BY_NAME, FloatType, Raw, Stored, narrow
from pemath.formats.peft import PeftFolder
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank
from pemath.lowrank import Part as Product
from pemath.names import display
from pemath.threads import one_blas_thread


@target(summary="one GGUF file with a LoRA, for llama.cpp", output="file")
def gguf(
    source: Source,
    out: Path,
    *,
    base_gguf: Path | None = None,
    base_weights: Checkpoint | None = None,
    dtype: str | None = None,
) -> Outcome:
    """One GGUF file with `blk.N.attn_q.weight.lora_a` and so on, for `llama-cli --lora`.

    llama.cpp scales every module by alpha / its rank with one alpha: where the adapter's sites
    need several, B takes up the difference. For the llama architecture, GGUF files hold the rows of
    the query and key weights in another order than transformers (the two halves of every head
    interleaved), so B's rows are brought into that order too; this needs the numbers of heads, from
    the base's GGUF file (`base_gguf`, which also checks names and shapes) or from config.json
    beside its weights (`base_weights`). Values are float32, or float16 where all of the adapter is
    or `dtype` says so.
    Raises: UsageError, InputError, KindMismatch, ShapeMismatch, BaseMismatch, OutOfRange.
    """
    base = base_of(base_gguf, base_weights)
    part = Part.of(PeftFolder.open(source.path))
    name = dtype or ("float16" if part.adapter.dtype.name == "float16" else "float32")
    if name not in ("float32", "float16"):
        raise RequestError("llama.cpp's LoRAs are float32 or float16", found=display(name))
    kind, names = BY_NAME[name], tensor_names(part.values, base)
    part.refuse_non_finite()
    alpha = _common_alpha(part.values)
    specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for site, value in part.values.items():
        (rows, columns), rank = value.blocks[0].shape, value.rank
        specs[f"{names[site]}.lora_a"] = (rank, columns), kind.carrier
        specs[f"{names[site]}.lora_b"] = (rows, rank), kind.carrier
    reports: dict[str, SiteReport] = {}

    def tensors() -> Iterator[Raw]:
        for site, value in part.values.items():
            a, b, reports[site] = _stored(site, value, alpha, kind)
            yield a.raw
            heads = heads_of(names[site], base)
            yield _interleaved(b.raw, heads) if heads else b.raw

    metadata: dict[str, str | float] = {
        "general.architecture": base.architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    with one_blas_thread(), np.errstate(all="ignore"):
        layout.write(out, metadata, specs, tensors())
    facts = {"architecture": base.architecture, "alpha": f"{alpha:g}", "dtype": kind.name}
    return Outcome(kind=part.adapter.kind.name, certificate=Certificate(reports), facts=facts)


def _stored(
    site: str, value: Lora, alpha: float, kind: FloatType
) -> tuple[Stored, Stored, SiteReport]:
    """A and B as they are stored, and how far alpha / rank · B A is from the value."""
    a, b, scale = factors(site, value)
    rank, rows = a.shape[0], b.widen()
    if scale * rank != alpha:
        rows *= scale * rank / alpha
    stored_a, stored_b = Stored(narrow(a.widen(), kind), kind), Stored(narrow(rows, kind), kind)
    stored = LowRank(value.blocks[0].shape, (Product(stored_a, stored_b, alpha / rank),))
    deviation, norm = stored.gap(value.blocks[0])
    if not math.isfinite(deviation):
        raise OutOfRange(
            f"the result does not fit into {kind.name}",
            where=f"site `{display(site)}`",
            hint="leave out --dtype",
        )
    return (
        stored_a,
        stored_b,
        SiteReport(rank, deviation, norm if math.isfinite(norm) else value.norm()),
    )


def _interleaved(rows: Raw, heads: int) -> Raw:
    """Rows in the order of llama.cpp: of each head, row i of the first half, then of the second."""
    outputs, rank = rows.shape
    halves = rows.reshape(heads, 2, outputs // heads // 2, rank)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(outputs, rank)


def _common_alpha(values: Mapping[str, Lora]) -> float:
    """The alpha that most sites have, as float32 holds it; not 0, by which llama.cpp means 1."""
    alphas = Counter(
        float(np.float32(value.blocks[0].parts[0].scale * value.rank)) for value in values.values()
    )
    del alphas[0.0]
    usable = [alpha for alpha in alphas if math.isfinite(alpha)]
    return max(usable, key=lambda alpha: (alphas[alpha], alpha), default=1.0)
