"""`convert --to lora` of kinds that need the base weights, loaded by PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pemath.conversion.run import convert
from pemath.errors import ErrorTooLarge, RequestError

from . import adapters, oracle
from .bases import base, forward, quiet
from .checkpoints import changes, save_base, with_trained_biases

CASES: dict[str, tuple[str, dict[str, object], object]] = {
    "dora": ("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}, adapters.lora),
    "dora, gpt2": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
        adapters.lora,
    ),
    "dora, embedding and convolution": (
        "net",
        {"target_modules": ["words", "stem", "volume"], "use_dora": True},
        adapters.lora,
    ),
    "ia3": (
        "bert",
        {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
        adapters.ia3,
    ),
    "dora, biases": (
        "bert",
        {"target_modules": ["query", "value"], "use_dora": True, "bias": "all"},
        adapters.lora,
    ),
    "ia3, gpt2": (
        "gpt2",
        {
            "target_modules": ["c_attn", "mlp.c_proj"],
            "feedforward_modules": ["mlp.c_proj"],
            "fan_in_fan_out": True,
        },
        adapters.ia3,
    ),
}  # fmt: skip


def lost(found: oracle.Deltas, wanted: oracle.Deltas) -> dict[str, float]:
    return oracle.relative_errors(found, {n: d.double() for n, d in wanted.items()})


@pytest.mark.parametrize("case", CASES)
def test_at_full_rank_it_is_the_same_adapter(case: str, tmp_path: Path) -> None:
    base_name, config, make = CASES[case]
    folder = make(base_name, tmp_path / "adapter", **config)  # type: ignore[operator]
    if "biases" in case:
        with_trained_biases(folder)
    weights = save_base(base_name, tmp_path / "base")
    done = convert(
        folder, "lora", tmp_path / "out", base_weights=weights, max_error=1e-9, dtype="float64"
    )
    errors = lost(changes(base_name, tmp_path / "out"), changes(base_name, folder))
    assert max(errors.values()) < 1e-9
    found = forward(base_name, oracle.load(base_name, tmp_path / "out"))
    torch.testing.assert_close(
        found, forward(base_name, oracle.load(base_name, folder)), rtol=1e-7, atol=1e-7
    )
    certificate = done.outcome.certificate
    assert certificate is not None
    assert certificate.error < 1e-9


@pytest.mark.parametrize("limit", [{"rank": 5}, {"max_error": 0.3}])
@pytest.mark.parametrize("case", CASES)
def test_the_certificate_is_true(case: str, limit: dict[str, float], tmp_path: Path) -> None:
    base_name, config, make = CASES[case]
    folder = make(base_name, tmp_path / "adapter", **config)  # type: ignore[operator]
    if "biases" in case:
        with_trained_biases(folder)
    weights = save_base(base_name, tmp_path / "base")
    done = convert(folder, "lora", tmp_path / "out", base_weights=weights, **limit)
    certificate = done.outcome.certificate
    assert certificate is not None
    found, wanted = changes(base_name, tmp_path / "out"), changes(base_name, folder)
    for site, report in certificate.sites.items():
        parts = ("weight", "bias") if "ia3" in case else ("weight",)
        names = [n for part in parts if (n := f"{site}.{part}") in wanted]
        off = torch.cat([(found[n] - wanted[n]).flatten() for n in names]).norm()
        size = torch.cat([wanted[n].flatten() for n in names]).norm()
        assert report.norm == pytest.approx(float(size), rel=1e-6)
        assert report.error == pytest.approx(float(off / size), rel=1e-4)
        # Nearly the best that the rank allows, and no rank more than the error needs.
        matrix = wanted[f"{site}.weight"].flatten(1)
        values = torch.linalg.svdvals(matrix)
        best = float(values[report.rank :].norm() / size)
        if "rank" in limit:
            assert report.rank <= limit["rank"]
            assert best - 1e-6 <= report.error <= 1.05 * best + 1e-6
        else:
            assert report.error <= limit["max_error"]
            smallest = next(
                r for r in range(len(values) + 1) if values[r:].norm() <= 0.3 * values.norm()
            )
            assert smallest <= report.rank <= smallest + 1


def test_without_a_limit_it_is_refused(tmp_path: Path) -> None:
    folder = adapters.ia3("bert", tmp_path / "adapter")
    weights = save_base("bert", tmp_path / "base")
    with pytest.raises(RequestError, match="--max-error"):
        convert(folder, "lora", tmp_path / "out", base_weights=weights)
    with pytest.raises(RequestError, match="--base-weights"):
        convert(folder, "lora", tmp_path / "out", rank=4)


def test_an_error_that_the_dtype_cannot_keep_is_refused(tmp_path: Path) -> None:
    folder = adapters.ia3("bert", tmp_path / "adapter")
    weights = save_base("bert", tmp_path / "base")
    with pytest.raises(ErrorTooLarge, match="bfloat16"):
        convert(
            folder, "lora", tmp_path / "out", base_weights=weights, max_error=1e-4, dtype="bfloat16"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("base_name", ["llama", "gpt2"])
def test_a_fine_tuned_checkpoint_becomes_a_lora(base_name: str, tmp_path: Path) -> None:
    """What is known to have rank 3 comes back whole, and PEFT puts it on the base."""
    model = base(base_name)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "down_proj.weight", "c_attn.weight", "c_fc.weight")):
                left, right = (torch.randn(n, 3, generator=generator) for n in weight.shape)
                weight.add_(0.1 * left @ right.T)
    before = save_base(base_name, tmp_path / "base")
    with quiet():
        model.save_pretrained(str(tmp_path / "tuned"))
    done = convert(
        tmp_path / "tuned", "lora", tmp_path / "out", base_weights=before, max_error=1e-5
    )
    certificate = done.outcome.certificate
    assert certificate is not None
    assert {site.rank for site in certificate.sites.values()} == {3}
    tuned = dict(model.double().named_parameters())
    original = dict(base(base_name).double().named_parameters())
    found = changes(base_name, tmp_path / "out")
    for name, weight in tuned.items():
        torch.testing.assert_close(
            found.get(name, torch.zeros(())).expand_as(weight) + original[name],
            weight,
            rtol=1e-5,
            atol=1e-5,
        )
    assert not done.outcome.left_out
