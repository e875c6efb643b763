"""What `compare` says, against dense float64."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pemath.diagnose.compare import Combination, Comparison, Outcome, Pair, compare
from pemath.errors import (
    KindMismatch,
    NonFiniteValue,
    ReferenceNotFound,
    ShapeMismatch,
    UnsupportedFeature,
)
from pemath.expression.tree import Operand

PREFIX = "base_model.model."
SITES = ("encoder.0.query", "encoder.0.value", "encoder.1.query")
OUTPUTS, INPUTS, RANK = 20, 24, 4
SUM, MEAN, DIFFERENCE = range(3)
WEIGHTS = ((1.0, 1.0), (0.5, 0.5), (1.0, -1.0))

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]


# ------------------------------------------------------------------------------- writing adapters


def save(folder: Path, tensors: Mapping[str, np.ndarray], **config: Any) -> str:
    folder.mkdir()
    stored = {PREFIX + name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"base_model_name_or_path": "some/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return str(folder)


def lora(folder: Path, factors: Factors, scale: float = 1.0, **config: Any) -> str:
    tensors = {}
    for site, (a, b) in factors.items():
        tensors[f"{site}.lora_A.weight"] = a
        tensors[f"{site}.lora_B.weight"] = b
    rank = next(iter(factors.values()))[0].shape[0]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, **config}
    return save(folder, tensors, **settings)


def ia3(folder: Path, vectors: Mapping[str, np.ndarray]) -> str:
    tensors = {f"{site}.ia3_l": vector for site, vector in vectors.items()}
    return save(folder, tensors, peft_type="IA3")


def drawn(seed: int, rank: int = RANK, sites: tuple[str, ...] = SITES) -> Factors:
    rng = np.random.default_rng(seed)
    return {
        site: (rng.standard_normal((rank, INPUTS)), rng.standard_normal((OUTPUTS, rank)))
        for site in sites
    }


def with_a_of(factors: Factors, other: Factors, drift: float = 0.0) -> Factors:
    """B of `factors`; A of `other`, moved by `drift` of its size."""
    rng = np.random.default_rng(99)
    moved = {}
    for site, (_, b) in factors.items():
        a = other[site][0]
        noise = rng.standard_normal(a.shape)
        moved[site] = a + drift * np.linalg.norm(a) / np.linalg.norm(noise) * noise, b
    return moved


# ------------------------------------------------------------------------------------ the oracle


def dense(factors: Factors, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {site: scale * (b @ a) for site, (a, b) in factors.items()}


def stacked(deltas: Mapping[str, np.ndarray], sites: list[str]) -> np.ndarray:
    zero = np.zeros((OUTPUTS, INPUTS))
    return np.stack([deltas.get(site, zero) for site in sites])


def by_paper(c: list[float], a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    if len(c) == 1:
        return c[0] * b[0] @ a[0]
    return sum(w * x for w, x in zip(c, b, strict=True)) @ sum(
        abs(w) * x for w, x in zip(c, a, strict=True)
    )


def normalized(c: list[float], a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    return by_paper(c, a, b) / (sum(map(abs, c)) if len(c) > 1 else 1)


def by_peft(c: list[float], a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    return sum(math.sqrt(abs(w)) * x for w, x in zip(c, b, strict=True)) @ sum(
        math.copysign(math.sqrt(abs(w)), w) * x for w, x in zip(c, a, strict=True)
    )


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "paper": by_paper,
    "paper(normalize=true)": normalized,
    "peft_linear": by_peft,
}


def check_combinations(
    found: Comparison, x: Factors, y: Factors, scale_x: float = 1.0, scale_y: float = 1.0
) -> None:
    """Every number of the table of methods, against dense matrices."""
    sites = list(dict.fromkeys([*x, *y]))
    assert [outcome.method for outcome in found.combinations[SUM].outcomes] == list(METHODS)
    for combination, weights in zip(found.combinations, WEIGHTS, strict=True):
        exact = weights[0] * stacked(dense(x, scale_x), sites) + weights[1] * stacked(
            dense(y, scale_y), sites
        )
        size = np.linalg.norm(exact)
        assert combination.norm == pytest.approx(size, rel=1e-11)
        for outcome in combination.outcomes:
            merged = np.zeros_like(exact)
            for index, site in enumerate(sites):
                having = [
                    (w * s, *factors[site])
                    for w, s, factors in zip(weights, (scale_x, scale_y), (x, y), strict=True)
                    if site in factors
                ]
                if outcome.method == "peft_linear":
                    c, a, b = map(list, zip(*having, strict=True))
                else:  # the scale belongs to B
                    c = [w for w, factors in zip(weights, (x, y), strict=True) if site in factors]
                    a = [entry[1] for entry in having]
                    b = [entry[0] / w * entry[2] for entry, w in zip(having, c, strict=True)]
                merged[index] = METHODS[outcome.method](c, a, b)
            tolerance = 1e-6 if outcome.method == "peft_linear" else 1e-11
            assert outcome.remark is None
            assert outcome.error == pytest.approx(
                np.linalg.norm(merged - exact) / size, rel=tolerance, abs=tolerance
            )
            assert outcome.projection == pytest.approx(
                np.vdot(merged, exact) / size**2, rel=tolerance, abs=tolerance
            )


def degrees(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Principal angles between the row spaces of x and y."""
    bases = [np.linalg.qr(rows.T)[0] for rows in (x, y)]
    cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def outcome_of(combination: Combination, method: str) -> Outcome:
    return next(outcome for outcome in combination.outcomes if outcome.method == method)


