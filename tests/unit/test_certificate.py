"""The certificate is true: what it says of a stored file is what dense float64 arithmetic measures.

Operands are written with the safetensors library and results are read back with it; nothing of
pemath takes part in measuring. One composition covers many sites, and each site is a case.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors import TensorSpec

import pemath
from pemath.composition.run import Composition
from pemath.errors import ErrorTooLarge, OutOfRange
from pemath.formats.floats import FLOAT_TYPES, Array, FloatType, Stored, narrow
from pemath.kinds._geometry import Geometry
from pemath.testing import Factors, factors, float_types, scalars

PREFIX = "base_model.model."
DTYPES = {kind.name: kind for kind in FLOAT_TYPES.values()}
F64, F32, F16, BF16 = (DTYPES[n] for n in ("float64", "float32", "float16", "bfloat16"))


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not under test, and waiting for it takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ------------------------------------------------------------------------------ files, by hand


def widen(dtype: str, data: bytes) -> Array:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


def read(folder: Path) -> dict[str, Array]:
    """The tensors of an adapter in float64."""
    data = (folder / "adapter_model.safetensors").read_bytes()
    return {
        name.removeprefix(PREFIX): widen(entry["dtype"], entry["data"]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(data)
    }


def dtypes(folder: Path) -> set[str]:
    data = (folder / "adapter_model.safetensors").read_bytes()
    return {entry["dtype"] for _, entry in safetensors.deserialize(data)}


def save(folder: Path, tensors: Mapping[str, Stored], config: Mapping[str, object]) -> Path:
    folder.mkdir(parents=True)
    alive = [
        (name, np.ascontiguousarray(stored.raw), stored.kind) for name, stored in tensors.items()
    ]
    table = {
        f"{PREFIX}{name}": TensorSpec(
            dtype=kind.name, shape=list(raw.shape), data_ptr=raw.ctypes.data, data_len=raw.nbytes
        )
        for name, raw, kind in alive
    }
    safetensors.serialize_file(table, str(folder / "adapter_model.safetensors"))
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "base", **config})
    )
    return folder


def names(geometry: Geometry) -> tuple[str, str, str]:
    if geometry.layout == "embedding":
        return "lora_embedding_A", "lora_embedding_B", "lora_embedding_B.bias"
    return "lora_A.weight", "lora_B.weight", "lora_B.bias"


def write(folder: Path, sites: Mapping[str, Factors]) -> Path:
    """A LoRA folder as PEFT writes it: ranks and alphas that differ are patterns."""
    tensors: dict[str, Stored] = {}
    for site, lora in sites.items():
        assert lora.a is not None
        assert lora.b is not None
        a, b, bias = names(lora.geometry)
        tensors[f"{site}.{a}"], tensors[f"{site}.{b}"] = lora.a, lora.b
        if lora.bias is not None:
            tensors[f"{site}.{bias}"] = lora.bias
    config: dict[str, object] = {
        "peft_type": "LORA",
        "r": next(iter(sites.values())).rank,
        "lora_alpha": alpha(next(iter(sites.values()))),
        "target_modules": sorted(sites),
    }
    experts = sorted(s for s, lora in sites.items() if lora.geometry.layout == "experts")
    if experts:
        config["target_parameters"] = [f"{site}.weight" for site in experts]
    else:
        config["rank_pattern"] = {site: lora.rank for site, lora in sites.items()}
        config["alpha_pattern"] = {site: alpha(lora) for site, lora in sites.items()}
    return save(folder, tensors, config)


def alpha(lora: Factors) -> float:
    return lora.scale * lora.rank


# ------------------------------------------------------------------------------------ the judge


def blocks(geometry: Geometry, a: Array, b: Array) -> list[Array]:
    """The dense products of a site's tensors, one per group or expert."""
    count = geometry.blocks
    if geometry.layout == "experts":
        wide_b = b.reshape(b.shape[0], -1, count)
        return list(np.einsum("ore,eri->eoi", wide_b, a.reshape(count, -1, a.shape[1])))
    rank, rows = a.shape[0] // count, b.shape[0] // count
    flat_a, flat_b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    return [
        flat_b[g * rows : (g + 1) * rows] @ flat_a[g * rank : (g + 1) * rank] for g in range(count)
    ]


def delta(lora: Factors) -> list[Array]:
    """The blocks of an operand's delta, and last that of the bias."""
    assert lora.a is not None
    assert lora.b is not None
    scale = alpha(lora) / lora.rank
    dense = [scale * block for block in blocks(lora.geometry, lora.a.widen(), lora.b.widen())]
    bias = np.zeros(lora.geometry.outputs) if lora.bias is None else scale * lora.bias.widen()
    return [*dense, bias]


def size(arrays: Iterable[Array]) -> float:
    return math.hypot(*(float(np.linalg.norm(array)) for array in arrays))


@dataclass(frozen=True)
class Case:
    """The operands at one site (None where one lacks it)."""

    members: Mapping[str, Factors | None]

    @property
    def geometry(self) -> Geometry:
        return next(lora for lora in self.members.values() if lora is not None).geometry

    def exact(self, weights: Mapping[str, float]) -> list[Array]:
        total: list[Array] | None = None
        for name, lora in self.members.items():
            if lora is not None and name in weights:
                term = [weights[name] * block for block in delta(lora)]
                total = term if total is None else [x + y for x, y in zip(total, term, strict=True)]
        assert total is not None
        return total

    def terms(self, weights: Mapping[str, float]) -> float:
        """Sizes of all that is added up, before anything cancels."""
        return sum(
            abs(weights.get(name, 0.0) * lora.scale)
            * size([lora.a.widen()])
            * size([lora.b.widen()])
            for name, lora in self.members.items()
            if lora is not None and lora.a is not None and lora.b is not None
        )


