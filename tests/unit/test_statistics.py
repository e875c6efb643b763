"""Data-driven methods against their formulas in dense float64, and what statistics are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath.errors import (
    BadHeader,
    DuplicateTensor,
    LayoutError,
    NonFiniteValue,
    PemathError,
    RankMismatch,
    RequestError,
    StatisticsNeeded,
    StorageError,
    UnknownDtype,
)
from pemath.formats.files import sha256
from pemath.formats.floats import Array
from pemath.methods.regmean import _solved

PREFIX = "base_model.model."
OUT, IN, RANK = 6, 5, 2
SITES = ("layer.0.query", "layer.1.query")
WEIGHTS = "adapter_model.safetensors"
Tensors = dict[str, Any]


# ------------------------------------------------------------------------------------- adapters


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f4")


def written(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    folder.mkdir()
    common = {"base_model_name_or_path": "tests/base", "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(common | dict(config)))
    save_file({PREFIX + name: t for name, t in tensors.items()}, folder / WEIGHTS)
    return folder


def lora(
    folder: Path, seed: int, *, rank: int = RANK, scale: float = 1.5, head: bool = False
) -> Path:
    tensors: Tensors = {}
    for number, site in enumerate(SITES):
        tensors[f"{site}.lora_A.weight"] = normal(seed + 10 * number, rank, IN)
        tensors[f"{site}.lora_B.weight"] = normal(seed + 10 * number, OUT, rank)
    config: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank}
    if head:
        config |= {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
        tensors["classifier.weight"] = normal(seed, 3, IN)
    return written(folder, config, tensors)


def ia3(folder: Path, seed: int) -> Path:
    shapes = dict(zip(SITES, ((OUT, 1), (1, IN)), strict=True))
    tensors = {f"{s}.ia3_l": 1 + 0.3 * normal(seed, *shape) for s, shape in shapes.items()}
    return written(folder, {"peft_type": "IA3", "feedforward_modules": [SITES[1]]}, tensors)


def full(folder: Path, seed: int) -> Path:
    shapes = {SITES[0] + ".weight": (OUT, IN), SITES[0] + ".bias": (OUT,), "words.weight": (7, IN)}
    tensors = {name: normal(seed, *shape) for name, shape in shapes.items()}
    return written(folder, {"peft_type": "FULL"}, tensors)


MADE: dict[str, Callable[[Path, int], Path]] = {"lora": lora, "ia3": ia3, "full": full}
every_kind = pytest.mark.parametrize("kind", MADE)


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Two LoRAs with statistics."""
    folders = lora(tmp_path / "a", 0), lora(tmp_path / "b", 1, scale=0.5)
    for seed, folder in enumerate(folders):
        measure(folder, seed)
    return folders


# ----------------------------------------------------------------------------------- statistics


def adapter_tensors(folder: Path) -> Tensors:
    return {n.removeprefix(PREFIX): t for n, t in load_file(folder / WEIGHTS).items()}


def statistics(folder: Path, seed: int) -> Tensors:
    """Made-up statistics of the right shapes: inputs of a scale of their own for each operand."""
    found: Tensors = {}
    for name, tensor in adapter_tensors(folder).items():
        if name.startswith("classifier"):
            continue
        found[f"fisher.{PREFIX}{name}"] = normal(seed + 50, *tensor.shape) ** 2
        if "lora_A" in name:
            found["gram." + name.removesuffix(".lora_A.weight")] = gram(seed + len(found), IN)
        elif "ia3_l" in name:
            found["gram." + name.removesuffix(".ia3_l")] = normal(seed + 60, tensor.size) ** 2
        elif name == SITES[0] + ".weight":
            found["gram." + name] = gram(seed, IN)
    return found


def gram(seed: int, size: int) -> Any:
    vectors = normal(seed + 70, 4 * size, size) * (1 + seed)
    return vectors.T @ vectors / len(vectors)


