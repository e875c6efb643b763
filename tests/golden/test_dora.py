"""DoRA: sums of three adapters, two of them DoRA, against PEFT's merge in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pemath
from pemath.errors import KindMismatch, OperandError, UnsupportedFeature, VerificationFailed

from . import adapters, oracle
from .bases import base, forward
from .checkpoints import changes, save_base, weights_of

TARGETS = {
    "bert": {"target_modules": ["query", "value", "dense"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "net": {"target_modules": ["words", "line", "stem", "point", "volume", "head"]},
    "llama": {"target_modules": ["q_proj", "down_proj", "embed_tokens"]},
}
EXPRESSIONS = {
    "0.6*a + 0.4*b": {"a": 0.6, "b": 0.4},
    "a - b": {"a": 1.0, "b": -1.0},
    "-0.5*a": {"a": -0.5},
    "0.3*a - 0.2*b + 0.7*lora": {"a": 0.3, "b": -0.2, "lora": 0.7},
    "exact(a, lora)": {"a": 1.0, "lora": 1.0},
    "mean(a, b) - 0.5*lora": {"a": 0.5, "b": 0.5, "lora": -0.5},
}


def operands(name: str, folder: Path) -> dict[str, Path]:
    settings = {"r": 4, "lora_alpha": 8, **TARGETS[name]}
    return {
        "a": adapters.lora(name, folder / "a", **settings, use_dora=True),
        "b": adapters.lora(name, folder / "b", **{**settings, "r": 3}, use_dora=True),
        "lora": adapters.lora(name, folder / "lora", **{**settings, "r": 2}, use_rslora=True),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Path], Path]]:
    root = tmp_path_factory.mktemp("dora")
    return {
        name: (operands(name, root / name), save_base(name, root / name / "base"))
        for name in TARGETS
    }


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("name", TARGETS)
def test_sums_are_those_of_the_weights(
    made: dict[str, tuple[dict[str, Path], Path]], name: str, expression: str, tmp_path: Path
) -> None:
    folders, weights = made[name]
    used = {key: str(folders[key]) for key in EXPRESSIONS[expression]}
    done = pemath.compose(
        expression,
        tmp_path / "out",
        operands=used,
        base_weights=str(weights),
        dtype="float64",
    )
    wanted = oracle.weighted_sum(
        (c, changes(name, folders[key])) for key, c in EXPRESSIONS[expression].items()
    )
    errors = oracle.relative_errors(changes(name, done.folder), wanted)
    assert max(errors.values()) < 1e-9, errors
    assert done.certificate.error < 1e-9


@pytest.mark.parametrize("name", TARGETS)
def test_one_adapter_is_written_as_it_is(
    made: dict[str, tuple[dict[str, Path], Path]], name: str, tmp_path: Path
) -> None:
    folders, weights = made[name]
    done = pemath.compose(
        "a", tmp_path / "out", operands={"a": str(folders["a"])}, base_weights=str(weights)
    )
    found = oracle.load(name, done.folder)
    wanted = oracle.load(name, folders["a"])
    torch.testing.assert_close(forward(name, found), forward(name, wanted), rtol=1e-6, atol=1e-6)


def test_the_forward_pass_is_that_of_the_summed_weights(
    made: dict[str, tuple[dict[str, Path], Path]], tmp_path: Path
) -> None:
    folders, weights = made["gpt2"]
    done = pemath.compose(
        "0.6*a + 0.4*b",
        tmp_path / "out",
        operands={key: str(folders[key]) for key in "ab"},
        base_weights=str(weights),
        dtype="float64",
    )
    sums = oracle.weighted_sum(
        [(0.6, changes("gpt2", folders["a"])), (0.4, changes("gpt2", folders["b"]))]
    )
    wanted = forward("gpt2", oracle.with_deltas("gpt2", sums))
    found = forward("gpt2", oracle.load("gpt2", done.folder))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("limit", [{"rank": 3}, {"max_error": 0.2}])
def test_the_certificate_of_a_truncation_is_true(
    made: dict[str, tuple[dict[str, Path], Path]], limit: dict[str, float], tmp_path: Path
) -> None:
    folders, weights = made["bert"]
    done = pemath.compose(
        "0.6*a + 0.4*b",
        tmp_path / "out",
        operands={key: str(folders[key]) for key in "ab"},
        base_weights=str(weights),
        profile="compact",
        **limit,
    )
    wanted = oracle.weighted_sum(
        [(0.6, changes("bert", folders["a"])), (0.4, changes("bert", folders["b"]))]
    )
    found = changes("bert", done.folder)
    for site, report in done.certificate.sites.items():
        delta = wanted[f"{site}.weight"]
        error = float(torch.linalg.norm(found[f"{site}.weight"] - delta) / torch.linalg.norm(delta))
        assert report.error == pytest.approx(error, rel=1e-4)
        assert report.rank <= limit.get("rank", 99)
        assert error <= limit.get("max_error", 1)
    assert any(report.rank < 7 for report in done.certificate.sites.values())


def test_it_needs_the_base_weights(
    made: dict[str, tuple[dict[str, Path], Path]], tmp_path: Path
) -> None:
    folders, _ = made["bert"]
    with pytest.raises(UnsupportedFeature, match="base-weights"):
        pemath.compose("a", tmp_path / "out", operands={"a": str(folders["a"])})


def test_other_methods_refuse_it(
    made: dict[str, tuple[dict[str, Path], Path]], tmp_path: Path
) -> None:
    folders, weights = made["bert"]
    with pytest.raises(KindMismatch, match="paper"):
        pemath.compose(
            "paper(a, b)",
            tmp_path / "out",
            operands={key: str(folders[key]) for key in "ab"},
            base_weights=str(weights),
        )


def test_a_row_without_its_base_weight_is_refused(
    made: dict[str, tuple[dict[str, Path], Path]], tmp_path: Path
) -> None:
    folders, weights = made["bert"]
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "adapter_config.json").write_bytes((folders["a"] / "adapter_config.json").read_bytes())
    adapters.rewrite(folders["a"], gone, lambda n, t: (n, t * 0 if "magnitude" in n else t))
    with pytest.raises(OperandError, match="takes the base weight away"):
        pemath.compose(
            "gone + 0*a + 0*a + b - b",
            tmp_path / "out",
            operands={"gone": str(gone), "a": str(folders["a"]), "b": str(folders["b"])},
            base_weights=str(weights),
        )


def test_the_lock_knows_the_base(
    made: dict[str, tuple[dict[str, Path], Path]], tmp_path: Path
) -> None:
    folders, _ = made["bert"]
    weights = save_base("bert", tmp_path / "base")
    done = pemath.compose(
        "0.5*a + 0.5*b",
        tmp_path / "out",
        operands={key: str(folders[key]) for key in "ab"},
        base_weights=str(weights),
    )
    assert pemath.verify(done.folder).sources["base weights"] == "ok"
    again = pemath.rebuild(done.folder, tmp_path / "again")
    assert (again.folder / adapters.WEIGHTS).read_bytes() == (
        done.folder / adapters.WEIGHTS
    ).read_bytes()
    file = weights / "model.safetensors"
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start, _ = header["bert.encoder.layer.0.attention.self.query.weight"]["data_offsets"]
    data[8 + int.from_bytes(data[:8], "little") + start] ^= 1
    file.write_bytes(data)
    with pytest.raises(VerificationFailed, match="base weights"):
        pemath.verify(done.folder)
    with pytest.raises(VerificationFailed, match="base weights"):
        pemath.rebuild(done.folder, tmp_path / "more")
    file.unlink()
    assert pemath.verify(done.folder).sources["base weights"] == "not reachable"


def test_the_values_of_one_site_form_a_vector_space(
    made: dict[str, tuple[dict[str, Path], Path]],
) -> None:
    from pemath.formats.checkpoint import Checkpoint
    from pemath.formats.peft import PeftFolder
    from pemath.kinds import open_adapter

    folders, weights = made["gpt2"]
    checkpoint = Checkpoint.open(weights)
    opened = [open_adapter(PeftFolder.open(folders[key]), checkpoint) for key in "ab"]
    parameters = weights_of(base("gpt2").double())
    for site, x in opened[0].sites.items():
        y = opened[1].sites[site]
        dense = [changes_of(parameters[f"{site}.weight"].numpy().T, v) for v in (x, y)]
        total = x * 0.75 + y * -2.0
        wanted = 0.75 * dense[0] - 2.0 * dense[1]
        np.testing.assert_allclose(total.delta_weight(), wanted, rtol=1e-9, atol=1e-11)
        assert total.norm() == pytest.approx(np.linalg.norm(wanted), rel=1e-10)
        assert x.inner(y) == pytest.approx(float(np.sum(dense[0] * dense[1])), rel=1e-9)
        assert x.distance(y) == pytest.approx(np.linalg.norm(dense[0] - dense[1]), rel=1e-10)
        assert (x + x * -1.0).norm() == 0.0
        assert (x * 0.0).norm() == 0.0


def changes_of(weight: np.ndarray, value: object) -> np.ndarray:
    """W' - W straight from the formula, row by row."""
    ((_, learned),) = value.terms  # type: ignore[attr-defined]
    part = learned.update.blocks[0].parts[0]
    a, b = part.a.widen(), part.b.widen()
    changed = np.empty_like(weight)
    for row in range(len(weight)):
        direction = weight[row] + part.scale * sum(b[row, k] * a[k] for k in range(len(a)))
        length = np.sqrt(np.sum(direction**2))
        changed[row] = learned.magnitude.widen()[row] * direction / length
    return changed - weight