# ----------------------------------------------------------------------------------------- sizes


def test_norms_cosines_and_angles(tmp_path: Path) -> None:
    x, y = drawn(1), drawn(2)
    found = compare(lora(tmp_path / "x", x, 2.0), lora(tmp_path / "y", y, 0.5))

    assert (found.a, found.b, found.kind) == ("a", "b", "lora")
    assert found.references == (str(tmp_path / "x"), str(tmp_path / "y"))
    assert list(found.sites) == list(SITES)
    first, second = dense(x, 2.0), dense(y, 0.5)
    for site, facts in found.sites.items():
        p, q = first[site], second[site]
        assert facts.delta.norm_a == pytest.approx(np.linalg.norm(p), rel=1e-12)
        assert facts.delta.norm_b == pytest.approx(np.linalg.norm(q), rel=1e-12)
        assert facts.delta.distance == pytest.approx(np.linalg.norm(p - q), rel=1e-12)
        assert facts.delta.relative_norm == pytest.approx(
            np.linalg.norm(q) / np.linalg.norm(p), rel=1e-12
        )
        cosine = np.vdot(p, q) / np.linalg.norm(p) / np.linalg.norm(q)
        assert facts.delta.cosine == pytest.approx(cosine, abs=1e-13)
        assert facts.ranks == (RANK, RANK)
        spaces = [
            (facts.rows, degrees(x[site][0], y[site][0])),
            (facts.columns, degrees(x[site][1].T, y[site][1].T)),
        ]
        for angles, expected in spaces:
            assert angles is not None
            assert angles.mean == pytest.approx(expected.mean(), rel=1e-9)
            assert angles.largest == pytest.approx(expected.max(), rel=1e-9)
            similarity = (np.cos(np.radians(expected)) ** 2).mean()
            assert angles.similarity == pytest.approx(similarity, rel=1e-9)
            assert angles.count == RANK
        a_cosine = np.vdot(x[site][0], y[site][0]) / math.prod(
            float(np.linalg.norm(f[site][0])) for f in (x, y)
        )
        assert facts.factor_a is not None
        assert facts.factor_a.cosine == pytest.approx(a_cosine, abs=1e-12)

    all_x, all_y = stacked(first, list(SITES)), stacked(second, list(SITES))
    assert found.delta.norm_a == pytest.approx(np.linalg.norm(all_x), rel=1e-12)
    assert found.delta.norm_b == pytest.approx(np.linalg.norm(all_y), rel=1e-12)
    total = np.vdot(all_x, all_y) / np.linalg.norm(all_x) / np.linalg.norm(all_y)
    assert found.delta.cosine == pytest.approx(total, abs=1e-13)
    every = np.concatenate([degrees(x[site][0], y[site][0]) for site in SITES])
    assert found.rows is not None
    assert found.rows.mean == pytest.approx(every.mean(), rel=1e-9)
    assert found.rows.largest == pytest.approx(every.max(), rel=1e-9)
    assert found.rows.count == 3 * RANK
    check_combinations(found, x, y, 2.0, 0.5)