def measure(folder: Path, seed: int, **changes: Any) -> Path:
    """Write the statistics of `folder` into it; `changes` replace tensors, None removes one."""
    tensors = statistics(folder, seed) | {n.replace("__", "."): t for n, t in changes.items()}
    return put(folder, {name: t for name, t in tensors.items() if t is not None})


def put(folder: Path, tensors: Tensors, adapter: str | None = None) -> Path:
    path = folder / "statistics.safetensors"
    metadata = {"adapter": adapter or sha256(folder / WEIGHTS), "rows": "8", "fisher_rows": "4"}
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path, metadata)
    return path


def wide(folder: Path) -> dict[str, Array]:
    found = load_file(folder / "statistics.safetensors")
    return {name: t.astype("f8") for name, t in found.items()}


def values(expression: str, **folders: Path) -> dict[str, Any]:
    return dict(pemath.evaluate(expression, operands=folders))


def shrunk(matrix: Array, factor: float) -> Array:
    factor = min(factor, 1 - 1e-5)
    return factor * matrix + (1 - factor) * np.diag(np.diag(matrix))


# -------------------------------------------------------------------------------------- RegMean


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8), (1.0, 1.0), (0.7, -0.3)])
@pytest.mark.parametrize("off_diagonal", [0.9, 1.0, 0.0])
def test_regmean_of_loras(
    pair: tuple[Path, Path], weights: tuple[float, float], off_diagonal: float
) -> None:
    """Δ = ΣwΔG (Σ|w|G / Σ|w|)⁻¹, and its rank is the sum of the ranks."""
    call = f"regmean(a, b, weights=[{weights[0]}, {weights[1]}], off_diagonal={off_diagonal})"
    found = values(call, a=pair[0], b=pair[1])
    total = sum(map(abs, weights))
    for site in SITES:
        above, below = np.zeros((OUT, IN)), np.zeros((IN, IN))
        for folder, scale, weight in zip(pair, (1.5, 0.5), weights, strict=True):
            tensors = adapter_tensors(folder)
            delta = (
                scale
                * tensors[f"{site}.lora_B.weight"].astype("f8")
                @ tensors[f"{site}.lora_A.weight"].astype("f8")
            )
            shrunken = shrunk(wide(folder)[f"gram.{site}"], off_diagonal)
            above += weight * delta @ shrunken
            below += abs(weight) / total * shrunken
        wanted = above @ np.linalg.inv(below)
        np.testing.assert_allclose(found[site].delta_weight(), wanted, rtol=1e-8, atol=1e-8)
        assert found[site].rank == 2 * RANK


def test_regmean_is_what_least_squares_finds(pair: tuple[Path, Path]) -> None:
    """The definition itself: the Δ that comes closest to both operands on their own inputs."""
    site = SITES[0]
    inputs = [normal(seed, 30, IN).astype("f8") * (1, 3)[seed] for seed in (0, 1)]
    grams = {f"gram__{SITES[1]}": np.eye(IN, dtype="f4")}
    for seed, folder in enumerate(pair):
        tensors = statistics(folder, seed) | {"gram." + SITES[1]: grams[f"gram__{SITES[1]}"]}
        tensors["gram." + site] = inputs[seed].T @ inputs[seed] / 30
        put(folder, tensors)
    deltas = [values("x", x=folder)[site].delta_weight() for folder in pair]
    outputs = np.concatenate([x @ delta.T for x, delta in zip(inputs, deltas, strict=True)])
    wanted = np.linalg.lstsq(np.concatenate(inputs), outputs)[0].T
    found = values("regmean(a, b, off_diagonal=1)", a=pair[0], b=pair[1])
    np.testing.assert_allclose(found[site].delta_weight(), wanted, rtol=1e-4, atol=1e-5)
    mean = sum(delta / 2 for delta in [values("x", x=f)[SITES[1]].delta_weight() for f in pair])
    np.testing.assert_allclose(found[SITES[1]].delta_weight(), mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 300])
def test_the_solver_goes_by_blocks(size: int) -> None:
    inputs = normal(0, 2 * size + 1, size).astype("f8")
    matrix, columns = inputs.T @ inputs, normal(1, size, 3).astype("f8")
    found = _solved(matrix, columns)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, columns), rtol=1e-8, atol=1e-10)
    with pytest.raises(np.linalg.LinAlgError):
        _solved(-matrix, columns)


