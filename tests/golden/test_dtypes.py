"""Operands and composites in every float dtype, mixed as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pemath

from . import adapters, oracle
from .conftest import Operands

Make = Callable[[str], Operands]
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
TOLERANCES = {"float64": 1e-12, "float32": 1e-6, "float16": 1e-3, "bfloat16": 3e-3}


@pytest.fixture(scope="module")
def recast(operands: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recast")
    sources = operands("different ranks and alphas").folders
    return {
        f"{name} {dtype}": adapters.recast(sources[name], folder / f"{name}-{dtype}", DTYPES[dtype])
        for name, dtype in itertools.product("ab", DTYPES)
    }


@pytest.mark.parametrize("out", DTYPES)
@pytest.mark.parametrize(
    "dtypes", [(d, d) for d in DTYPES] + [("float32", "bfloat16"), ("float16", "bfloat16")]
)
@pytest.mark.parametrize("expression", ["0.6*a + 0.4*b", "a - b"])
def test_delta(
    recast: dict[str, Path], tmp_path: Path, dtypes: tuple[str, str], out: str, expression: str
) -> None:
    folders = {name: recast[f"{name} {dtype}"] for name, dtype in zip("ab", dtypes, strict=True)}
    done = pemath.compose(
        expression,
        tmp_path / "out",
        operands={name: str(folder) for name, folder in folders.items()},
        dtype=out,
    )
    stored = adapters.load_file(done.folder / adapters.WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {DTYPES[out]}
    second = 0.4 if "0.4" in expression else -1.0
    first = 0.6 if "0.6" in expression else 1.0

    def deltas(folder: Path) -> oracle.Deltas:
        return oracle.deltas(oracle.load("bert", folder))

    wanted = oracle.weighted_sum([(first, deltas(folders["a"])), (second, deltas(folders["b"]))])
    errors = oracle.relative_errors(deltas(done.folder), wanted)
    assert max(errors.values()) <= TOLERANCES[out], errors
    assert done.certificate.error <= TOLERANCES[out]


@pytest.mark.parametrize("out", DTYPES)
def test_ia3(operands: Make, tmp_path: Path, out: str) -> None:
    sources = operands("ia3 bert feedforward").folders
    folders = {
        "a": adapters.recast(sources["a"], tmp_path / "a", torch.bfloat16),
        "b": adapters.recast(sources["b"], tmp_path / "b", torch.float64),
    }
    used = {name: str(folder) for name, folder in folders.items()}
    done = pemath.compose("a - 0.5*b", tmp_path / "out", operands=used, dtype=out)
    wanted = oracle.affine_sum(
        (c, oracle.vectors(oracle.load("bert", folders[name])))
        for name, c in {"a": 1.0, "b": -0.5}.items()
    )
    found = oracle.vectors(oracle.load("bert", done.folder))
    assert max(oracle.relative_errors(found, wanted).values()) <= TOLERANCES[out]