Cases = Mapping[str, Case]


def write_operands(folder: Path, cases: Cases) -> dict[str, str]:
    """The operands' folders by name."""
    operands = sorted({name for case in cases.values() for name in case.members})
    written = {}
    for name in operands:
        sites = {
            site: lora
            for site, case in cases.items()
            if (lora := case.members.get(name)) is not None
        }
        written[name] = str(write(folder / name, sites))
    return written


@dataclass(frozen=True)
class Measured:
    """What the stored file really is at one site."""

    norm: float
    deviation: float
    terms: float

    @property
    def error(self) -> float:
        if self.deviation == 0:
            return 0.0
        return self.deviation / self.norm if self.norm else math.inf

    @property
    def is_noise(self) -> bool:
        """Whether the exact sum is no more than the rounding of its terms in float64."""
        return self.norm <= 1e-12 * self.terms


def scale_of(config: Mapping[str, dict[str, float]], site: str, rank: int) -> float:
    r = config["rank_pattern"].get(site, config["r"])
    assert r == rank, (site, r, rank)
    assert not config["use_rslora"]
    return config["alpha_pattern"].get(site, config["lora_alpha"]) / rank  # type: ignore[operator]


def measure(folder: Path, cases: Cases, weights: Mapping[str, float]) -> dict[str, Measured]:
    """Dense float64 arithmetic on what the file holds."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = read(folder)
    found = {}
    for site, case in cases.items():
        geometry = case.geometry
        a_name, b_name, bias_name = names(geometry)
        a, b = tensors.pop(f"{site}.{a_name}"), tensors.pop(f"{site}.{b_name}")
        rank = a.shape[0] // (geometry.blocks if geometry.layout == "experts" else 1)
        scale = scale_of(config, site, rank)
        bias = tensors.pop(f"{site}.{bias_name}", np.zeros(geometry.outputs))
        stored = [*(scale * block for block in blocks(geometry, a, b)), scale * bias]
        exact = case.exact(weights)
        deviation = size([x - y for x, y in zip(stored, exact, strict=True)])
        found[site] = Measured(size(exact), deviation, case.terms(weights))
    assert not tensors, "tensors that belong to no site"
    return found


def assert_true(done: Composition, found: Mapping[str, Measured]) -> None:
    """The certificate says what was measured, at each site and in total, within 1e-6."""
    reports = done.certificate.sites
    assert reports.keys() == found.keys()
    for site, measured in found.items():
        report = reports[site]
        if report.norm is None:  # not needed
            assert all(other.deviation == 0.0 for other in reports.values())
        else:
            slack = 1e-12 * measured.terms
            assert report.norm == pytest.approx(measured.norm, rel=1e-6, abs=slack), site
        if measured.is_noise:
            # The exact sum is zero but for rounding: so is the file, or it is said to be far off.
            assert measured.deviation <= 1e-6 * measured.terms or report.error > 1e4, (
                site,
                measured,
            )
        elif math.isinf(measured.error):
            assert math.isinf(report.error), (site, measured)
        else:
            close = 1e-6 * max(1.0, measured.error)
            assert report.error == pytest.approx(measured.error, rel=0, abs=close), (site, measured)
    norm = math.hypot(*(measured.norm for measured in found.values()))
    deviation = math.hypot(*(measured.deviation for measured in found.values()))
    if norm > 1e-9 * max(measured.terms for measured in found.values()):
        close = 1e-6 * max(1.0, deviation / norm)
        assert done.certificate.error == pytest.approx(deviation / norm, rel=0, abs=close)


# ---------------------------------------------------------------------------------- the attacks

LINEAR = Geometry("linear", 8, (6,))
Pair = tuple[Factors, Factors]


def lora(a: Array, b: Array, scale: float = 1.0, kind: FloatType = F32, geometry: Geometry = LINEAR,
         bias: Array | None = None) -> Factors:  # fmt: skip
    def stored(values: Array) -> Stored:
        return Stored(narrow(values, kind), kind)

    rank = a.shape[0] // (geometry.blocks if geometry.layout == "experts" else 1)
    kept = None if bias is None else stored(bias)
    return Factors(geometry, rank, scale, stored(a), stored(b), kept)


def random(rng: np.random.Generator, rank: int = 3, **options: object) -> Factors:
    geometry = options.get("geometry", LINEAR)
    assert isinstance(geometry, Geometry)
    a = rng.standard_normal(geometry.shape_a(rank))
    return lora(a, rng.standard_normal(geometry.shape_b(rank)), **options)  # type: ignore[arg-type]


def arrays(value: Factors) -> tuple[Array, Array]:
    assert value.a is not None
    assert value.b is not None
    return value.a.widen(), value.b.widen()


def near(step: float, kind: FloatType = F64) -> Callable[[np.random.Generator], Pair]:
    """Two adapters whose A differ by `step`."""

    def pair(rng: np.random.Generator) -> Pair:
        first = random(rng, kind=kind)
        a, b = arrays(first)
        return first, lora(a + step * rng.standard_normal(a.shape), b, kind=kind)

    return pair


def mixed(kind: FloatType) -> Callable[[np.random.Generator], Pair]:
    """A2 = M A1, with whole numbers, so that it is exact in every type."""

    def pair(rng: np.random.Generator) -> Pair:
        a = np.round(4 * rng.standard_normal((3, 6)))
        m = np.array([[1.0, 2, 0], [0, 1, -1], [3, 0, 1]])
        b = rng.standard_normal((2, 8, 3))
        return lora(a, b[0], kind=kind), lora(m @ a, b[1], kind=kind)

    return pair


def changed(
    change: Callable[[Array, Array], tuple[Array, Array]], scale: float = 1.0, rank: int = 3
) -> Callable[[np.random.Generator], Pair]:
    """A random adapter, and another that is the first one after `change` of A and B."""

    def pair(rng: np.random.Generator) -> Pair:
        first = random(rng, rank)
        a, b = arrays(first)
        return first, lora(*change(a.copy(), b.copy()), scale)

    return pair


def graded(rng: np.random.Generator) -> Pair:
    """Kahan's matrix: every row is far from the span of those before it, and yet it is singular to
    half of the digits of float64."""
    n, s = 6, 0.35
    c = math.sqrt(1 - s * s)
    kahan = np.diag(s ** np.arange(n)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    geometry = replace(LINEAR, outputs=6)
    b = rng.standard_normal((6, 6))
    first = lora(kahan.T, b, kind=F64, geometry=geometry)
    return first, lora(b.T, kahan, kind=F64, geometry=geometry)


def uneven_groups(rng: np.random.Generator) -> Pair:
    """A grouped convolution whose second group hardly counts."""
    geometry = Geometry("conv", 6, (5, 1), 2)
    b = rng.standard_normal((2, 6, 3, 1)) * np.array([1e3] * 3 + [1.0] * 3).reshape(6, 1, 1)
    a = rng.standard_normal((2, 6, 5, 1))
    return lora(a[0], b[0], geometry=geometry), lora(a[1], b[1], geometry=geometry)


ATTACKS: Mapping[str, Callable[[np.random.Generator], Pair]] = {
    "independent": lambda rng: (random(rng), random(rng)),
    "other ranks and scales": lambda rng: (random(rng, 1, scale=3.0), random(rng, 5, scale=-0.01)),
    "rank above the size": lambda rng: (random(rng, 11), random(rng, 9)),
    "equal": changed(lambda a, b: (a, b)),
    "opposite": changed(lambda a, b: (a, b), scale=-1.0),
    "opposite A": changed(lambda a, b: (-a, b)),
    "doubled A, halved B": changed(lambda a, b: (2 * a, b / 2)),
    "permuted rows": changed(lambda a, b: (a[::-1], b[:, ::-1])),
    "shared A": changed(lambda a, b: (a, b[::-1])),
    "shared B": changed(lambda a, b: (a[:, ::-1], b)),
    "shared first row": changed(lambda a, b: (np.vstack([a[:1], b.T[:2, :6]]), b[::-1])),
    "near 1e-3": near(1e-3),
    "near 1e-6": near(1e-6),
    "near 1e-3 in float32": near(1e-3, F32),
    "near 1e-6 in float32": near(1e-6, F32),
    "near 1e-8": near(1e-8),
    "near in B": changed(lambda a, b: (a, b + 1e-6 * b[::-1])),
    "mixed rows": mixed(F64),
    "mixed rows in float32": mixed(F32),
    "mixed rows in bfloat16": mixed(BF16),
    "duplicated rows": changed(lambda a, b: (np.vstack([a[:1]] * 3), b)),
    "zero row": changed(lambda a, b: (a * [[0], [1], [1]], b)),
    "zero column": changed(lambda a, b: (a, b * [0, 1, 1])),
    "zero A": changed(lambda a, b: (0 * a, b)),
    "zero B": changed(lambda a, b: (a, 0 * b)),
    "zero scale": changed(lambda a, b: (a, b), scale=0.0),
    "all zero": lambda rng: (lora(np.zeros((3, 6)), np.zeros((8, 3))),) * 2,
    "huge beside small": changed(lambda a, b: (a[::-1] * 1e3, b * 1e-6)),
    "large A, small B": changed(lambda a, b: (a[::-1] * 3e2, b * 1e-4)),
    "rows of all sizes": changed(lambda a, b: (a * [[1e-5], [1], [100]], b)),
    "falling spectrum": lambda rng: (random(rng, 4, scale=1e-3), random(rng, 2, scale=20.0)),
    "bfloat16 beside float64": lambda rng: (random(rng, kind=BF16), random(rng, kind=F64)),
    "bfloat16 beside float16": lambda rng: (random(rng, kind=BF16), random(rng, kind=F16)),
    "graded": graded,
    "with bias": lambda rng: (
        random(rng, bias=rng.standard_normal(8)), random(rng, bias=rng.standard_normal(8))
    ),
    "large bias": lambda rng: (random(rng, 5, bias=50 * rng.standard_normal(8)), random(rng, 5)),
    "one output": lambda rng: (
        random(rng, 2, geometry=Geometry("linear", 1, (6,))),
        random(rng, 1, geometry=Geometry("linear", 1, (6,))),
    ),
    "embedding": lambda rng: (
        random(rng, 2, geometry=Geometry("embedding", 4, (9,))),
        random(rng, 5, geometry=Geometry("embedding", 4, (9,))),
    ),
    "convolution": lambda rng: (
        random(rng, 2, geometry=Geometry("conv", 6, (2, 2, 3))),
        random(rng, 4, geometry=Geometry("conv", 6, (2, 2, 3))),
    ),
    "grouped convolution": lambda rng: (
        random(rng, 4, geometry=Geometry("conv", 6, (3, 2), 2)),
        random(rng, 6, geometry=Geometry("conv", 6, (3, 2), 2)),
    ),
    "groups of all sizes": uneven_groups,
}  # fmt: skip

EXPERTS = Geometry("experts", 5, (4,), 3)


def attack_cases(seed: int = 7) -> dict[str, Case]:
    cases = {}
    for number, (name, make) in enumerate(ATTACKS.items()):
        rng = np.random.default_rng([seed, number])
        a, b = make(rng)
        cases[f"m.{name.replace(' ', '_').replace('-', '_').replace(',', '')}"] = Case(
            {"a": a, "b": b}
        )
    rng = np.random.default_rng(seed)
    cases["m.only_a"] = Case({"a": random(rng), "b": None})
    cases["m.only_b"] = Case({"a": None, "b": random(rng, 2)})
    return cases


def expert_cases(seed: int = 7) -> dict[str, Case]:
    rng = np.random.default_rng(seed)
    pairs = {f"m.experts{n}": (random(rng, 2, geometry=EXPERTS), random(rng, 3, geometry=EXPERTS)) for n in (0, 1)}  # fmt: skip
    return {site: Case({"a": a, "b": b}) for site, (a, b) in pairs.items()}


EXPRESSIONS: Mapping[str, Mapping[str, float]] = {
    "a + b": {"a": 1.0, "b": 1.0},
    "a - b": {"a": 1.0, "b": -1.0},
    "0.6*a + 0.4*b": {"a": 0.6, "b": 0.4},
    "a - 0.999999*b": {"a": 1.0, "b": -0.999999},
    "1e-4*b - 3*a": {"a": -3.0, "b": 1e-4},
}
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "lossless": {},
    "lossless, compact": {"profile": "compact"},
    "rank 1": {"rank": 1},
    "rank 4": {"rank": 4},
    "rank 3, compact": {"rank": 3, "profile": "compact"},
    "rank 40": {"rank": 40},
}


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cases, dict[str, str]]:
    cases = attack_cases()
    return cases, write_operands(tmp_path_factory.mktemp("attacks"), cases)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cases, dict[str, str]]:
    cases = expert_cases()
    return cases, write_operands(tmp_path_factory.mktemp("experts"), cases)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_adversarial_operands(
    attacks: tuple[Cases, dict[str, str]], tmp_path: Path, expression: str, options: str, dtype: str
) -> None:
    cases, operands = attacks
    done = pemath.compose(
        expression, tmp_path / "out", operands=operands, dtype=dtype, **OPTIONS[options]
    )
    assert dtypes(done.folder) == {DTYPES[dtype].code}
    found = measure(done.folder, cases, EXPRESSIONS[expression])
    assert_true(done, found)
    if options.startswith("lossless"):
        u = DTYPES[dtype].roundoff
        bound = 1.01 * (2 + u) * u + 1e-7
        for site, measured in found.items():
            assert measured.is_noise or measured.error <= bound, (site, measured)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_experts(
    experts: tuple[Cases, dict[str, str]], tmp_path: Path, options: str, dtype: str
) -> None:
    cases, operands = experts
    if "compact" in options:
        pytest.skip("experts have one rank")
    expression = "a - 0.5*b"
    done = pemath.compose(
        expression, tmp_path / "out", operands=operands, dtype=dtype, **OPTIONS[options]
    )
    assert_true(done, measure(done.folder, cases, {"a": 1.0, "b": -0.5}))


METHODS = [
    "exact",
    "paper",
    "paper(normalize=true)",
    "peft_linear",
    "peft_svd",
    "peft_svd(svd_rank=2)",
    "peft_svd(svd_clamp=0.9)",
]


def of_equal_rank(cases: Cases) -> Cases:
    """The sites where factors can be added."""
    return {
        site: case
        for site, case in cases.items()
        if len({value.rank for value in case.members.values() if value is not None}) == 1
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arithmetic", METHODS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_other_arithmetics(tmp_path: Path, expression: str, arithmetic: str, dtype: str) -> None:
    """The certificate measures a method's result against the exact sum."""
    cases = of_equal_rank(attack_cases())
    assert len(cases) > 20
    done = pemath.compose(
        expression,
        tmp_path / "out",
        operands=write_operands(tmp_path, cases),
        dtype=dtype,
        arithmetic=arithmetic,
    )
    assert_true(done, measure(done.folder, cases, EXPRESSIONS[expression]))