def test_regmean_of_ia3(tmp_path: Path) -> None:
    folders = ia3(tmp_path / "a", 0), ia3(tmp_path / "b", 1)
    for seed, folder in enumerate(folders):
        measure(folder, seed)
    found = values("regmean(a, b, weights=[0.25, 0.75])", a=folders[0], b=folders[1])
    for site in SITES:
        squares = [wide(folder)[f"gram.{site}"] for folder in folders]
        vectors = [adapter_tensors(f)[f"{site}.ia3_l"].ravel().astype("f8") for f in folders]
        below = 0.25 * squares[0] + 0.75 * squares[1]
        wanted = (0.25 * squares[0] * vectors[0] + 0.75 * squares[1] * vectors[1]) / below
        np.testing.assert_allclose(found[site].vector(), wanted, rtol=1e-8)


def test_regmean_of_full_deltas(tmp_path: Path) -> None:
    """What multiplies inputs is regressed; biases and embeddings are averaged."""
    folders = full(tmp_path / "a", 0), full(tmp_path / "b", 1)
    for seed, folder in enumerate(folders):
        measure(folder, seed)
    found = values("regmean(a, b, weights=[0.4, 0.6], off_diagonal=1)", a=folders[0], b=folders[1])
    x, y = ({n: t.astype("f8") for n, t in adapter_tensors(folder).items()} for folder in folders)
    name = SITES[0] + ".weight"
    grams = [wide(folder)["gram." + name] for folder in folders]
    grams = [shrunk(matrix, 1) for matrix in grams]
    wanted = (0.4 * x[name] @ grams[0] + 0.6 * y[name] @ grams[1]) @ np.linalg.inv(
        0.4 * grams[0] + 0.6 * grams[1]
    )
    np.testing.assert_allclose(found[name].delta_weight(), wanted, rtol=1e-8, atol=1e-8)
    for other in (SITES[0] + ".bias", "words.weight"):
        mean = 0.4 * x[other] + 0.6 * y[other]
        np.testing.assert_allclose(found[other].delta_weight(), mean, rtol=1e-12)


def test_directions_without_inputs_get_the_mean(pair: tuple[Path, Path]) -> None:
    """A feature that no row excites, and two rows of inputs for five features."""
    for seed, folder in enumerate(pair):
        vectors = normal(seed, 2, IN)
        vectors[:, 3] = 0
        measure(folder, seed, **{f"gram.{SITES[0]}": vectors.T @ vectors})
        measure_zero = np.zeros((IN, IN), "f4")
        put(folder, statistics(folder, seed) | {f"gram.{SITES[0]}": vectors.T @ vectors,
                                                f"gram.{SITES[1]}": measure_zero})  # fmt: skip
    found = values("regmean(a, b)", a=pair[0], b=pair[1])
    mean = values("0.5*a + 0.5*b", a=pair[0], b=pair[1])
    dense, wanted = found[SITES[0]].delta_weight(), mean[SITES[0]].delta_weight()
    np.testing.assert_allclose(dense[:, 3], wanted[:, 3], rtol=1e-6)
    assert np.isfinite(dense).all()
    np.testing.assert_allclose(
        found[SITES[1]].delta_weight(), mean[SITES[1]].delta_weight(), rtol=1e-8
    )


# --------------------------------------------------------------------------------------- Fisher


