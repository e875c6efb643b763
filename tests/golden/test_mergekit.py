"""Methods beside mergekit's functions of the same name, on the same tensors.

mergekit merges whole models; what is called here is what it does to one tensor. Each test states
where both agree, or what mergekit does otherwise, so that a new release that changes it is noticed.
`pip install --no-deps mergekit==0.1.5` is enough: its other dependencies are not needed for this.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pemath.formats.floats import Array, Stored
from pemath.kinds._geometry import Geometry
from pemath.kinds.full import FullDelta
from pemath.kinds.lora import Lora
from pemath.lowrank import LowRank, Part
from pemath.methods import Stack, named_method

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit", reason="pip install --no-deps mergekit==0.1.5")

SHAPE = (60, 40)


def of(name: str) -> Any:
    """A module of mergekit."""
    return importlib.import_module(f"mergekit.{name}")


def lora(seed: int) -> Lora:
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((4, SHAPE[1])), random.standard_normal((SHAPE[0], 4))
    block = LowRank(SHAPE, (Part(Stored.of(a), Stored.of(b)),))
    return Lora(Geometry("linear", SHAPE[0], (SHAPE[1],)), (block,))


def full(seed: int) -> FullDelta:
    delta = np.random.default_rng(seed).standard_normal(SHAPE)
    return FullDelta(SHAPE, ((1.0, Stored.of(delta)),))


def ours(
    name: str, values: Sequence[Any], weights: Sequence[float] | None = None, **options: Any
) -> Array:
    method = named_method(name)
    usual = [float(weight) for weight in method.default_weights(len(values))]
    names = list("abcdef")[: len(values)]
    stack = Stack("q", values, weights or usual, names, [None] * len(values))
    found: Array = method.function(stack, **options).delta_weight()
    return found


def tensors(values: Sequence[Any]) -> list[Any]:
    return [torch.tensor(value.delta_weight(), dtype=torch.float64) for value in values]


def apart(found: Array, peer: Any) -> float:
    """The difference, relative to the peer's result."""
    other = np.asarray(peer)
    return float(np.linalg.norm(found - other.reshape(found.shape)) / np.linalg.norm(other))


class Weights:
    """A parameter of each input, as mergekit hands it to a method."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def values_for(self, entries: Sequence[Any]) -> list[float]:
        return [self.values[entry.id] for entry in entries]


def grouped(values: Sequence[Any], *, base: bool = False) -> Any:
    found = tensors(values)
    group = of("merge_methods.base").TensorGroup
    if not base:
        return group.from_tensors(found)
    return group.from_tensors([torch.zeros_like(found[0]), *found], base_index=0)


UNRELATED = [lora(1), lora(2), lora(3)]
ALIKE = [lora(1), lora(1) + lora(2) * 0.3, lora(1) + lora(3) * 0.4]
SETS = pytest.mark.parametrize("values", [UNRELATED, ALIKE], ids=["unrelated", "alike"])


@SETS
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(values: list[Lora], t: float) -> None:
    x, y = (tensor.reshape(1, -1) for tensor in tensors(values[:2]))
    peer = of("merge_methods.slerp").slerp(torch.tensor([t], dtype=torch.float64), x, y)
    assert apart(ours("slerp", values[:2], t=t), peer) < 1e-12


def test_slerp_at_small_angles() -> None:
    """mergekit goes straight below 1.8°, as it does where there is no arc."""
    values = [lora(1), lora(1) + lora(2) * 0.02]
    x, y = (tensor.reshape(1, -1) for tensor in tensors(values))
    peer = of("merge_methods.slerp").slerp(torch.tensor([0.3], dtype=torch.float64), x, y)
    line = 0.7 * values[0].delta_weight() + 0.3 * values[1].delta_weight()
    assert apart(line, peer) < 1e-12
    assert 1e-6 < apart(ours("slerp", values, t=0.3), peer) < 1e-3


@SETS
def test_nuslerp(values: list[Lora]) -> None:
    nuslerp = of("merge_methods.nuslerp").nuslerp
    x, y = tensors(values[:2])
    found = ours("nuslerp", values[:2], [0.7, 0.3])
    assert apart(found, nuslerp(0.3, x, y, flatten=True)) < 1e-12
    rows = ours("nuslerp", values[:2], [0.7, 0.3], row_wise=True)
    assert apart(rows, nuslerp(0.3, x, y, dim=-1, flatten=False)) < 1e-12


@SETS
def test_karcher(values: list[Lora]) -> None:
    merge = of("merge_methods.karcher").karcher_merge_tensors
    peer = merge(tensors(values), [1 / 3] * 3, max_iter=200, tol=1e-13)
    assert apart(ours("karcher", values), peer) < 1e-9
    usual = merge(tensors(values), [1 / 3] * 3, max_iter=10, tol=1e-5)
    assert apart(ours("karcher", values), usual) < 1e-4


@SETS
@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.2, 0.5, 0.3]], ids=["equal", "unequal"])
def test_multislerp_takes_logarithms(values: list[Lora], weights: list[float]) -> None:
    """mergekit projects on the tangent space at the mean, where the weighted sum of the projections
    is zero: what it returns is the normalised mean, without a step.
    """
    merge = of("merge_methods.multislerp").multislerp.implementation
    peer = merge(grouped(values), weight=Weights(weights))
    assert apart(ours("karcher", values, weights, max_iter=0), peer) < 1e-9
    assert apart(ours("multislerp", values, weights), peer) > 1e-6


def test_multislerp_of_two_is_slerp() -> None:
    """mergekit's is that for equal weights only."""
    units = [lora(seed) * (1 / lora(seed).norm()) for seed in (1, 2)]
    merge = of("merge_methods.multislerp").multislerp.implementation
    arc = ours("slerp", units, t=0.3)
    assert apart(ours("multislerp", units, [0.7, 0.3]), arc) < 1e-12
    assert apart(np.asarray(merge(grouped(units), weight=Weights([0.7, 0.3]))), arc) > 0.01