def test_small_angles_keep_their_digits(tmp_path: Path) -> None:
    x = drawn(1, sites=SITES[:1])
    a, b = x[SITES[0]]
    basis = np.linalg.qr(a.T)[0].T
    outside = np.random.default_rng(5).standard_normal(INPUTS)
    outside -= basis.T @ (basis @ outside)
    outside /= np.linalg.norm(outside)
    tilted = basis.copy()
    tilted[0] = math.cos(1e-9) * basis[0] + math.sin(1e-9) * outside
    first = {SITES[0]: (basis, b)}
    found = compare(lora(tmp_path / "x", first), lora(tmp_path / "y", {SITES[0]: (tilted, b)}))
    assert found.rows is not None
    assert found.rows.largest == pytest.approx(math.degrees(1e-9), rel=1e-4)
    assert found.columns is not None
    assert found.columns.largest < 1e-11


def test_many_slabs_of_a_large_site(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def one(rank: int) -> tuple[np.ndarray, np.ndarray]:
        shapes = (rank, 3000), (2500, rank)
        return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)  # type: ignore[return-value]

    x, y = {SITES[0]: one(3)}, {SITES[0]: one(5)}
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))
    p, q = (factors[SITES[0]][1].astype(float) @ factors[SITES[0]][0] for factors in (x, y))
    assert found.delta.inner == pytest.approx(np.vdot(p, q), rel=1e-10)
    assert found.delta.distance == pytest.approx(np.linalg.norm(p - q), rel=1e-12)


def test_a_rank_above_the_size_of_the_matrix(tmp_path: Path) -> None:
    x, y = drawn(1, rank=30), drawn(2, rank=30)
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))
    check_combinations(found, x, y)
    assert found.rows is not None
    assert found.rows.largest < 1e-10
    assert found.columns is not None
    assert found.columns.count == 3 * OUTPUTS


# ------------------------------------------------------------------------- shared initialisation


def test_identical_a(tmp_path: Path) -> None:
    """Measured on released PEFT too: the mean doubled, the difference gone."""
    x = drawn(1)
    y = with_a_of(drawn(2), x)
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))

    assert found.initialisation is not None
    assert found.initialisation.verdict == "identical"
    assert found.initialisation.text == "identical A"
    assert found.initialisation.drift == 0.0
    assert found.initialisation.cosine == pytest.approx(1.0)
    assert found.initialisation.consequence.startswith("paper arithmetic is exact")
    assert found.rows is not None
    assert found.rows.largest < 1e-10
    assert found.rows.similarity == pytest.approx(1.0)
    check_combinations(found, x, y)

    total, mean, difference = found.combinations
    assert outcome_of(mean, "peft_linear").projection == pytest.approx(2.0, abs=1e-6)
    assert outcome_of(mean, "peft_linear").error == pytest.approx(1.0, abs=1e-6)
    assert outcome_of(difference, "peft_linear").projection == pytest.approx(0.0, abs=1e-6)
    assert outcome_of(difference, "peft_linear").error == pytest.approx(1.0, abs=1e-6)
    assert outcome_of(mean, "paper").error == 0.0
    assert outcome_of(total, "paper").projection == pytest.approx(2.0)
    for combination in found.combinations:
        assert outcome_of(combination, "paper(normalize=true)").error == 0.0
        assert outcome_of(combination, "paper(normalize=true)").projection == pytest.approx(1.0)


@pytest.mark.parametrize("drift", [1e-6, 0.1, 0.5])
def test_a_drifted_from_one_initialisation(tmp_path: Path, drift: float) -> None:
    x = drawn(1)
    y = with_a_of(drawn(2), x, drift)
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))

    a, b = (np.stack([factors[site][0] for site in SITES]) for factors in (x, y))
    size = math.hypot(float(np.linalg.norm(a)), float(np.linalg.norm(b))) / math.sqrt(2)
    assert found.initialisation is not None
    assert found.initialisation.verdict == "same"
    assert found.initialisation.drift == pytest.approx(np.linalg.norm(a - b) / size, rel=1e-8)
    assert found.initialisation.text.startswith("same initialisation (A drifted by ")
    check_combinations(found, x, y)
    paper = outcome_of(found.combinations[MEAN], "paper").error
    assert paper is not None
    assert 0 < paper < drift


def test_independent_initialisations(tmp_path: Path) -> None:
    x, y = drawn(1), drawn(2)
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))
    assert found.initialisation is not None
    assert found.initialisation.verdict == "independent"
    assert found.initialisation.text == "independent initialisations"
    assert found.initialisation.drift == pytest.approx(math.sqrt(2), abs=0.2)
    assert "not exact" in found.initialisation.consequence
    check_combinations(found, x, y)