def precisions(folders: tuple[Path, ...], name: str, *, normalize: bool) -> list[Array]:
    found = []
    for folder in folders:
        known = {n: t for n, t in wide(folder).items() if n.startswith("fisher.")}
        length = np.sqrt(sum((t**2).sum() for t in known.values())) if normalize else 1.0
        found.append(known[f"fisher.{PREFIX}{name}"] / length)
    return found


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7)])
def test_fisher_of_loras(
    pair: tuple[Path, Path], weights: tuple[float, float], normalize: bool
) -> None:
    """Factor by factor, where the scale belongs to B: F of sB is F of B over s²."""
    call = f"fisher(a, b, weights=[{weights[0]}, {weights[1]}], normalize={normalize}, floor=1e-9)"
    found = values(call.replace("True", "true").replace("False", "false"), a=pair[0], b=pair[1])
    scales = (1.5, 0.5)
    for site in SITES:
        factors = []
        for role in "AB":
            name = f"{site}.lora_{role}.weight"
            s = scales if role == "B" else (1.0, 1.0)
            precise = precisions(pair, name, normalize=normalize)
            thetas = [adapter_tensors(folder)[name].astype("f8") for folder in pair]
            share = [
                w * np.maximum(f / c**2, 1e-9) for w, f, c in zip(weights, precise, s, strict=True)
            ]
            above = sum(p * c * theta for p, c, theta in zip(share, s, thetas, strict=True))
            factors.append(above / sum(share))
        a, b = factors
        np.testing.assert_allclose(found[site].delta_weight(), b @ a, rtol=1e-8, atol=1e-8)
        assert found[site].rank == RANK


@pytest.mark.parametrize("kind", ["ia3", "full"])
def test_fisher_of_vectors_and_full_deltas(kind: str, tmp_path: Path) -> None:
    folders = MADE[kind](tmp_path / "a", 0), MADE[kind](tmp_path / "b", 1)
    for seed, folder in enumerate(folders):
        measure(folder, seed)
    found = values("fisher(a, b, weights=[0.3, 0.7])", a=folders[0], b=folders[1])
    for name in adapter_tensors(folders[0]):
        precise = precisions(folders, name, normalize=True)
        share = [w * np.maximum(f, 1e-6) for w, f in zip((0.3, 0.7), precise, strict=True)]
        thetas = [adapter_tensors(folder)[name].astype("f8") for folder in folders]
        wanted = (share[0] * thetas[0] + share[1] * thetas[1]) / sum(share)
        value = found[name.removesuffix(".ia3_l")]
        dense = value.vector().reshape(wanted.shape) if kind == "ia3" else value.delta_weight()
        np.testing.assert_allclose(dense, wanted, rtol=1e-8, atol=1e-12)


def test_without_information_fisher_is_the_mean_of_the_factors(pair: tuple[Path, Path]) -> None:
    for seed, folder in enumerate(pair):
        known = statistics(folder, seed)
        put(folder, {n: t if "gram" in n else np.zeros_like(t) for n, t in known.items()})
    found = values("fisher(a, b, weights=[0.3, 0.7])", a=pair[0], b=pair[1])
    wanted = values("paper(a, b, weights=[0.3, 0.7], normalize=true)", a=pair[0], b=pair[1])
    for site in SITES:
        np.testing.assert_allclose(
            found[site].delta_weight(), wanted[site].delta_weight(), rtol=1e-10
        )


