"""Two checkpoints: their difference as a task vector and as a LoRA, and what is told of the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pemath.conversion.run import Conversion, convert
from pemath.errors import LayoutError, PemathError, RequestError, UnsupportedFeature

from .checkpoints import Arrays, drawn, loaded, saved

SHAPES: dict[str, tuple[int, ...]] = {
    "model__layers__0__q_proj__weight": (40, 30),
    "model__layers__1__q_proj__weight": (40, 30),
    "model__layers__0__mlp__up__weight": (50, 30),
    "model__layers__0__norm__weight": (30,),
    "model__layers__0__q_proj__bias": (40,),
    "model__embed_tokens__weight": (20, 30),
    "lm_head__weight": (20, 30),
}
QUERY, UP = "model.layers.0.q_proj", "model.layers.0.mlp.up"
PREFIX = "base_model.model."


@pytest.fixture
def base() -> dict[str, Any]:
    return drawn(0, **SHAPES)


def tuned(base: Arrays, seed: int, *names: str, size: float = 0.1) -> dict[str, Any]:
    """The base with changes of full rank in some parameters."""
    rng = np.random.default_rng(seed)
    noise = {n: size * rng.standard_normal(base[n].shape) for n in names}
    return {n: (w + noise.get(n, 0)).astype("f4") for n, w in base.items()}


def made(tmp_path: Path, before: Arrays, after: Arrays, to: str, **options: Any) -> Conversion:
    shards = options.pop("shards", 1)
    saved(tmp_path / "base", before, shards=shards)
    saved(tmp_path / "tuned", after, shards=3 if shards == 1 else 1)
    return convert(
        tmp_path / "tuned", to, tmp_path / "out", base_weights=tmp_path / "base", **options
    )


def products(folder: Path) -> dict[str, Any]:
    """B A of each site, from the factors, in float64; alpha is r."""
    tensors = {n.removeprefix(PREFIX): t.astype("f8") for n, t in loaded(folder).items()}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    sites = [n.removesuffix(".lora_A.weight") for n in tensors if n.endswith("lora_A.weight")]
    return {s: tensors[f"{s}.lora_B.weight"] @ tensors[f"{s}.lora_A.weight"] for s in sites}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_task_vector_is_the_difference(
    tmp_path: Path, base: Arrays, dtype: str, shards: int
) -> None:
    names = [f"{QUERY}.weight", "model.layers.0.norm.weight", "lm_head.weight"]
    after = tuned(base, 1, *names)
    done = made(tmp_path, base, after, "full", dtype=dtype, shards=shards)
    certificate = done.outcome.certificate
    assert certificate is not None
    assert set(certificate.sites) == set(names)
    if dtype != "bfloat16":  # which numpy does not load
        found = loaded(tmp_path / "out")
        assert set(found) == {PREFIX + name for name in names}
        for name in names:
            wanted = after[name].astype("f8") - base[name].astype("f8")
            np.testing.assert_allclose(found[PREFIX + name], wanted, rtol=1e-7, atol=1e-9)
    limit = {"float32": 2.0**-24, "float64": 0.0, "bfloat16": 2.0**-8}[dtype]
    assert certificate.error <= limit
    assert (certificate.error > 0) == (dtype == "bfloat16") or dtype == "float32"
    assert any("4 parameters are the same" in note for note in done.outcome.notes)


def test_a_task_vector_can_be_composed(tmp_path: Path, base: Arrays) -> None:
    import pemath

    after = tuned(base, 1, f"{QUERY}.weight")
    made(tmp_path, base, after, "full")
    out = str(tmp_path / "out")
    done = pemath.compose("0.5*a", tmp_path / "half", operands={"a": out})
    half = loaded(done.folder)[f"{PREFIX}{QUERY}.weight"]
    wanted = 0.5 * (after[f"{QUERY}.weight"] - base[f"{QUERY}.weight"])
    np.testing.assert_allclose(half, wanted, rtol=1e-6, atol=1e-8)


def test_new_and_resized_parameters_are_heads(tmp_path: Path, base: Arrays) -> None:
    after = {**tuned(base, 1, f"{QUERY}.weight"), **drawn(2, score__weight=(3, 30))}
    after["model.embed_tokens.weight"] = drawn(3, x=(22, 30))["x"]
    del after["lm_head.weight"]
    done = made(tmp_path, base, after, "full")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["model.embed_tokens", "score"]
    found = loaded(tmp_path / "out")
    np.testing.assert_array_equal(found[PREFIX + "score.weight"], after["score.weight"])
    assert found[PREFIX + "model.embed_tokens.weight"].shape == (22, 30)
    told = " ".join(done.outcome.notes)
    assert (
        "only in the fine-tuned checkpoint, kept whole in modules_to_save: `score.weight`" in told
    )
    assert "of another shape in the base" in told
    assert "only in the base, and left out: `lm_head.weight`" in told


def test_a_lora_of_what_has_low_rank(tmp_path: Path, base: Arrays) -> None:
    rng = np.random.default_rng(3)
    after = dict(base)
    for name in (QUERY, UP):
        out, width = base[f"{name}.weight"].shape
        low = rng.standard_normal((out, 2)) @ rng.standard_normal((2, width))
        after[f"{name}.weight"] = (base[f"{name}.weight"] + low).astype("f4")
    done = made(tmp_path, base, after, "lora", max_error=1e-4)
    found = products(tmp_path / "out")
    assert set(found) == {QUERY, UP}
    for name, product in found.items():
        wanted = after[f"{name}.weight"].astype("f8") - base[f"{name}.weight"]
        assert np.linalg.norm(product - wanted) < 1e-4 * np.linalg.norm(wanted)
    assert done.outcome.certificate is not None
    assert {s.rank for s in done.outcome.certificate.sites.values()} == {2}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    # Another layer has a q_proj that did not change: short names would match it too.
    assert config["target_modules"] == sorted([QUERY, UP])


def test_short_names_where_they_match_no_more(tmp_path: Path, base: Arrays) -> None:
    names = [f"model.layers.{layer}.q_proj.weight" for layer in (0, 1)]
    made(tmp_path, base, tuned(base, 1, *names), "lora", rank=4)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj"]


@pytest.mark.parametrize("rank", [1, 7, 30, 64])
def test_the_certificate_is_true_and_near_the_best(tmp_path: Path, base: Arrays, rank: int) -> None:
    after = tuned(base, 1, f"{QUERY}.weight", f"{UP}.weight")
    done = made(tmp_path, base, after, "lora", rank=rank)
    certificate = done.outcome.certificate
    assert certificate is not None
    found = products(tmp_path / "out")
    off = size = 0.0
    for name, report in certificate.sites.items():
        wanted = after[f"{name}.weight"].astype("f8") - base[f"{name}.weight"]
        error = np.linalg.norm(found[name] - wanted) / np.linalg.norm(wanted)
        assert report.error == pytest.approx(error, rel=1e-6, abs=1e-12)
        values = np.linalg.svd(wanted, compute_uv=False)
        best = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
        assert best - 1e-9 <= report.error <= 1.02 * best + 1e-6
        off += float(np.linalg.norm(found[name] - wanted)) ** 2
        size += float(np.linalg.norm(wanted)) ** 2
    assert certificate.error == pytest.approx(np.sqrt(off / size), rel=1e-6, abs=1e-12)


def test_what_is_left_out_is_told_with_its_norm(tmp_path: Path, base: Arrays) -> None:
    left = ["model.layers.0.norm.weight", f"{QUERY}.bias", "model.embed_tokens.weight",
            "lm_head.weight"]  # fmt: skip
    after = tuned(base, 1, f"{UP}.weight", *left)
    done = made(tmp_path, base, after, "lora", rank=8)
    assert set(done.outcome.left_out) == set(left)
    for name, norm in done.outcome.left_out.items():
        assert norm == pytest.approx(float(np.linalg.norm(after[name].astype("f8") - base[name])))


def test_modules_can_be_chosen(tmp_path: Path, base: Arrays) -> None:
    names = [f"{QUERY}.weight", f"{UP}.weight", "model.embed_tokens.weight"]
    after = tuned(base, 1, *names)
    done = made(tmp_path, base, after, "lora", rank=20, target_modules=("up", "embed_tokens"))
    assert done.outcome.certificate is not None
    assert set(done.outcome.certificate.sites) == {UP, "model.embed_tokens"}
    assert set(done.outcome.left_out) == {f"{QUERY}.weight"}
    found = {n.removeprefix(PREFIX): t for n, t in loaded(tmp_path / "out").items()}
    a, b = (found[f"model.embed_tokens.lora_embedding_{x}"].astype("f8") for x in "AB")
    wanted = after["model.embed_tokens.weight"].astype("f8") - base["model.embed_tokens.weight"]
    np.testing.assert_allclose((b @ a).T, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match="ends in `down`"):
        made(tmp_path / "x", base, after, "lora", rank=2, target_modules=("up", "down"))


def test_a_wrapper_changes_names_only(tmp_path: Path, base: Arrays) -> None:
    bare = {n.removeprefix("model."): w for n, w in base.items() if n.startswith("model.")}
    after = tuned(base, 1, f"{QUERY}.weight")
    done = made(tmp_path, bare, after, "full")
    assert done.outcome.certificate is not None
    assert set(done.outcome.certificate.sites) == {f"{QUERY}.weight"}


def test_layers_that_store_in_out(tmp_path: Path) -> None:
    before = drawn(0, h__0__attn__c_attn__weight=(12, 36), h__0__ln_1__weight=(12,))
    after = tuned(before, 1, "h.0.attn.c_attn.weight")
    saved(tmp_path / "base", before, model_type="gpt2")
    saved(tmp_path / "tuned", after, model_type="gpt2")
    convert(tmp_path / "tuned", "lora", tmp_path / "out", base_weights=tmp_path / "base", rank=12)
    (found,) = products(tmp_path / "out").values()
    wanted = after["h.0.attn.c_attn.weight"].astype("f8") - before["h.0.attn.c_attn.weight"]
    np.testing.assert_allclose(found.T, wanted, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True


def test_a_full_delta_becomes_a_lora(tmp_path: Path, base: Arrays) -> None:
    after = tuned(base, 1, f"{QUERY}.weight", f"{QUERY}.bias")
    made(tmp_path, base, after, "full")
    done = convert(tmp_path / "out", "lora", tmp_path / "lora", rank=30)
    np.testing.assert_allclose(
        products(tmp_path / "lora")[QUERY],
        after[f"{QUERY}.weight"] - base[f"{QUERY}.weight"],
        atol=1e-5,
    )
    assert set(done.outcome.left_out) == {f"{QUERY}.bias"}


def test_the_same_bytes_every_time(tmp_path: Path, base: Arrays) -> None:
    after = tuned(base, 1, f"{QUERY}.weight", f"{UP}.weight")
    made(tmp_path, base, after, "lora", rank=6)
    made(tmp_path / "again", base, after, "lora", rank=6)
    file = "out/adapter_model.safetensors"
    assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


REFUSED: dict[str, tuple[Any, type[PemathError], str]] = {
    "the same": (dict, RequestError, "the same weights"),
    "nothing in common": (
        lambda base: drawn(1, other__weight=(3, 3)), LayoutError, "no parameter in common",
    ),
    "integers": (
        lambda base: {**base, "ids": np.arange(3)}, UnsupportedFeature, "not of floating point",
    ),
    "norms only": (
        lambda base: tuned(base, 1, "model.layers.0.norm.weight"), RequestError, "become a LoRA",
    ),
    "NaN": (
        lambda base: {**base, f"{QUERY}.weight": base[f"{QUERY}.weight"] * np.float32("nan")},
        PemathError, "NaN or infinity|not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path: Path, base: dict[str, Any], case: str) -> None:
    change, error, said = REFUSED[case]
    before = {**base, "ids": np.arange(1, 4)} if case == "integers" else base
    with pytest.raises(error, match=said):
        made(tmp_path, before, change(base), "lora", rank=2)
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned"}


def test_checkpoints_are_operands(tmp_path: Path, base: Arrays) -> None:
    """Their differences from the base, without a task vector on the disk in between."""
    import pemath

    one = tuned(base, 1, f"{QUERY}.weight", "model.layers.0.norm.weight")
    two = tuned(base, 2, f"{QUERY}.weight", "lm_head.weight")
    places = {"a": saved(tmp_path / "a", one, shards=3), "b": saved(tmp_path / "b", two)}
    before = saved(tmp_path / "base", base, shards=2)
    operands = {name: str(place) for name, place in places.items()}
    done = pemath.compose(
        "0.5*a - 2*b", tmp_path / "out", operands=operands, base_weights=str(before)
    )
    found = loaded(done.folder)
    assert set(found) == {
        PREFIX + n for n in (f"{QUERY}.weight", "model.layers.0.norm.weight", "lm_head.weight")
    }
    for name, weight in base.items():
        wanted = 0.5 * (one[name].astype("f8") - weight) - 2.0 * (two[name].astype("f8") - weight)
        got = found.get(PREFIX + name, np.zeros_like(wanted))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
    checked = pemath.verify(done.folder)
    assert set(checked.sources.values()) == {"ok"}
    again = pemath.rebuild(done.folder, tmp_path / "again")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (again.folder / file).read_bytes() == (done.folder / file).read_bytes()
    # Beside a task vector, and merged into the base.
    convert(places["a"], "full", tmp_path / "v", base_weights=before)
    pemath.compose(
        "v + b - a", tmp_path / "w", operands={**operands, "v": str(tmp_path / "v")},
        base_weights=str(before),
    )  # fmt: skip
    convert(tmp_path / "w", "checkpoint", tmp_path / "m", base_weights=before)
    merged = loaded(tmp_path / "m")
    for name, weight in two.items():
        np.testing.assert_allclose(merged[name], weight, rtol=1e-5, atol=1e-6)


def test_an_operand_with_a_head_of_its_own_is_refused(tmp_path: Path, base: Arrays) -> None:
    import pemath

    before = saved(tmp_path / "base", base)
    after = {**tuned(base, 1, f"{QUERY}.weight"), **drawn(2, score__weight=(3, 30))}
    place = saved(tmp_path / "a", after)
    with pytest.raises(UnsupportedFeature, match=r"score\.weight(.|\n)*--to full"):
        pemath.compose("a", tmp_path / "out", operands={"a": str(place)}, base_weights=str(before))
    with pytest.raises(PemathError, match=r"adapter_config\.json"):
        pemath.compose("a", tmp_path / "out", operands={"a": str(place)})


def test_memory_is_bounded_by_blocks_not_by_the_matrix(tmp_path: Path) -> None:
    import tracemalloc

    before = drawn(0, h__fc__weight=(4096, 2048))
    rng = np.random.default_rng(1)
    low = rng.standard_normal((4096, 2)).astype("f4") @ rng.standard_normal((2, 2048)).astype("f4")
    saved(tmp_path / "base", before)
    saved(tmp_path / "tuned", {"h.fc.weight": before["h.fc.weight"] + low})
    del before, low
    for to, options in (("lora", {"rank": 4}), ("full", {})):
        tracemalloc.start()
        convert(tmp_path / "tuned", to, tmp_path / to, base_weights=tmp_path / "base", **options)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 4096 * 2048 / 2, to