@pytest.mark.parametrize("options", [{"rank": 2}, {"rank": 1, "profile": "compact"}])
@pytest.mark.parametrize("arithmetic", ["paper", "peft_linear", "peft_svd(svd_rank=4)"])
def test_other_arithmetics_truncated(
    tmp_path: Path, arithmetic: str, options: dict[str, object]
) -> None:
    cases = of_equal_rank(attack_cases())
    done = pemath.compose(
        "0.6*a + 0.4*b",
        tmp_path / "out",
        operands=write_operands(tmp_path, cases),
        arithmetic=arithmetic,
        **options,
    )
    assert_true(done, measure(done.folder, cases, {"a": 0.6, "b": 0.4}))


def test_method_inside_an_expression(tmp_path: Path) -> None:
    cases = of_equal_rank(attack_cases())
    text = "2*paper(a, b, weights=[0.5, 0.5], normalize=true) - peft_linear(0.5*a, b)/4 + b"
    weights = {"a": 1 - 0.125, "b": 1 - 0.25 + 1}
    operands = write_operands(tmp_path, cases)
    done = pemath.compose(text, tmp_path / "out", operands=operands, rank=5)
    assert_true(done, measure(done.folder, cases, weights))


def test_one_folder_under_two_names(tmp_path: Path) -> None:
    """Named alike it is one operand; reached by another path it is read twice, and still no rank is
    added."""
    cases = {"m.q": Case({"a": random(np.random.default_rng(2))})}
    (path,) = write_operands(tmp_path, cases).values()
    (tmp_path / "link").symlink_to(path)
    for number, other in enumerate((path, str(tmp_path / "link"))):
        for expression, weight in (("a + 2*b", 3.0), ("a - b", 0.0), ("paper(a, -b)/2", 0.0)):
            out = tmp_path / f"out{number}{weight}{expression[0]}"
            done = pemath.compose(expression, out, operands={"a": path, "b": other})
            found = measure(done.folder, cases, {"a": weight})
            assert_true(done, found)
            assert found["m.q"].deviation <= 1e-6 * found["m.q"].terms + 1e-12
            rank = json.loads((done.folder / "adapter_config.json").read_text())["r"]
            assert rank == (3 if weight or "paper" in expression else 1)