def test_fisher_needs_equal_ranks(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = lora(tmp_path / "c", 3, rank=3)
    measure(other, 3)
    with pytest.raises(RankMismatch):
        values("fisher(a, c)", a=pair[0], c=other)
    assert values("regmean(a, c)", a=pair[0], c=other)[SITES[0]].rank == 5


# ------------------------------------------------------------------------------ both, in general


@pytest.mark.parametrize("method", ["regmean", "fisher"])
@every_kind
def test_equal_operands_are_their_own_mean(method: str, kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path / "a", 0)
    measure(folder, 0)
    base = np.ones((OUT, IN))
    alone = values("a", a=folder)
    for call in (f"{method}(a, a)", f"{method}(a)", f"{method}(0.2*a, 0.8*a, weights=[1, 1])"):
        for site, value in values(call, a=folder).items():
            np.testing.assert_allclose(
                value.delta_weight(base), alone[site].delta_weight(base), rtol=1e-8, atol=1e-8
            )
    for site, value in values(f"-2*{method}(a, a)", a=folder).items():
        np.testing.assert_allclose(
            value.delta_weight(base), -2 * alone[site].delta_weight(base), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_coefficients_are_weights(method: str, pair: tuple[Path, Path]) -> None:
    a, b = pair
    one = values(f"{method}(a, b, weights=[0.2, 0.8])", a=a, b=b)
    for other in (
        values(f"{method}(0.2*a, 0.8*b, weights=[1, 1])", a=a, b=b),
        dict(pemath.evaluate("0.2*a + 0.8*b", operands={"a": a, "b": b}, arithmetic=method)),
    ):
        for site in SITES:
            np.testing.assert_allclose(
                one[site].delta_weight(), other[site].delta_weight(), rtol=1e-10
            )


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_order_does_not_matter(method: str, pair: tuple[Path, Path]) -> None:
    one = values(f"{method}(a, b)", a=pair[0], b=pair[1])
    other = values(f"{method}(b, a)", a=pair[0], b=pair[1])
    for site in SITES:
        np.testing.assert_allclose(one[site].delta_weight(), other[site].delta_weight(), rtol=1e-9)


@pytest.mark.parametrize("method", ["regmean", "fisher"])
@every_kind
def test_compose(method: str, kind: str, tmp_path: Path) -> None:
    """What is written is what is evaluated, and the certificate compares it with the mean."""
    folders = {"a": MADE[kind](tmp_path / "a", 0), "b": MADE[kind](tmp_path / "b", 1)}
    for seed, folder in enumerate(folders.values()):
        measure(folder, seed)
    done = pemath.compose(f"{method}(a, b)", tmp_path / "out", operands=folders, dtype="float64")
    again = values("x", x=done.folder)
    base = np.ones((OUT, IN))
    off = size = 0.0
    mean = values("(a + b) / 2", **folders)
    for site, value in values(f"{method}(a, b)", **folders).items():
        wanted = value.delta_weight(base)
        np.testing.assert_allclose(again[site].delta_weight(base), wanted, rtol=1e-12, atol=1e-13)
        off += value.distance(mean[site]) ** 2
        size += mean[site].norm() ** 2
    assert done.certificate.error == pytest.approx(np.sqrt(off / size), rel=1e-6)
    assert "statistics of `a` measured on 8 rows (Fisher information on 4)" in done.plan.notes


def test_heads_are_averaged(tmp_path: Path) -> None:
    folders = {n: lora(tmp_path / n, seed, head=True) for seed, n in enumerate("ab")}
    for seed, folder in enumerate(folders.values()):
        measure(folder, seed)
    done = pemath.compose("regmean(a, b)", tmp_path / "out", operands=folders)
    heads = [adapter_tensors(folder)["classifier.weight"] for folder in folders.values()]
    found = adapter_tensors(done.folder)["classifier.weight"]
    np.testing.assert_allclose(found, (heads[0].astype("f8") + heads[1]) / 2, rtol=1e-6)


def test_files_may_lie_elsewhere(pair: tuple[Path, Path], tmp_path: Path) -> None:
    wanted = values("regmean(a, b)", a=pair[0], b=pair[1])
    elsewhere = (pair[0] / "statistics.safetensors").rename(tmp_path / "of-a.safetensors")
    operands = {"a": pair[0], "b": pair[1]}
    with pytest.raises(StatisticsNeeded) as refused:
        values("regmean(a, b)", **operands)
    assert f"pemath lab statistics {pair[0]} --model tests/base --task TASK" in str(refused.value)
    assert "operand `a`" in str(refused.value)
    found = dict(pemath.evaluate("regmean(a, b)", operands=operands, statistics={"a": elsewhere}))
    for site in SITES:
        np.testing.assert_array_equal(found[site].delta_weight(), wanted[site].delta_weight())
    tree = pemath.call("regmean", pemath.adapter(str(pair[0])), pemath.adapter(str(pair[1])))
    found = dict(pemath.evaluate(tree, statistics={str(pair[0]): elsewhere}))
    assert set(found) == set(SITES)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("regmean(a + b, a)", RequestError, "takes operands, not expressions"),
        ("regmean(paper(a, b), a)", RequestError, "takes operands, not expressions"),
        ("fisher(0*a, b)", RequestError, "takes operands, not expressions"),
        ("regmean(a, b, off_diagonal=1.5)", RequestError, "between 0 and 1"),
        ("fisher(a, b, floor=0)", RequestError, "must be positive"),
        ("fisher(a, b, lambda=0)", PemathError, "lambda"),
        ("regmean(a, b, weights=[1])", RequestError, "one number per operand"),
    ],
)
def test_bad_calls(
    pair: tuple[Path, Path], expression: str, error: type[PemathError], message: str
) -> None:
    with pytest.raises(error, match=message):
        values(expression + " + 0*b", a=pair[0], b=pair[1])