def test_an_initialisation_shared_at_some_sites(tmp_path: Path) -> None:
    x, y = drawn(1), dict(drawn(2))
    y[SITES[0]] = x[SITES[0]][0], y[SITES[0]][1]
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))
    assert found.initialisation is not None
    assert found.initialisation.verdict == "mixed"
    assert found.initialisation.text.startswith("same initialisation at 1 of 3 sites")
    check_combinations(found, x, y)


def test_ranks_that_differ(tmp_path: Path) -> None:
    x, y = drawn(1), drawn(2, rank=6)
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))

    assert found.initialisation is not None
    assert found.initialisation.verdict == "unknown"
    assert found.initialisation.text == "cannot tell (ranks differ)"
    assert found.initialisation.drift is None
    assert "refused" in found.initialisation.consequence
    facts = found.sites[SITES[0]]
    assert facts.ranks == (4, 6)
    assert facts.factor_a is None
    assert facts.rows is not None
    assert facts.rows.count == 4
    expected = degrees(x[SITES[0]][0], y[SITES[0]][0])
    assert facts.rows.mean == pytest.approx(expected.mean(), rel=1e-9)
    for combination, (c, d) in zip(found.combinations, WEIGHTS, strict=True):
        exact = c * stacked(dense(x), list(SITES)) + d * stacked(dense(y), list(SITES))
        assert combination.norm == pytest.approx(np.linalg.norm(exact), rel=1e-12)
        for outcome in combination.outcomes:
            assert (outcome.error, outcome.projection) == (None, None)
            assert outcome.remark is not None
            assert outcome.remark.startswith("refused: factors of different ranks")
            assert f"3 site(s): `{SITES[0]}`" in outcome.remark


def test_a_rank_that_differs_at_one_site(tmp_path: Path) -> None:
    x = drawn(1)
    y = dict(with_a_of(drawn(2), x)) | drawn(3, rank=6, sites=SITES[2:])
    second = lora(tmp_path / "y", y, rank_pattern={SITES[2]: 6}, alpha_pattern={SITES[2]: 6})
    found = compare(lora(tmp_path / "x", x), second)
    assert found.initialisation is not None
    assert found.initialisation.text == "identical A at the 2 site(s) of equal rank"
    remark = found.combinations[SUM].outcomes[0].remark
    assert remark is not None
    assert f"1 site(s): `{SITES[2]}`" in remark


def test_an_embedding_tells_nothing_about_the_draw(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def tensors() -> dict[str, np.ndarray]:
        return {
            "embed.lora_embedding_A": rng.standard_normal((4, 50)),
            "embed.lora_embedding_B": rng.standard_normal((12, 4)),
        }

    paths = [save(tmp_path / name, tensors(), peft_type="LORA", r=4, lora_alpha=4) for name in "xy"]
    found = compare(*paths)
    assert found.initialisation is not None
    assert found.initialisation.verdict == "unknown"


# -------------------------------------------------------------------------------- special values


def test_one_adapter_with_itself(tmp_path: Path) -> None:
    path = lora(tmp_path / "x", drawn(1), 2.0)
    found = compare(path, path)
    copied = compare(path, lora(tmp_path / "copy", drawn(1), 2.0))

    for comparison in (found, copied):
        assert comparison.delta.distance == 0.0
        assert comparison.delta.cosine == pytest.approx(1.0, abs=1e-15)
        assert comparison.delta.relative_norm == 1.0
        difference = comparison.combinations[DIFFERENCE]
        assert difference.norm == 0.0
        for outcome in difference.outcomes:
            assert (outcome.error, outcome.projection) == (None, None)
            assert outcome.remark == "the exact result is zero, so is this"
        linear = outcome_of(comparison.combinations[MEAN], "peft_linear")
        assert linear.projection == pytest.approx(2.0, abs=1e-6)


def test_a_method_that_leaves_something_of_an_exact_zero(tmp_path: Path) -> None:
    """The same product from other factors: b = a with A and B turned by one rotation."""
    x = drawn(1)
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((RANK, RANK)))[0]
    y = {site: (turn @ a, b @ turn.T) for site, (a, b) in x.items()}
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))

    assert found.delta.distance <= 1e-13 * found.delta.norm_a
    difference = found.combinations[DIFFERENCE]
    assert difference.norm == 0.0
    remark = outcome_of(difference, "paper").remark
    left = stacked(
        {site: (x[site][1] - y[site][1]) @ (x[site][0] + y[site][0]) for site in SITES}, list(SITES)
    )
    assert remark == f"the exact result is zero, this has norm {np.linalg.norm(left):.4g}"