# -------------------------------------------------------------------------------------- random

choices = st.sampled_from(
    [{}, {}, {"rank": 1}, {"rank": 3}, {"profile": "compact"}, {"rank": 2, "profile": "compact"}]
)


@settings(
    max_examples=250,
    # Shrinking a composition takes minutes; the sites that failed are named.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(factors(3), min_size=4, max_size=12),
    st.tuples(scalars(), scalars(), scalars()).filter(any),
    float_types(),
    choices,
)
def test_random_operands(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[Factors, ...]],
    numbers: tuple[float, float, float],
    kind: FloatType,
    options: dict[str, object],
) -> None:
    cases: dict[str, Case] = {}
    for number, members in enumerate(drawn):
        if members[0].geometry.layout != "experts" and any(member.rank for member in members):
            named = zip("abc", members, strict=True)
            cases[f"m.s{number}"] = Case({n: value if value.rank else None for n, value in named})
    present = {n for case in cases.values() for n, value in case.members.items() if value}
    weights = {n: c for n, c in zip("abc", numbers, strict=True) if n in present}
    folder = tmp_path_factory.mktemp("random")
    operands = {n: f for n, f in written(folder, cases).items() if n in weights}
    if not any(weights.values()):
        return
    text = " + ".join(f"{c!r}*{n}" for n, c in weights.items())
    try:
        done = pemath.compose(text, folder / "out", operands=operands, dtype=kind.name, **options)
    except OutOfRange:
        assert kind is F16
        return
    assert_true(done, measure(done.folder, cases, weights))