def test_a_method_of_a_mean_is_fine(pair: tuple[Path, Path]) -> None:
    found = values("peft_svd(regmean(a, b), a) - fisher(a, b)", a=pair[0], b=pair[1])
    assert set(found) == set(SITES)


def test_a_site_that_one_operand_lacks(tmp_path: Path) -> None:
    one, other = lora(tmp_path / "a", 0), lora(tmp_path / "b", 1)
    tensors = {PREFIX + n: t for n, t in adapter_tensors(other).items() if SITES[0] in n}
    save_file(tensors, other / WEIGHTS)
    for seed, folder in enumerate((one, other)):
        measure(folder, seed)
    with pytest.raises(StatisticsNeeded, match="not all operands have") as refused:
        values("regmean(a, b)", a=one, b=other)
    assert SITES[1] in str(refused.value)


NAN = np.full((IN, IN), np.nan, "f4")
A = f"fisher.{PREFIX}{SITES[0]}.lora_A.weight"
G = f"gram.{SITES[0]}"


@pytest.mark.parametrize(
    ("method", "changes", "error", "message"),
    [
        ("regmean", {G: np.eye(IN + 1, dtype="f4")}, LayoutError, "does not fit"),
        ("regmean", {G: np.ones((IN, OUT), "f4")}, LayoutError, "does not fit"),
        ("regmean", {G: np.ones(IN, "f4")}, LayoutError, "does not fit"),
        ("fisher", {G: np.ones(IN, "f4")}, LayoutError, "does not fit"),
        ("regmean", {G: None}, LayoutError, "does not fit"),
        ("regmean", {"gram.layer.9.query": np.eye(IN, dtype="f4")}, LayoutError, "does not fit"),
        ("regmean", {G: NAN}, NonFiniteValue, r"gram\.layer\.0\.query"),
        ("regmean", {G: -np.eye(IN, dtype="f4")}, LayoutError, "negative"),
        (
            "regmean",
            {G: np.full((IN, IN), 9, "f4") - 8.9 * np.eye(IN, dtype="f4")},
            LayoutError,
            "no Gram",
        ),
        ("regmean", {G: np.eye(IN, dtype="i4")}, UnknownDtype, "int|I32|dtype"),
        ("fisher", {A: np.ones((RANK + 1, IN), "f4")}, LayoutError, "fit"),
        ("fisher", {A: np.ones((RANK, IN + 1), "f4")}, LayoutError, "fit"),
        ("fisher", {A: None}, LayoutError, "lacks one of its two factors"),
        ("fisher", {A: np.full((RANK, IN), np.inf, "f4")}, NonFiniteValue, "lora_A"),
        ("fisher", {A: -np.ones((RANK, IN), "f4")}, LayoutError, "negative"),
        ("regmean", {"mean.x": np.ones(1, "f4")}, LayoutError, "is no statistic"),
        ("fisher", {"fisher.x": np.ones(1, "f4")}, LayoutError, "do not belong"),
    ],
)
def test_hostile_statistics(
    pair: tuple[Path, Path],
    method: str,
    changes: Tensors,
    error: type[PemathError],
    message: str,
) -> None:
    """Wrong shapes, missing and foreign tensors, NaN, negative squares: each is refused by name."""
    tensors = statistics(pair[1], 1) | changes
    put(pair[1], {name: t for name, t in tensors.items() if t is not None})
    with pytest.raises(error, match=message) as refused:
        values(f"{method}(a, b)", a=pair[0], b=pair[1])
    assert "statistics" in str(refused.value)


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_hostile_values_leave_nothing_behind(
    method: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    put(pair[1], statistics(pair[1], 1) | {G: NAN, A: np.full((RANK, IN), np.nan, "f4")})
    with pytest.raises(NonFiniteValue):
        pemath.compose(f"{method}(a, b)", tmp_path / "out", operands={"a": pair[0], "b": pair[1]})
    assert not (tmp_path / "out").exists()


def test_missing_matrices_of_full_deltas(tmp_path: Path) -> None:
    """None in any operand is the mean; some and not others is a mistake."""
    folders = {"a": full(tmp_path / "a", 0), "b": full(tmp_path / "b", 1)}
    name = f"gram.{SITES[0]}.weight"
    for seed, folder in enumerate(folders.values()):
        measure(folder, seed)
    put(folders["b"], statistics(folders["b"], 1) | {"gram.words.weight": gram(1, IN)})
    with pytest.raises(StatisticsNeeded, match="lack a Gram matrix"):
        values("regmean(a, b)", **folders)
    known = {n: t for n, t in statistics(folders["b"], 1).items() if n != name}
    put(folders["b"], known)
    with pytest.raises(StatisticsNeeded, match="no Gram matrices"):
        values("regmean(a, b)", **folders)


@pytest.mark.parametrize(("method", "prefix"), [("regmean", "gram."), ("fisher", "fisher.")])
def test_statistics_of_another_sort(method: str, prefix: str, pair: tuple[Path, Path]) -> None:
    known = {n: t for n, t in statistics(pair[0], 0).items() if not n.startswith(prefix)}
    put(pair[0], known)
    with pytest.raises(StatisticsNeeded, match="the statistics hold no"):
        values(f"{method}(a, b)", a=pair[0], b=pair[1])
    other = "fisher" if method == "regmean" else "regmean"
    assert values(f"{other}(a, b)", a=pair[0], b=pair[1])


@pytest.mark.parametrize("adapter", ["0" * 64, "\x1b[31m"])
def test_statistics_of_other_weights(pair: tuple[Path, Path], adapter: str) -> None:
    put(pair[0], statistics(pair[0], 0), adapter=adapter)
    with pytest.raises(StatisticsNeeded, match="other weights") as refused:
        values("regmean(a, b)", a=pair[0], b=pair[1])
    assert "\x1b" not in str(refused.value)


def test_files_that_are_none(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = pair[0] / "statistics.safetensors"
    whole = path.read_bytes()
    header = b'{"gram.x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 2
    twice = header[:-1] + b"}"
    twice = twice.replace(b'},{"gram.x"', b'},"gram.x"')
    for raw, error in (
        (b"", PemathError),
        (whole[:-1], PemathError),
        ((2).to_bytes(8, "little") + b"[]", BadHeader),
        (len(twice).to_bytes(8, "little") + twice, DuplicateTensor),
    ):
        path.write_bytes(raw)
        with pytest.raises(error):
            values("regmean(a, b)", a=pair[0], b=pair[1])
    path.unlink()
    path.mkdir()
    with pytest.raises(PemathError):
        values("regmean(a, b)", a=pair[0], b=pair[1])
    operands = {"a": pair[0], "b": pair[1]}
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StorageError):
            list(pemath.evaluate("regmean(a, b)", operands=operands, statistics={"a": missing}))
    with pytest.raises(RequestError, match="does not use"):
        list(pemath.evaluate("a", operands={"a": pair[0]}, statistics={"z": path}))


def test_what_needs_no_statistics_does_not_look_at_them(pair: tuple[Path, Path]) -> None:
    (pair[0] / "statistics.safetensors").write_bytes(b"nonsense")
    operands = {"a": pair[0], "b": pair[1]}
    assert dict(pemath.evaluate("a + b", operands=operands, statistics={"a": Path("nowhere")}))