@pytest.mark.filterwarnings("error")
def test_a_method_that_overflows(tmp_path: Path) -> None:
    """PEFT computes in float32."""
    x, y = ({s: (a, 1e60 * b) for s, (a, b) in drawn(seed).items()} for seed in (1, 2))
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))
    linear = outcome_of(found.combinations[SUM], "peft_linear")
    assert (linear.error, linear.remark) == (None, "the result overflows")
    assert outcome_of(found.combinations[SUM], "paper").error is not None
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_an_untrained_adapter(tmp_path: Path) -> None:
    x = drawn(1)
    y = {site: (a, b * 0) for site, (a, b) in x.items()}
    found = compare(lora(tmp_path / "y", y), lora(tmp_path / "x", x))
    assert found.delta.cosine is None
    assert found.delta.relative_norm is None
    assert found.columns is None
    assert found.rows is not None
    assert found.initialisation is not None
    assert found.initialisation.verdict == "identical"
    assert json.dumps(found.as_dict(), allow_nan=False)
    both = compare(lora(tmp_path / "z", y), str(tmp_path / "y"))
    assert all(combination.norm == 0.0 for combination in both.combinations)


def test_sites_that_only_one_has(tmp_path: Path) -> None:
    x, y = drawn(1, sites=SITES[:2]), drawn(2, sites=SITES[1:])
    found = compare(lora(tmp_path / "x", x, 2.0), lora(tmp_path / "y", y))

    assert list(found.sites) == [SITES[1]]
    assert found.only_a == pytest.approx({SITES[0]: np.linalg.norm(dense(x, 2.0)[SITES[0]])})
    assert found.only_b == pytest.approx({SITES[2]: np.linalg.norm(dense(y)[SITES[2]])})
    p, q = stacked(dense(x, 2.0), list(SITES)), stacked(dense(y), list(SITES))
    assert found.delta.norm_a == pytest.approx(np.linalg.norm(p), rel=1e-12)
    assert found.delta.distance == pytest.approx(np.linalg.norm(p - q), rel=1e-12)
    total = np.vdot(p, q) / np.linalg.norm(p) / np.linalg.norm(q)
    assert found.delta.cosine == pytest.approx(total, abs=1e-13)
    check_combinations(found, x, y, 2.0)


def test_no_site_in_common(tmp_path: Path) -> None:
    x, y = drawn(1, sites=SITES[:1]), drawn(2, sites=SITES[1:])
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", y))
    assert not found.sites
    assert found.delta.cosine == 0.0
    assert (found.rows, found.columns) == (None, None)
    assert found.initialisation is not None
    assert found.initialisation.verdict == "unknown"
    check_combinations(found, x, y)


def test_biases_of_b_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    x, y = drawn(1, sites=SITES[:1]), drawn(2, sites=SITES[:1])
    biases = [rng.standard_normal(OUTPUTS) for _ in "xy"]
    paths = []
    for name, factors, bias in zip("xy", (x, y), biases, strict=True):
        a, b = factors[SITES[0]]
        tensors = {
            f"{SITES[0]}.lora_A.weight": a,
            f"{SITES[0]}.lora_B.weight": b,
            f"{SITES[0]}.lora_B.bias": bias,
        }
        settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "lora_bias": True}
        paths.append(save(tmp_path / name, tensors, **settings))
    found = compare(*paths)
    weight = [dense(factors)[SITES[0]] for factors in (x, y)]
    full = [np.concatenate([w.ravel(), v]) for w, v in zip(weight, biases, strict=True)]
    assert found.delta.norm_a == pytest.approx(np.linalg.norm(full[0]), rel=1e-12)
    assert found.delta.distance == pytest.approx(np.linalg.norm(full[0] - full[1]), rel=1e-12)


