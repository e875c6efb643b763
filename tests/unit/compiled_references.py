"""Small adapters of the kinds that are read as another one, and their delta weights.

The deltas are written down entry by entry from the formulas, in float64, without pemath.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[np.float64]
SITES = ("layers.0.query", "layers.1.query")


@dataclass
class Made:
    """Tensors by their names in the file, the config's own fields, and the delta of each site."""

    kind: str
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    deltas: dict[str, Array] = field(default_factory=dict)

    def add(self, site: str, **tensors: NDArray[Any]) -> None:
        for role, values in tensors.items():
            self.tensors[f"base_model.model.{site}.{role.replace('__', '.')}"] = values

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        save_file(
            {name: np.ascontiguousarray(values) for name, values in self.tensors.items()},
            folder / "adapter_model.safetensors",
        )
        config = {"peft_type": self.kind, "target_modules": ["query"], **self.config}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder


class Draw:
    """Sizes and values from one seed; values are rounded to float32, as they will be stored."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def size(self, low: int = 1, high: int = 5) -> int:
        return int(self._rng.integers(low, high + 1))

    def values(self, *shape: int) -> NDArray[np.float32]:
        return self._rng.standard_normal(shape).astype(np.float32)

    def alpha(self) -> float:
        return float(self._rng.choice([1, 3, 0.5, 8]))

    def integers(self, high: int, *shape: int) -> NDArray[np.int64]:
        return self._rng.integers(0, high, shape)

    def chance(self) -> bool:
        return bool(self._rng.integers(0, 2))


def wide(values: NDArray[Any]) -> Array:
    return values.astype(np.float64)


def loha(draw: Draw) -> Made:
    r, alpha = draw.size(), draw.alpha()
    made = Made("LOHA", config={"r": r, "alpha": alpha})
    for site in SITES:
        out, inn = draw.size(), draw.size()
        w1a, w2a = draw.values(out, r), draw.values(out, r)
        w1b, w2b = draw.values(r, inn), draw.values(r, inn)
        made.add(site, hada_w1_a=w1a, hada_w1_b=w1b, hada_w2_a=w2a, hada_w2_b=w2b)
        delta = np.zeros((out, inn))
        for o in range(out):
            for n in range(inn):
                left = sum(wide(w1a)[o, i] * wide(w1b)[i, n] for i in range(r))
                right = sum(wide(w2a)[o, i] * wide(w2b)[i, n] for i in range(r))
                delta[o, n] = left * right * alpha / r
        made.deltas[site] = delta
    return made


def _core(core: Array, by_out: Array, by_in: Array) -> Array:
    """[out, in, k, l] from T [r, r, k, l], [r, out] and [r, in]."""
    r, _, high, broad = core.shape
    found = np.zeros((by_out.shape[1], by_in.shape[1], high, broad))
    for index in np.ndindex(*found.shape):
        o, n, *place = index
        found[index] = sum(
            core[(i, j, *place)] * by_out[i, o] * by_in[j, n] for i in range(r) for j in range(r)
        )
    return found


def loha_conv(draw: Draw) -> Made:
    r, alpha = draw.size(1, 3), draw.alpha()
    made = Made("LOHA", config={"r": r, "alpha": alpha})
    for site in SITES:
        out, inn, high, broad = draw.size(), draw.size(1, 3), draw.size(2, 3), draw.size(1, 3)
        parts = [
            (draw.values(r, r, high, broad), draw.values(r, out), draw.values(r, inn))
            for _ in range(2)
        ]
        names = zip(("hada_t{}", "hada_w{}_a", "hada_w{}_b"), zip(*parts, strict=True), strict=True)
        made.add(site, **{n.format(i + 1): pair[i] for n, pair in names for i in range(2)})
        first, second = (_core(*map(wide, part)) for part in parts)
        delta = first * second * alpha / r
        made.deltas[site] = delta[..., 0] if broad == 1 else delta
    return made


def lokr(draw: Draw) -> Made:
    r, alpha = draw.size(1, 4), draw.alpha()
    made = Made("LOKR", config={"r": r, "alpha": alpha})
    for site in SITES:
        tensors, sides = {}, []
        for side in "12":
            out, inn = draw.size(1, 4), draw.size(1, 4)
            if draw.chance():
                tensors[f"lokr_w{side}"] = full = draw.values(out, inn)
                sides.append(wide(full))
            else:
                left, right = draw.values(out, r), draw.values(r, inn)
                tensors |= {f"lokr_w{side}_a": left, f"lokr_w{side}_b": right}
                sides.append(sum(np.outer(wide(left)[:, i], wide(right)[i]) for i in range(r)))
        (a, c), (b, d) = sides[0].shape, sides[1].shape
        delta = np.zeros((a * b, c * d))
        for i, j, m, n in np.ndindex(a, b, c, d):
            delta[i * b + j, m * d + n] = sides[0][i, m] * sides[1][j, n] * alpha / r
        made.add(site, **tensors)
        made.deltas[site] = delta
    return made


def lokr_conv(draw: Draw) -> Made:
    """A core, or a full second matrix of one or two dimensions of kernel."""
    r, alpha = draw.size(1, 3), draw.alpha()
    made = Made("LOKR", config={"r": r, "alpha": alpha})
    for site, form in zip(SITES, ("core", "flat" if draw.chance() else "square"), strict=True):
        first = draw.values(draw.size(1, 3), draw.size(1, 3))
        a, c = first.shape
        b, d, high, broad = draw.size(1, 3), draw.size(1, 3), draw.size(2, 3), draw.size(1, 3)
        if form == "core":
            parts = draw.values(r, r, high, broad), draw.values(r, b), draw.values(r, d)
            made.add(site, **dict(zip(("lokr_t2", "lokr_w2_a", "lokr_w2_b"), parts, strict=True)))
            second = _core(*map(wide, parts))
        else:
            broad = 1 if form == "flat" else broad
            stored = draw.values(b, d, high, broad)
            second = wide(stored)
            made.add(site, lokr_w2=stored[..., 0] if form == "flat" else stored)
        made.add(site, lokr_w1=first)
        delta = np.zeros((a * b, c * d, high, broad))
        for i, j, m, n in np.ndindex(a, b, c, d):
            # PEFT meets w2 of three dimensions at its end: (w2's row, w1's row) and
            # (w2's column, w1's column).
            row, column = (j * a + i, n * c + m) if form == "flat" else (i * b + j, m * d + n)
            delta[row, column] = wide(first)[i, m] * second[j, n] * alpha / r
        thin = form == "flat" or (form == "core" and broad == 1)
        made.deltas[site] = delta[..., 0] if thin else delta
    return made


def vera(draw: Draw) -> Made:
    r, inn, most = draw.size(), draw.size(), 5
    made = Made("VERA", config={"r": r})
    a, b = draw.values(r, inn), draw.values(most, r)
    made.tensors |= {"base_model.vera_A": a, "base_model.vera_B": b}
    for site in SITES:
        out = draw.size(1, most)
        across, along = draw.values(out), draw.values(r)
        made.add(site, vera_lambda_b=across, vera_lambda_d=along)
        made.deltas[site] = _between(wide(across), wide(b), wide(along), wide(a))
    return made


def _between(across: Array, b: Array, along: Array, a: Array) -> Array:
    delta = np.zeros((len(across), a.shape[1]))
    for o, n in np.ndindex(*delta.shape):
        delta[o, n] = across[o] * sum(b[o, i] * along[i] * a[i, n] for i in range(len(along)))
    return delta


def pvera(draw: Draw) -> Made:
    r, inn, most = draw.size(), draw.size(), 5
    made = Made("PVERA", config={"r": r, "sample_at_inference": False})
    a, b = draw.values(2 * r, inn), draw.values(most, r)
    made.tensors |= {"base_model.pvera_A": a, "base_model.pvera_B": b}
    for site in SITES:
        out = draw.size(1, most)
        across, along = draw.values(out), draw.values(2 * r)
        made.add(site, pvera_lambda_b=across, pvera_lambda_d=along)
        made.deltas[site] = _between(wide(across), wide(b), wide(along)[:r], wide(a))
    return made


def adalora(draw: Draw) -> Made:
    start, alpha = draw.size(2, 5), float(draw.integers(3)) * 2 - 1
    kept = [draw.chance() for _ in range(start)]
    pattern = {f"{SITES[0]}.lora_E{'.default' if draw.chance() else ''}": kept}
    made = Made(
        "ADALORA",
        config={"init_r": start, "r": 8, "lora_alpha": alpha, "rank_pattern": pattern},
    )
    for site in SITES:
        rank = sum(kept) if site == SITES[0] else start
        out, inn = draw.size(), draw.size()
        a, b, e = draw.values(rank, inn), draw.values(out, rank), draw.values(rank, 1)
        made.add(site, lora_A=a, lora_B=b, lora_E=e)
        scale = (alpha if alpha > 0 else rank) / (start + 1e-5)
        made.deltas[site] = scale * _between(np.ones(out), wide(b), wide(e)[:, 0], wide(a))
    return made


def vblora(draw: Draw) -> Made:
    vectors, length, chosen = draw.size(4, 7), draw.size(1, 3), draw.size(1, 3)
    top = chosen > 1 and draw.chance()
    made = Made("VBLORA", config={"topk": chosen, "save_only_topk_weights": top})
    bank = draw.values(vectors, length)
    made.tensors["base_model.vblora_vector_bank"] = bank
    rank = draw.size(1, 3)
    for site in SITES:
        factors = []
        for name, shape in (("A", (rank, draw.size(1, 3))), ("B", (draw.size(1, 3), rank))):
            logits = draw.values(*shape, vectors)
            pieces = np.zeros((*shape, length))
            indices = np.zeros((*shape, chosen), np.uint8)
            weights = np.zeros((*shape, chosen), np.float32)
            for place in np.ndindex(*shape):
                best = sorted(range(vectors), key=lambda v: -logits[place][v])[:chosen]
                powers = [math.exp(float(logits[place][v])) for v in best]
                shares = [power / sum(powers) for power in powers]
                if top:
                    shares = [float(np.float32(share)) for share in shares]
                    shares[-1] = 1 - sum(shares[:-1])
                pieces[place] = sum(s * wide(bank)[v] for s, v in zip(shares, best, strict=True))
                indices[place], weights[place] = best, shares
            if top:
                made.add(site, **{f"vblora_logits_{name}_topk_indices": indices})
                made.add(site, **{f"vblora_logits_{name}_topk_weights": weights[..., :-1]})
            else:
                made.add(site, **{f"vblora_logits_{name}": logits})
            factors.append(pieces)
        a, b = factors
        delta = np.zeros((b.shape[0] * length, a.shape[1] * length))
        for o, n in np.ndindex(*delta.shape):
            delta[o, n] = sum(
                b[o // length, i, o % length] * a[i, n // length, n % length] for i in range(rank)
            )
        made.deltas[site] = delta
    return made


def gralora(draw: Draw) -> Made:
    k, inner, hybrid, alpha = draw.size(1, 3), draw.size(1, 2), draw.size(0, 2), draw.alpha()
    r = k * inner
    made = Made("GRALORA", config={"r": r, "gralora_k": k, "alpha": alpha, "hybrid_r": hybrid})
    for site in SITES:
        height, width = draw.size(1, 3), draw.size(1, 3)
        a, b = draw.values(k, width, r), draw.values(k, r, height)
        made.add(site, gralora_A=a, gralora_B=b)
        delta = np.zeros((k * height, k * width))
        for j, n, o, i in np.ndindex(k, k, height, width):
            delta[j * height + o, n * width + i] = sum(
                wide(a)[n, i, j * inner + s] * wide(b)[j, n * inner + s, o] for s in range(inner)
            )
        if hybrid:
            left, right = draw.values(k * height, hybrid), draw.values(hybrid, k * width)
            made.add(site, gralora_A_general__weight=right, gralora_B_general__weight=left)
            delta += _between(np.ones(k * height), wide(left), np.ones(hybrid), wide(right))
        made.deltas[site] = delta * alpha / (r + hybrid)
    return made


def delora(draw: Draw) -> Made:
    r = draw.size()
    made = Made("DELORA", config={"r": r})
    for site in SITES:
        out, inn = draw.size(), draw.size()
        a, b, strength, widths = (
            draw.values(r, inn), draw.values(out, r), draw.values(1), draw.values(inn),
        )  # fmt: skip
        if draw.chance():
            a[0] *= 1e-6  # shorter than is divided by
        made.add(site, delora_A=a, delora_B=b, delora_lambda=strength, delora_w_norm=widths)
        delta = np.zeros((out, inn))
        for i in range(r):
            long_a = max(math.sqrt(sum(float(x) ** 2 for x in a[i])), 1e-4)
            long_b = max(math.sqrt(sum(float(x) ** 2 for x in b[:, i])), 1e-4)
            scale = float(strength[0]) / (r * long_a * long_b)
            delta += scale * np.outer(wide(b)[:, i], wide(a)[i] * wide(widths))
        made.deltas[site] = delta
    return made


def c3a(draw: Draw) -> Made:
    made = Made("C3A")
    for site in SITES:
        down, across, size = draw.size(1, 3), draw.size(1, 3), draw.size(1, 4)
        kernel = draw.values(down, across, size)
        made.add(site, c3a_kernel=kernel)
        delta = np.zeros((down * size, across * size))
        for m, n, t, s in np.ndindex(down, across, size, size):
            value = wide(kernel)[m, n, (s - t) % size] / (across * size)
            delta[m * size + t, n * size + s] = value
        made.deltas[site] = delta
    return made


def shira(draw: Draw) -> Made:
    r = draw.size(1, 2)
    made = Made("SHIRA", config={"r": r})
    for site in SITES:
        out, inn = draw.size(3, 6), draw.size(3, 6)
        count = r * (out + inn)
        rows, columns = draw.integers(out, count), draw.integers(inn, count)
        rows[-1], columns[-1] = out - 1, inn - 1
        values = draw.values(count)
        indices = np.stack([rows, columns]).astype(np.int32 if draw.chance() else np.float32)
        made.add(site, shira_weight=values, shira_indices=indices)
        delta = np.zeros((out, inn))
        for row, column, value in zip(rows, columns, wide(values), strict=True):
            delta[row, column] += value
        made.deltas[site] = delta
    return made


def unilora(draw: Draw) -> Made:
    r, length = draw.size(1, 3), draw.size(2, 9)
    made = Made("UNILORA", config={"r": r})
    theta = draw.values(length)
    made.tensors["base_model.unilora_theta_d"] = theta
    for site in SITES:
        factors = []
        for name, shape in (("A", (r, draw.size())), ("B", (draw.size(), r))):
            where, scales = draw.integers(length, *shape), draw.values(*shape)
            made.add(site, **{f"unilora_indices_{name}": where, f"unilora_scales_{name}": scales})
            factors.append(np.array([[wide(theta)[i] for i in row] for row in where]) * scales)
        a, b = factors
        made.deltas[site] = _between(np.ones(len(b)), b, np.ones(r), a)
    return made


def randlora(draw: Draw) -> Made:
    r, size, alpha = draw.size(1, 3), draw.size(2, 6), draw.alpha()
    count = -(-size // r)
    made = Made("RANDLORA", config={"r": r, "randlora_alpha": alpha})
    a, b = draw.values(r, 1, size), draw.values(size, count, r)
    made.tensors |= {"base_model.randlora_A": a, "base_model.randlora_B": b}
    for site in SITES:
        by, along = draw.values(r, count), draw.values(count, size)
        made.add(site, randlora_lambda=by, randlora_gamma=along)
        delta = np.zeros((size, size))
        for o, n, t in np.ndindex(size, size, r * count):
            i, j = divmod(t, count)  # of A; PEFT counts B's columns the other way round
            right = wide(by)[i, j] * wide(a)[i, 0, n] * wide(along)[j, n]
            delta[o, n] += wide(b)[o, t // r, t % r] * right * alpha / r
        made.deltas[site] = delta
    return made


def tinylora(draw: Draw) -> Made:
    r, u = draw.size(1, 3), draw.size(1, 3)
    made = Made("TINYLORA", config={"r": r, "u": u})
    vector = draw.values(u)
    made.tensors["base_model.tinylora_v.0"] = vector
    for site in SITES:
        out, inn = draw.size(), draw.size()
        a, b, fixed = draw.values(r, inn), draw.values(out, r), draw.values(u, r, r)
        made.add(site, tinylora_A=a, tinylora_B=b, tinylora_P=fixed)
        delta = np.zeros((out, inn))
        for o, n, i, j, k in np.ndindex(out, inn, r, r, u):
            mixed = wide(vector)[k] * wide(fixed)[k, i, j]
            delta[o, n] += wide(b)[o, i] * mixed * wide(a)[j, n]
        made.deltas[site] = delta
    return made


def supertuning(draw: Draw) -> Made:
    r, alpha = draw.size(1, 3), draw.alpha()
    made = Made("SUPERTUNING", config={"r": r, "lora_alpha": alpha})
    for site in SITES:
        out, inn, count = draw.size(), draw.size(), draw.size(1, 6)
        a, b = draw.values(r, inn), draw.values(out, r)
        where, values = draw.integers(out * inn, count).astype(np.int32), draw.values(count)
        made.add(site, supertuning_values=values, supertuning_indices=where)
        made.add(site, supertuning_lora_A__weight=a, supertuning_lora_B__weight=b)
        delta = alpha / r * _between(np.ones(out), wide(b), np.ones(r), wide(a))
        for position, value in zip(where, wide(values), strict=True):
            delta[position // inn, position % inn] += value
        made.deltas[site] = delta
    return made


MAKERS: dict[str, Callable[[Draw], Made]] = {
    made.__name__: made
    for made in (
        loha, loha_conv, lokr, lokr_conv, vera, pvera, adalora, vblora, gralora, delora, c3a, shira,
        unilora, randlora, tinylora, supertuning,
    )
}  # fmt: skip