def written(folder: Path, cases: Cases) -> dict[str, str]:
    """As `write_operands`, without operands that have no site."""
    kept = {}
    for name in "abc":
        sites = {s: value for s, case in cases.items() if (value := case.members[name]) is not None}
        if sites:
            kept[name] = str(write(folder / name, sites))
    return kept


# ------------------------------------------------------------------------------------- real sizes


def correlated(share: float) -> Callable[[np.random.Generator, Geometry], Pair]:
    """Positive factors, whose products round in one direction, and a second adapter that leaves
    `share` of the first one's square in the difference."""

    def pair(rng: np.random.Generator, geometry: Geometry) -> Pair:
        a, b = rng.random(geometry.shape_a(12)) + 0.01, rng.random(geometry.shape_b(12)) + 0.01
        other = b + math.sqrt(share) * rng.standard_normal(b.shape)
        return lora(a, b, geometry=geometry), lora(a * (1 + 1e-5), other, geometry=geometry)

    return pair


LARGE: Mapping[str, Callable[[np.random.Generator, Geometry], Pair]] = {
    "independent": lambda rng, shape: (
        random(rng, 12, geometry=shape), random(rng, 12, geometry=shape)
    ),
    "independent bfloat16": lambda rng, shape: (
        random(rng, 12, geometry=shape, kind=BF16), random(rng, 12, geometry=shape, kind=BF16)
    ),
    **{f"correlated {share:g}": correlated(share) for share in (1.0, 0.2, 0.06, 0.02, 1e-3)},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("arithmetic", "options"),
    [("exact", {}), ("exact", {"rank": 12}), ("exact", {"rank": 20}), ("paper", {}), ("peft_linear", {})],
)  # fmt: skip
@pytest.mark.parametrize("expression", ["a - b", "0.5*a + 0.5*b"])
def test_sites_of_real_size(
    large: tuple[Cases, dict[str, str]], tmp_path: Path, expression: str, arithmetic: str,
    options: dict[str, object], dtype: str,
) -> None:  # fmt: skip
    """Long sums: products of float32 may lose digits that the certificate needs."""
    cases, operands = large
    done = pemath.compose(
        expression, tmp_path / "out", operands=operands, dtype=dtype, arithmetic=arithmetic, **options
    )  # fmt: skip
    weights = {"a": 1.0, "b": -1.0} if "-" in expression else {"a": 0.5, "b": 0.5}
    assert_true(done, measure(done.folder, cases, weights))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cases, dict[str, str]]:
    cases = {}
    for number, (name, make) in enumerate(LARGE.items()):
        rng = np.random.default_rng(number)
        a, b = make(rng, Geometry("linear", 700, (2500,)))
        cases[f"m.{name.replace(' ', '_').replace('.', '_')}"] = Case({"a": a, "b": b})
    return cases, write_operands(tmp_path_factory.mktemp("large"), cases)