def test_model_stock() -> None:
    merge = of("merge_methods.model_stock").model_stock_merge_method.implementation
    assert apart(ours("model_stock", ALIKE), merge(grouped(ALIKE, base=True))) < 1e-12


def test_model_stock_of_operands_that_disagree() -> None:
    """mergekit lets the share of the way to the mean become negative."""
    values = [lora(1), lora(1) * -0.5 + lora(2) * 0.3]
    merge = of("merge_methods.model_stock").model_stock_merge_method.implementation
    peer = np.asarray(merge(grouped(values, base=True)))
    mean = sum(value.delta_weight() for value in values) / 2
    assert np.vdot(peer, mean) < 0
    assert not ours("model_stock", values).any()


DENSE = [full(seed) for seed in range(3)]


def trimmed(values: Sequence[Any], density: float) -> list[Any]:
    magnitude = of("sparsify").magnitude
    return [magnitude(tensor, density) for tensor in tensors(values)]


def elected(stacked: Any, how: str) -> Any:
    mask = of("merge_methods.generalized_task_arithmetic").get_mask
    return mask(stacked, how, torch.float64)


def test_magnitude_prune() -> None:
    found = ours("magnitude_prune", DENSE, density=0.25)
    assert apart(found, sum(trimmed(DENSE, 0.25))) < 1e-12


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, -0.5, 2.0]], ids=["ones", "mixed"])
def test_ties_with_a_sum(weights: list[float]) -> None:
    """Both let the weight's sign vote; PEFT does not."""
    stacked = torch.stack(trimmed(DENSE, 0.25)) * torch.tensor(weights)[:, None, None]
    peer = (stacked * elected(stacked, "sum")).sum(0)
    assert apart(ours("ties", DENSE, weights, density=0.25, merge="sum"), peer) < 1e-12


def test_ties_with_a_mean() -> None:
    """mergekit's `normalize` divides by the number of operands that have the elected sign; the
    paper's mean is over those that are not trimmed besides.
    """
    stacked = torch.stack(trimmed(DENSE, 0.25))
    mask = elected(stacked, "sum")
    agreeing = ((stacked != 0) & mask.bool()).sum(0).clamp(min=1)
    assert apart(ours("ties", DENSE, density=0.25), (stacked * mask).sum(0) / agreeing) < 1e-12


def test_ties_by_frequency() -> None:
    stacked = torch.stack(tensors(DENSE))
    peer = (stacked * elected(stacked, "count")).sum(0)
    options = {"majority_sign_method": "frequency", "merge": "sum"}
    assert apart(ours("ties", DENSE, density=1.0, **options), peer) < 1e-12


def test_breadcrumbs() -> None:
    outliers = of("sparsify").magnitude_outliers
    peer = sum(outliers(tensor, 0.25, gamma=0.01) for tensor in tensors(DENSE))
    assert apart(ours("breadcrumbs", DENSE, density=0.25, gamma=0.01), peer) < 1e-12


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_sce(share: float) -> None:
    sce = of("merge_methods.sce")
    stacked = torch.stack(tensors(DENSE))
    if share < 1:
        stacked = stacked * sce.sce_mask(stacked, share, torch.float64).unsqueeze(0)
    weights = sce.sce_weight(stacked).reshape(-1, 1, 1) * elected(stacked, "sum")
    peer = (stacked * weights).sum(0) / weights.sum(0).clamp(min=1e-6)
    assert apart(ours("sce", DENSE, select_topk=share), peer) < 1e-9
