"""Kinds that are read as LoRA: against formulas written down entry by entry, and what is lazy."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pemath
from pemath import plugins
from pemath.formats.floats import Stored
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, _computed, _registry, compiled_kinds, kinds, open_adapter
from pemath.kinds._computed import Computed
from pemath.kinds._full_rank import identity

from .compiled_references import MAKERS, SITES, Draw, Made

every_kind = pytest.mark.parametrize("name", MAKERS)
seeds = st.integers(0, 2**32 - 1)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def opened(made: Made, folder: Path) -> Adapter:
    return open_adapter(PeftFolder.open(made.write(folder / str(next(_numbers)))))


def close(found: np.ndarray, wanted: np.ndarray, size: float) -> bool:
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted)) <= 1e-12 * size + 1e-300


def test_every_kind_that_is_read_as_lora_has_a_reference() -> None:
    types = {MAKERS[name](Draw(0)).kind for name in MAKERS}
    assert types == {
        peft_type
        for kind in compiled_kinds().values()
        if kind.into == "lora"
        for peft_type in kind.peft_types
    }


@every_kind
@given(seed=seeds)
@settings(max_examples=40)
def test_delta(folder: Path, name: str, seed: int) -> None:
    made = MAKERS[name](Draw(seed))
    adapter = opened(made, folder)
    assert adapter.sites.keys() == made.deltas.keys()
    for site, wanted in made.deltas.items():
        value = adapter.sites[site]
        assert close(value.delta_weight(), wanted, 10 * np.linalg.norm(wanted) + 1), site
        assert value.rank <= max(1, min(wanted.shape[0], wanted[0].size)) or made.kind in {
            "VERA", "PVERA", "ADALORA", "VBLORA", "DELORA", "UNILORA", "TINYLORA", "SUPERTUNING",
            "GRALORA",
        }  # fmt: skip


@every_kind
@given(seed=seeds, c=st.sampled_from([0.0, 1.0, -0.7, 3.0]))
@settings(max_examples=15)
def test_laws(folder: Path, name: str, seed: int, c: float) -> None:
    """Values of one kind are a vector space like any LoRA, in sums with themselves and others."""
    made = MAKERS[name](Draw(seed))
    for site, value in opened(made, folder).sites.items():
        delta = made.deltas[site]
        size = 10 * float(np.linalg.norm(delta)) + 1
        other = opened(made, folder).sites[site]
        assert close((value + other * c).delta_weight(), delta * (1 + c), 4 * size)
        assert close(
            (value - value if False else value + value * -1.0).delta_weight(), 0 * delta, size
        )
        assert value.norm() == pytest.approx(np.linalg.norm(delta), rel=1e-6, abs=1e-9 * size)
        assert value.inner(other) == pytest.approx(
            float((delta**2).sum()), rel=1e-9, abs=1e-12 * size**2
        )
        assert value.distance(other) <= 1e-6 * size
        assert value.is_finite()


@every_kind
def test_half_precision(folder: Path, name: str) -> None:
    """Factors stored in float16: the result is stored so too, and its error is certified."""
    made = MAKERS[name](Draw(7))
    for tensor, values in made.tensors.items():
        if values.dtype == np.float32 and "indices" not in tensor:
            made.tensors[tensor] = values.astype(np.float16)
    number = next(_numbers)
    done = pemath.compose(
        "0.5*a", folder / f"out{number}", operands={"a": str(made.write(folder / str(number)))}
    )
    assert pemath.inspect(str(done.folder)).dtypes.keys() == {"float16"}
    assert 0 < done.certificate.error < 2e-3


@every_kind
def test_opening_computes_nothing(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Computed] = []
    monkeypatch.setattr(_computed._SHELF, "keep", lambda owner, values: kept.append(owner))
    adapter = opened(MAKERS[name](Draw(3)), folder)
    assert not kept
    for value in adapter.sites.values():
        value.norm()
    assert kept


def test_a_small_file_of_a_large_matrix_costs_little_more_than_the_matrix(folder: Path) -> None:
    made, size = Made("C3A"), 1024
    made.add(SITES[0], c3a_kernel=np.ones((1, 1, size), np.float32))
    (value,) = opened(made, folder).sites.values()
    matrix = value.blocks[0].parts[0].b
    tracemalloc.start()
    try:
        assert matrix.raw.nbytes == 8 * size * size
        assert tracemalloc.get_traced_memory()[1] < 1.1 * matrix.raw.nbytes
    finally:
        tracemalloc.stop()


def test_computed_values_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_computed, "_KEPT_BYTES", 2000)
    monkeypatch.setattr(_computed, "_SHELF", _computed._Shelf())
    made = []

    def matrix(number: int) -> Computed:
        def compute() -> np.ndarray:
            made.append(number)
            return np.full((10, 10), float(number))

        return Computed((10, 10), compute)

    first, second, third = matrix(1), matrix(2), matrix(3)
    for one in (first, first, second, second, third, third, first):
        assert one.raw.shape == one.shape == (10, 10)
    assert made == [1, 2, 3, 1]


def test_a_source_that_is_not_finite_is_told() -> None:
    source = Stored.of(np.array([np.inf]))
    assert not Computed((1, 1), lambda: np.zeros((1, 1)), (source,)).is_finite()
    assert not Computed((1, 1), lambda: np.full((1, 1), np.nan)).is_finite()
    assert Computed((1, 1), lambda: np.zeros((1, 1))).is_finite()


def test_sums_of_full_matrices_keep_the_rank(folder: Path) -> None:
    made = Made("C3A")
    made.add("layers.0.query", c3a_kernel=Draw(1).values(2, 2, 4))
    other = Made("C3A")
    other.add("layers.0.query", c3a_kernel=Draw(2).values(2, 2, 4))
    folders = {
        n: str(m.write(folder / f"{n}{next(_numbers)}")) for n, m in (("a", made), ("b", other))
    }
    done = pemath.compose("a + b", folder / f"out{next(_numbers)}", operands=folders)
    assert pemath.inspect(str(done.folder)).ranks == [8]
    assert identity(8) is identity(8)


@pytest.mark.parametrize("extra", ["k", "out_proj"])
def test_widths_that_names_leave_open(folder: Path, extra: str) -> None:
    """q and k of one attention read one input; the output projection may read another."""
    made = MAKERS["vera"](Draw(5))
    for number in range(2):
        for role in ("vera_lambda_b", "vera_lambda_d"):
            tensor = made.tensors.pop(f"base_model.model.layers.{number}.query.{role}")
            made.tensors[f"base_model.model.layers.{number}.attention.q.{role}"] = tensor
            made.tensors[f"base_model.model.layers.{number}.attention.{extra}.{role}"] = tensor
    path = PeftFolder.open(made.write(folder / str(next(_numbers))))
    if extra == "k":
        assert len(open_adapter(path).sites) == 4
    else:
        with pytest.raises(pemath.PemathError, match=r"layers\.N\.attention\.out_proj"):
            open_adapter(path)


def test_a_plug_in_is_asked_for_an_unknown_type(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MAKERS["loha"](Draw(1))
    made.kind = "LOHA9"
    path = PeftFolder.open(made.write(folder / str(next(_numbers))))
    with pytest.raises(pemath.PemathError, match="did you mean LOHA"):
        open_adapter(path)
    loha, lora = compiled_kinds()["loha"], kinds()["lora"]
    asked = []

    def load(group: str, registry: dict[str, object], accepted: object) -> dict[str, str]:
        asked.append(group)
        registry["mine"] = replace(loha, name="mine", peft_types=("LOHA9", "LORA"))
        return {}

    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))
    monkeypatch.setattr(plugins, "load", load)
    _registry._load_plugins.cache_clear()
    try:
        assert open_adapter(path).sites.keys() == made.deltas.keys()
        assert asked == [_registry.GROUP] == ["pemath.kinds"]
        assert lora.folders is not None
        assert _registry._openers()["LORA"] == lora.folders.open  # pemath's own stay
    finally:
        _registry._load_plugins.cache_clear()


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 2, 4)])
@given(seed=seeds, c=st.sampled_from([1.0, -0.3]))
@settings(max_examples=15)
def test_full_rank_beside_a_lora(
    folder: Path, shape: tuple[int, int, int], seed: int, c: float
) -> None:
    """Whether the identity stands for A or for B: what is written, and what is said of it."""
    draw, number = Draw(seed), next(_numbers)
    made = Made("C3A")
    made.add(SITES[0], c3a_kernel=draw.values(*shape))
    outputs, inputs = shape[0] * shape[2], shape[1] * shape[2]
    plain = Made("LORA", config={"r": 2, "lora_alpha": 2})
    a, b = draw.values(2, inputs), draw.values(outputs, 2)
    plain.add(SITES[0], lora_A__weight=a, lora_B__weight=b)
    paths = {
        name: str(one.write(folder / f"{name}{number}"))
        for name, one in (("a", made), ("b", plain))
    }
    done = pemath.compose(f"{c}*a + 2*b", folder / f"out{number}", operands=paths)
    (value,) = open_adapter(PeftFolder.open(done.folder)).sites.values()
    kernel = made.tensors[f"base_model.model.{SITES[0]}.c3a_kernel"].astype(np.float64)
    wanted = 2 * b.astype(np.float64) @ a
    for m, n, t, s in np.ndindex(shape[0], shape[1], shape[2], shape[2]):
        place = m * shape[2] + t, n * shape[2] + s
        wanted[place] += c * kernel[m, n, (s - t) % shape[2]] / inputs
    off = np.linalg.norm(value.delta_weight() - wanted)
    size = np.linalg.norm(wanted)
    assert off <= 1e-6 * size
    stated = done.certificate.sites[SITES[0]]
    assert stated.error * size == pytest.approx(off, rel=1e-3, abs=1e-13 * size)