# ---------------------------------------------------------------------------------- redundancy

REDUNDANT = {
    "equal": 3,
    "opposite": 3,
    "opposite_A": 3,
    "doubled_A_halved_B": 3,
    "permuted_rows": 3,
    "shared_A": 3,
    "shared_B": 3,
    "shared_first_row": 5,
    "near_in_B": 3,
    "mixed_rows": 3,
    "mixed_rows_in_float32": 3,
    "mixed_rows_in_bfloat16": 3,
    "duplicated_rows": 3,  # three copies of the first's first row
    "zero_row": 3,
    "zero_column": 3,
    "zero_A": 3,
    "zero_B": 3,
    "zero_scale": 3,
    "all_zero": 1,
    "rank_above_the_size": 6,
    "one_output": 1,
    "independent": 6,
}


@pytest.mark.parametrize("profile", ["portable", "compact"])
@pytest.mark.parametrize("name", REDUNDANT)
def test_redundant_rank_is_not_stored(
    attacks: tuple[Cases, dict[str, str]], tmp_path: Path, name: str, profile: str
) -> None:
    cases = {f"m.{name}": attacks[0][f"m.{name}"]}
    done = pemath.compose(
        "0.3*a + 0.45*b",
        tmp_path / "out",
        operands=write_operands(tmp_path, cases),
        profile=profile,
        dtype="float64",
    )
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert config["r"] == REDUNDANT[name]
    found = measure(done.folder, cases, {"a": 0.3, "b": 0.45})
    assert_true(done, found)
    assert all(measured.error < 1e-7 for measured in found.values())