def convolution(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two groups of rank 2."""
    a, b = rng.standard_normal((4, 6, 3, 3)), rng.standard_normal((8, 2, 1, 1))
    return {"conv.lora_A.weight": a, "conv.lora_B.weight": b}, b.reshape(2, 4, 2) @ a.reshape(
        2, 2, -1
    )


def experts(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three experts of rank 4."""
    a, b = rng.standard_normal((3 * 4, 7)), rng.standard_normal((8, 4 * 3))
    delta = np.einsum("ore,eri->eoi", b.reshape(8, 4, 3), a.reshape(3, 4, 7))
    return {"mlp.experts.lora_A.weight": a, "mlp.experts.lora_B.weight": b}, delta


@pytest.mark.parametrize(("layout", "angles"), [(convolution, 4), (experts, 12)])
def test_sites_of_several_blocks(tmp_path: Path, layout: Any, angles: int) -> None:
    rng = np.random.default_rng(6)
    deltas, paths = [], []
    for name in "xy":
        tensors, delta = layout(rng)
        deltas.append(delta)
        settings = {"r": 4, "lora_alpha": 4, "target_parameters": ["mlp.experts.weight"]}
        paths.append(save(tmp_path / name, tensors, peft_type="LORA", **settings))
    found = compare(*paths)
    assert found.delta.inner == pytest.approx(np.vdot(*deltas), rel=1e-11)
    assert found.delta.distance == pytest.approx(np.linalg.norm(deltas[0] - deltas[1]), rel=1e-12)
    assert found.rows is not None
    assert found.rows.count == angles


# ------------------------------------------------------------------------------------------ (IA)³


def test_ia3(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    x = {site: 1 + 0.8 * rng.standard_normal((40, 1)) for site in SITES[:2]}
    y = {site: 1 + 0.8 * rng.standard_normal((40, 1)) for site in SITES[:2]}
    found = compare(ia3(tmp_path / "x", x), ia3(tmp_path / "y", y))

    assert found.kind == "ia3"
    assert (found.initialisation, found.rows, found.columns) == (None, None, None)
    for site, facts in found.sites.items():
        p, q = (vectors[site].ravel() - 1 for vectors in (x, y))
        assert facts.delta.cosine == pytest.approx(
            p @ q / np.linalg.norm(p) / np.linalg.norm(q), abs=1e-13
        )
        assert facts.flips == ((x[site] <= 0).sum(), (y[site] <= 0).sum())
    assert found.flips == tuple(sum((v <= 0).sum() for v in z.values()) for z in (x, y))
    assert found.flips[0] > 0
    p, q = (np.concatenate([v.ravel() for v in z.values()]) - 1 for z in (x, y))
    assert found.delta.relative_norm == pytest.approx(np.linalg.norm(q) / np.linalg.norm(p))
    for combination, (c, d) in zip(found.combinations, WEIGHTS, strict=True):
        exact = c * p + d * q
        assert combination.norm == pytest.approx(np.linalg.norm(exact), rel=1e-12)
        assert combination.flips == (1 + exact <= 0).sum()
        for method in ("paper", "paper(normalize=true)"):
            assert outcome_of(combination, method).error == 0.0
        # The bare weighted sum of l: off by (c + d - 1) everywhere.
        bare = c * (1 + p) + d * (1 + q) - 1
        linear = outcome_of(combination, "peft_linear")
        assert linear.error == pytest.approx(
            np.linalg.norm(bare - exact) / np.linalg.norm(exact), abs=1e-6
        )
        assert linear.projection == pytest.approx(bare @ exact / (exact @ exact), abs=1e-6)
    for combination in (found.combinations[SUM], found.combinations[DIFFERENCE]):
        error = outcome_of(combination, "peft_linear").error
        assert error is not None
        assert error > 0.1
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_ia3_sites_that_only_one_has(tmp_path: Path) -> None:
    """An absent vector counts as one; PEFT leaves it out of its sum."""
    rng = np.random.default_rng(9)
    x = {SITES[0]: rng.uniform(0.5, 2, (6, 1))}
    y = {SITES[0]: rng.uniform(0.5, 2, (6, 1)), SITES[1]: rng.uniform(0.5, 2, (1, 8))}
    found = compare(ia3(tmp_path / "x", x), ia3(tmp_path / "y", y))
    assert found.only_b == pytest.approx({SITES[1]: np.linalg.norm(y[SITES[1]] - 1)})
    p = np.concatenate([x[SITES[0]].ravel(), np.ones(8)])
    q = np.concatenate([y[SITES[0]].ravel(), y[SITES[1]].ravel()])
    absent = np.concatenate([x[SITES[0]].ravel(), np.zeros(8)])
    for combination, (c, d) in zip(found.combinations, WEIGHTS, strict=True):
        exact = c * (p - 1) + d * (q - 1)
        assert combination.norm == pytest.approx(np.linalg.norm(exact), rel=1e-12)
        assert combination.flips == (1 + exact <= 0).sum()
        wrong = c * absent + d * q - 1 - exact
        assert outcome_of(combination, "peft_linear").error == pytest.approx(
            np.linalg.norm(wrong) / np.linalg.norm(exact), rel=1e-6
        )


# --------------------------------------------------------------------------------------- refusals


def test_kinds_that_differ_are_refused(tmp_path: Path) -> None:
    vectors = {SITES[0]: np.ones((OUTPUTS, 1))}
    with pytest.raises(KindMismatch):
        compare(lora(tmp_path / "x", drawn(1)), ia3(tmp_path / "y", vectors))


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    a, b = drawn(2)[SITES[1]]
    y = {SITES[1]: (a[:, :-1].copy(), b)}
    with pytest.raises(ShapeMismatch, match=SITES[1]):
        compare(lora(tmp_path / "x", drawn(1)), lora(tmp_path / "y", y))


def test_an_adapter_that_cannot_be_composed_is_refused(tmp_path: Path) -> None:
    second = lora(tmp_path / "y", drawn(2), use_dora=True)
    with pytest.raises(UnsupportedFeature, match="operand `b`"):
        compare(lora(tmp_path / "x", drawn(1)), second)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("sites", [SITES, SITES[1:2]])
@pytest.mark.filterwarnings("error")
def test_a_value_that_is_not_finite_is_refused(
    tmp_path: Path, value: float, sites: tuple[str, ...]
) -> None:
    y = drawn(2, sites=SITES[:2])
    y[SITES[1]][1][3, 0] = value
    with pytest.raises(NonFiniteValue, match=f"{SITES[1]}.lora_B"):
        compare(lora(tmp_path / "x", drawn(1, sites=sites)), lora(tmp_path / "y", y))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="operand `b`"):
        compare(lora(tmp_path / "x", drawn(1)), str(tmp_path / "nothing"))


# ------------------------------------------------------------------------------------ how it looks


def test_names(tmp_path: Path) -> None:
    paths = lora(tmp_path / "x", drawn(1)), lora(tmp_path / "y", drawn(2))
    named = compare(Operand(paths[0], "calm"), Operand(paths[1], "toxic"))
    assert (named.a, named.b) == ("calm", "toxic")
    assert [combination.expression for combination in named.combinations] == [
        "calm + toxic",
        "0.5*calm + 0.5*toxic",
        "calm - toxic",
    ]
    alike = compare(Operand(paths[0], "x"), Operand(paths[1], "x"))
    assert (alike.a, alike.b) == ("a", "b")
    assert compare(Operand(paths[0]), Operand(paths[1])).combinations[0].expression == "a + b"


def test_base_models_with_different_names_are_pointed_out(tmp_path: Path) -> None:
    first = lora(tmp_path / "x", drawn(1))
    second = lora(tmp_path / "y", drawn(2), base_model_name_or_path="another/model")
    assert not compare(first, first).notes
    (note,) = compare(first, second).notes
    assert "`some/base`" in note
    assert "`another/model`" in note


def test_the_dictionary_is_plain_json(tmp_path: Path) -> None:
    x = drawn(1)
    found = compare(lora(tmp_path / "x", x), lora(tmp_path / "y", with_a_of(drawn(2), x)))
    table = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert table["total"]["cosine"] == found.delta.cosine
    assert table["initialisation"]["verdict"] == "identical"
    assert table["sites"][SITES[0]]["ranks"] == [RANK, RANK]
    assert table["sites"][SITES[0]]["factor_a"]["drift"] == 0.0
    assert [row["method"] for row in table["combinations"][1]["methods"]] == list(METHODS)


def test_the_same_numbers_on_every_run(tmp_path: Path) -> None:
    paths = lora(tmp_path / "x", drawn(1)), lora(tmp_path / "y", drawn(2))
    assert compare(*paths) == compare(*paths)


def test_a_pair_of_orthogonal_things() -> None:
    pair = Pair(3.0, 3.0, 0.0, 3.0 * math.sqrt(2))
    assert (pair.cosine, pair.relative_norm) == (0.0, 1.0)
    assert pair.drift == pytest.approx(math.sqrt(2))
    assert Pair(0.0, 0.0, 0.0, 0.0).drift == 0.0