@pytest.mark.parametrize("kind", DTYPES.values(), ids=DTYPES)
def test_many_operands_that_share_a_do_not_add_rank(kind: FloatType, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = arrays(random(rng, 4))
    members = {
        name: lora(a, b * number + rng.standard_normal(b.shape), 0.5, kind)
        for number, name in enumerate("abcde")
    }
    weights = {name: (-1.0) ** n * (n + 1) / 3 for n, name in enumerate("abcde")}
    cases = {"m.q": Case(members)}
    text = " + ".join(f"{c!r}*{name}" for name, c in weights.items())
    done = pemath.compose(text, tmp_path / "out", operands=write_operands(tmp_path, cases))
    assert json.loads((done.folder / "adapter_config.json").read_text())["r"] == 4
    assert_true(done, measure(done.folder, cases, weights))


def test_a_difference_of_equal_adapters_is_nothing(
    attacks: tuple[Cases, dict[str, str]], tmp_path: Path
) -> None:
    for name in ("equal", "doubled_A_halved_B", "permuted_rows", "all_zero"):
        cases = {f"m.{name}": attacks[0][f"m.{name}"]}
        folder = tmp_path / name
        operands = write_operands(folder, cases)
        done = pemath.compose("a - b", folder / "out", operands=operands)
        stored = read(done.folder)
        a, b = (stored[f"m.{name}.lora_{factor}.weight"] for factor in "AB")
        assert not (b @ a).any(), name
        assert done.certificate.error == 0.0, name
        assert json.loads((done.folder / "adapter_config.json").read_text())["r"] == 1, name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("expression", ["a - a", "0*a", "b - b + a - a", "b + 2*a - 2*a"])
def test_operands_that_cancel_in_the_expression(
    tmp_path: Path, expression: str, options: str
) -> None:
    """Their sites stay, as zeros."""
    rng = np.random.default_rng(1)
    both = Case({"a": random(rng), "b": random(rng, 2)})
    cases = {"m.both": both, "m.only_a": Case({"a": random(rng), "b": None})}
    operands = write_operands(tmp_path, cases)
    weights = {"a": 0.0, "b": 1.0 if expression.startswith("b +") else 0.0}
    if "b" not in expression:
        del operands["b"]
    done = pemath.compose(expression, tmp_path / "out", operands=operands, **OPTIONS[options])
    assert_true(done, measure(done.folder, cases, weights))
    assert done.certificate.sites["m.only_a"].error == 0.0
    if "rank" not in options:
        assert done.certificate.error < 1e-7


# ---------------------------------------------------------------------------------- max_error


def smallest_ranks(cases: Cases, weights: Mapping[str, float], bound: float) -> dict[str, int]:
    """For each site the smallest rank (per block) with which its relative error can hold, by dense
    singular values."""
    ranks = {}
    for site, case in cases.items():
        exact = case.exact(weights)
        values = [np.linalg.svd(block, compute_uv=False) for block in exact[:-1]]
        total = size(exact)
        rank = 0
        while size([v[rank:] for v in values]) > bound * total:
            rank += 1
        ranks[site] = rank
    return ranks


def spectra(geometry: Geometry, rng: np.random.Generator, decay: float, bias: Array | None) -> Case:
    """Two adapters whose sum has singular values that fall by `decay`."""
    rank = geometry.site_rank(3)
    pair = []
    for offset in (0, 3):
        a = rng.standard_normal(geometry.shape_a(rank))
        b = rng.standard_normal(geometry.shape_b(rank))
        steps = decay ** (offset + np.arange(3))
        if geometry.layout == "conv":
            b *= steps.reshape(1, 3, *(1 for _ in geometry.inputs[1:]))
        elif geometry.layout == "experts":
            b *= np.repeat(steps, geometry.blocks)
        else:
            b *= steps
        pair.append(lora(a, b, geometry=geometry, bias=bias))
    return Case({"a": pair[0], "b": pair[1]})


BOUNDS = (0.5, 0.1, 0.01, 1e-3, 1e-5)
SHAPED = {
    "linear": (Geometry("linear", 9, (8,)), None),
    "bias": (Geometry("linear", 9, (8,)), 5.0),
    "embedding": (Geometry("embedding", 7, (11,)), None),
    "convolution": (Geometry("conv", 8, (2, 2, 2)), None),
    "grouped": (Geometry("conv", 16, (8, 1), 2), None),
    "experts": (Geometry("experts", 8, (7,), 2), None),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("shape", SHAPED)
def test_max_error_gives_the_smallest_rank(
    tmp_path: Path, shape: str, bound: float, dtype: str
) -> None:
    geometry, bias_size = SHAPED[shape]
    weights = {"a": 0.7, "b": -1.0}
    for seed in range(4):
        rng = np.random.default_rng([seed, geometry.outputs])
        bias = None if bias_size is None else bias_size * rng.standard_normal(geometry.outputs)
        cases = {"m.q": spectra(geometry, rng, 0.4, bias)}
        folder = tmp_path / str(seed)
        operands = write_operands(folder, cases)
        text = "0.7*a - b"
        done = pemath.compose(text, folder / "out", operands=operands, max_error=bound, dtype=dtype)
        found = measure(done.folder, cases, weights)
        assert_true(done, found)
        assert found["m.q"].error <= bound
        stored = json.loads((done.folder / "adapter_config.json").read_text())["r"]
        smallest = geometry.site_rank(max(1, smallest_ranks(cases, weights, bound)["m.q"]))
        assert stored == smallest
        lower = stored - geometry.site_rank(1)
        if lower:
            less = pemath.compose(text, folder / "less", operands=operands, rank=lower, dtype=dtype)
            assert measure(less.folder, cases, weights)["m.q"].error > bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("profile", ["portable", "compact"])
@pytest.mark.parametrize("bound", [0.3, 0.03])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_max_error_holds(
    attacks: tuple[Cases, dict[str, str]],
    tmp_path: Path,
    expression: str,
    bound: float,
    profile: str,
    dtype: str,
) -> None:
    cases, operands = attacks
    weights = EXPRESSIONS[expression]
    done = pemath.compose(
        expression,
        tmp_path / "out",
        operands=operands,
        max_error=bound,
        dtype=dtype,
        profile=profile,
    )
    found = measure(done.folder, cases, weights)
    assert_true(done, found)
    for site, measured in found.items():
        assert measured.is_noise or measured.error <= bound, (site, measured)


@pytest.mark.parametrize("bound", BOUNDS[:4])
def test_compact_profile_gives_each_site_its_smallest_rank(tmp_path: Path, bound: float) -> None:
    rng = np.random.default_rng(11)
    plain = {name: geometry for name, (geometry, _) in SHAPED.items() if name != "experts"}
    cases = {
        f"m.{name}{decay}".replace("0.", "d"): spectra(geometry, rng, decay, None)
        for (name, geometry), decay in itertools.product(plain.items(), (0.9, 0.4, 0.1))
    }
    weights = {"a": 1.0, "b": 1.0}
    operands = write_operands(tmp_path, cases)
    done = pemath.compose(
        "a + b", tmp_path / "out", operands=operands, max_error=bound, profile="compact"
    )
    found = measure(done.folder, cases, weights)
    assert_true(done, found)
    config = json.loads((done.folder / "adapter_config.json").read_text())
    ranks = {site: config["rank_pattern"].get(site, config["r"]) for site in cases}
    wanted = {
        site: cases[site].geometry.site_rank(max(1, rank))
        for site, rank in smallest_ranks(cases, weights, bound).items()
    }
    assert ranks == wanted


def test_a_site_whose_name_ends_another_has_a_rank_of_its_own(tmp_path: Path) -> None:
    """PEFT's patterns are matched with the ends of names."""
    rng = np.random.default_rng(3)
    fast, slow = (spectra(Geometry("linear", 24, (20,)), rng, d, None) for d in (0.1, 0.9))
    operands = write_operands(tmp_path, {"proj": fast, "block.proj": slow})
    options = {"max_error": 0.01, "profile": "compact"}
    done = pemath.compose("a + b", tmp_path / "out", operands=operands, **options)
    ranks = {site: report.rank for site, report in done.certificate.sites.items()}
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert ranks["proj"] < ranks["block.proj"]
    assert config["r"] == ranks["block.proj"]
    assert config["rank_pattern"] == {"^proj": ranks["proj"]}
    again = pemath.compose("a", tmp_path / "again", operands={"a": str(done.folder)})
    assert again.certificate.error < 1e-6


@pytest.mark.parametrize("expression", ["karcher(a, b)", "ties(a, b, density=0.4) - 0.5*b"])
def test_what_is_left_out_is_a_share_of_all_sites(tmp_path: Path, expression: str) -> None:
    """Those with room for everything count too."""
    both = spectra(Geometry("linear", 24, (20,)), np.random.default_rng(3), 0.9, None)
    cases = {"k": both, "q": both, "v": Case({"a": both.members["a"]})}
    operands = write_operands(tmp_path, cases)
    options = {"rank": 3, "profile": "compact", "dtype": "float64"}
    done = pemath.compose(expression, tmp_path / "out", operands=operands, **options)
    made = dict(pemath.evaluate(expression, operands=operands))
    stored = dict(pemath.evaluate("out", operands={"out": str(done.folder)}))
    lost = [made[site].distance(stored[site]) for site in cases]
    lost = [math.hypot(gap, made[site].left_out) for gap, site in zip(lost, cases, strict=True)]
    size = [math.hypot(made[site].norm(), made[site].left_out) for site in cases]
    assert (lost[2] < 1e-9) == (expression == "karcher(a, b)")
    share = math.hypot(*lost) / math.hypot(*size)
    assert done.certificate.left_out == pytest.approx(share, rel=1e-6)
    assert done.certificate.as_dict()["left_out"] == done.certificate.left_out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("bound", [0.3, 0.1, 0.05, 0.02, 0.01])
def test_max_error_in_half_precision(tmp_path: Path, bound: float, dtype: str) -> None:
    """With rounding in it, too, a rank less would break the bound."""
    weights = {"a": 1.0, "b": 1.0}
    for seed in range(12):
        rng = np.random.default_rng([seed, 5])
        cases = {"m.q": spectra(Geometry("linear", 24, (20,)), rng, 0.5, None)}
        folder = tmp_path / str(seed)
        operands = write_operands(folder, cases)
        done = pemath.compose(
            "a + b", folder / "out", operands=operands, max_error=bound, dtype=dtype
        )
        found = measure(done.folder, cases, weights)["m.q"]
        assert found.error <= bound
        rank = json.loads((done.folder / "adapter_config.json").read_text())["r"]
        if rank > 1:
            less = pemath.compose(
                "a + b", folder / "less", operands=operands, rank=rank - 1, dtype=dtype
            )
            assert measure(less.folder, cases, weights)["m.q"].error > bound, seed


def test_max_error_that_rounding_breaks_is_refused(
    attacks: tuple[Cases, dict[str, str]], tmp_path: Path
) -> None:
    _, operands = attacks
    with pytest.raises(ErrorTooLarge) as refused:
        pemath.compose(
            "a + b", tmp_path / "out", operands=operands, max_error=1e-5, dtype="bfloat16"
        )
    assert refused.value.exit_code == 4
    assert not (tmp_path / "out").exists()


def test_max_error_that_a_method_breaks_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = {"m.q": Case({"a": random(rng), "b": random(rng)})}
    operands = write_operands(tmp_path, cases)
    with pytest.raises(ErrorTooLarge, match=r"m\.q"):
        pemath.compose(
            "0.5*a + 0.5*b", tmp_path / "out", operands=operands, max_error=0.1, arithmetic="paper"
        )
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------- (IA)³


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("arithmetic", ["exact", "paper", "peft_linear"])
def test_ia3(tmp_path: Path, expression: str, dtype: str, arithmetic: str) -> None:
    """Of (IA)³ the certificate measures l - 1."""
    rng = np.random.default_rng(5)
    vectors: dict[str, dict[str, Stored]] = {"a": {}, "b": {}}
    for number, (kind, step) in enumerate(
        itertools.product(DTYPES.values(), (1.0, 1e-3, 1e-6, 0.0, None))
    ):
        shape = (7, 1) if number % 2 else (1, 7)
        first = 1.0 + 0.5 * rng.standard_normal(shape)
        vectors["a"][f"m.s{number}"] = Stored(narrow(first, kind), kind)
        if step is not None:
            second = first + step * rng.standard_normal(shape)
            vectors["b"][f"m.s{number}"] = Stored(narrow(second, kind), kind)
    operands = {
        name: str(
            save(
                tmp_path / name,
                {f"{site}.ia3_l": vector for site, vector in of.items()},
                {
                    "peft_type": "IA3",
                    "target_modules": sorted(of),
                    "feedforward_modules": sorted(s for s in of if of[s].shape[0] == 1),
                },
            )
        )
        for name, of in vectors.items()
    }
    weights = EXPRESSIONS[expression]
    done = pemath.compose(
        expression, tmp_path / "out", operands=operands, dtype=dtype, arithmetic=arithmetic
    )
    found = {}
    for site, vector in read(done.folder).items():
        name = site.removesuffix(".ia3_l")
        exact = sum(
            weights[o] * (of[name].widen() - 1.0) for o, of in vectors.items() if name in of
        )
        found[name] = Measured(size([exact]), size([vector - 1.0 - exact]), 10.0)
    assert_true(done, found)
