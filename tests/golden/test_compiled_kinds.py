"""Kinds that are read as LoRA: composites are PEFT's own deltas, and do what PEFT's layers do."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peft
import pytest
import torch

import pemath
from pemath.kinds import compiled_kinds, kinds
from pemath.kinds._refused import AS_LORA
from pemath.kinds._refused import REFUSED as REASONS

from . import adapters, compiled, oracle
from .bases import forward
from .compiled import CASES, Case

every_case = pytest.mark.parametrize("name", CASES)


@dataclass(frozen=True)
class Pair:
    """Two adapters of a case, and what PEFT makes of them."""

    case: Case
    folders: dict[str, str]
    deltas: dict[str, oracle.Deltas]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @functools.cache
    def make(name: str) -> Pair:
        case, folder = CASES[name], tmp_path_factory.mktemp("compiled")
        written = {key: compiled.write(case, folder / key, f"{key} {name}") for key in "ab"}
        deltas = {key: compiled.deltas(compiled.load(case, path)) for key, path in written.items()}
        return Pair(case, {key: str(path) for key, path in written.items()}, deltas)

    return make


@every_case
def test_delta_and_forward_of_a_sum(pair: Callable[[str], Pair], tmp_path: Path, name: str) -> None:
    made = pair(name)
    done = pemath.compose("0.7*a - 1.3*b", tmp_path / "out", operands=made.folders)
    model = oracle.load(made.case.base, done.folder)
    wanted = oracle.weighted_sum([(0.7, made.deltas["a"]), (-1.3, made.deltas["b"])])
    errors = oracle.relative_errors(oracle.deltas(model), wanted)
    assert max(errors.values()) <= 1e-6, errors
    changed = oracle.with_deltas(made.case.base, wanted)
    torch.testing.assert_close(
        forward(made.case.base, model), forward(made.case.base, changed), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", {case.config: name for name, case in CASES.items()}.values())
def test_the_forward_pass_is_that_of_the_layers(
    pair: Callable[[str], Pair], tmp_path: Path, name: str
) -> None:
    made = pair(name)
    done = pemath.compose("a", tmp_path / "out", operands={"a": made.folders["a"]})
    found = forward(made.case.base, oracle.load(made.case.base, done.folder))
    wanted = forward(made.case.base, compiled.load(made.case, Path(made.folders["a"])))
    plain = forward(made.case.base, oracle.with_deltas(made.case.base, {}))
    assert torch.linalg.norm(wanted - plain) > 1e-3 * torch.linalg.norm(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@every_case
def test_rank(pair: Callable[[str], Pair], name: str) -> None:
    made = pair(name)
    found = pemath.inspect(made.folders["a"])
    assert found.kind == "lora"
    assert (
        found.peft_type
        == json.loads((Path(made.folders["a"]) / "adapter_config.json").read_text())["peft_type"]
    )
    if made.case.rank is not None:
        assert found.ranks == [made.case.rank]


def test_kinds_mix(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    """One expression over seven kinds, a plain LoRA among them."""
    names = {"p": "loha", "q": "lokr", "r": "vera", "s": "adalora", "t": "vblora", "u": "gralora"}
    plain = adapters.lora("bert", tmp_path / "plain")
    operands = {key: pair(name).folders["a"] for key, name in names.items()} | {"v": str(plain)}
    terms = {key: (-1) ** i * (i + 1) / 4 for i, key in enumerate(operands)}
    expression = " + ".join(f"{c}*{key}" for key, c in terms.items()).replace("+ -", "- ")
    done = pemath.compose(expression, tmp_path / "out", operands=operands)
    found = oracle.deltas(oracle.load("bert", done.folder))
    deltas = {key: pair(name).deltas["a"] for key, name in names.items()}
    deltas["v"] = oracle.deltas(oracle.load("bert", plain))
    wanted = oracle.weighted_sum((terms[key], deltas[key]) for key in terms)
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


def test_projections_that_are_shared_cost_no_rank(
    pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    made = pair("vera")  # one projection_prng_key
    done = pemath.compose("0.5*a - b", tmp_path / "out", operands=made.folders)
    assert pemath.inspect(str(done.folder)).ranks == [made.case.rank]


def test_a_smaller_rank_is_certified(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    made = pair("loha")
    operands = {"a": made.folders["a"]}
    done = pemath.compose("a", tmp_path / "out", operands=operands, rank=4)
    found = oracle.deltas(oracle.load("bert", done.folder))
    for name, error in oracle.relative_errors(found, made.deltas["a"]).items():
        stated = done.certificate.sites[name.removesuffix(".weight")].error
        assert error == pytest.approx(stated, rel=1e-5)
        values = torch.linalg.svdvals(made.deltas["a"][name])
        best = torch.linalg.norm(values[4:]) / torch.linalg.norm(values)
        assert error == pytest.approx(float(best), rel=1e-5)


def test_the_result_is_a_lora_and_nothing_else(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    case, folders = pair("loha").case, pair("loha").folders
    path = Path(folders["a"]) / "adapter_config.json"
    stated = json.loads(path.read_text())
    changed = {"revision": "abc", "base_model_name_or_path": "some/base", "task_type": "CAUSAL_LM"}
    path.write_text(json.dumps(stated | changed))
    try:
        done = pemath.compose("2*a", tmp_path / "out", operands={"a": folders["a"]})
    finally:
        path.write_text(json.dumps(stated))
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert {name: config[name] for name in changed} == changed
    assert config["peft_type"] == "LORA"
    assert config["target_modules"] == case.settings["target_modules"]
    fields = peft.LoraConfig().to_dict().keys()
    assert config.keys() <= fields, config.keys() - fields


def test_a_trained_head_comes_along(tmp_path: Path) -> None:
    case = compiled.bert("LoHaConfig", r=2, modules_to_save=["classifier"])
    folder = compiled.write(case, tmp_path / "a", "a")
    done = pemath.compose("a", tmp_path / "out", operands={"a": str(folder)})
    found = forward("bert", oracle.load("bert", done.folder))
    torch.testing.assert_close(found, forward("bert", compiled.load(case, folder)))


@pytest.mark.parametrize("bias", ["all", "vera_only"])
def test_trained_biases_come_along(tmp_path: Path, bias: str) -> None:
    case = compiled.bert("VeraConfig", r=3, bias=bias)
    folder = compiled.write(case, tmp_path / "a", "a")
    done = pemath.compose("a", tmp_path / "out", operands={"a": str(folder)})
    found = forward("bert", oracle.load("bert", done.folder))
    torch.testing.assert_close(found, forward("bert", compiled.load(case, folder)))


def test_adalora_after_its_budget(tmp_path: Path) -> None:
    """Ranks that differ, one of them zero, as its allocator leaves them."""
    case = compiled.bert("AdaLoraConfig", init_r=4, lora_alpha=3, total_step=9)
    model = compiled.model_of(case, "a")
    pattern = {}
    for number, (site, _) in enumerate(oracle.tuners(model)):
        pattern[f"{site}.lora_E.default"] = [True] * number + [False] * (4 - number)
    model.peft_config["default"].rank_pattern = pattern
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kept = pattern.get(name.removeprefix("base_model.model."))
            if kept is not None:
                parameter[~torch.tensor(kept)] = 0
    folder = adapters.save(model, tmp_path / "a")
    assert pemath.inspect(str(folder)).ranks == [1, 2, 3]
    done = pemath.compose("a", tmp_path / "out", operands={"a": str(folder)})
    wanted = compiled.deltas(compiled.load(case, folder))
    found = oracle.deltas(oracle.load("bert", done.folder))
    nothing = [name for name, delta in wanted.items() if not delta.any()]
    assert len(nothing) == 1
    assert not found.pop(nothing[0]).any()
    del wanted[nothing[0]]
    assert max(oracle.relative_errors(found, wanted).values()) <= 1e-6


def test_beft_is_a_change_of_biases(tmp_path: Path) -> None:
    case = compiled.bert("BeftConfig")
    folders = {key: str(compiled.write(case, tmp_path / key, key)) for key in "ab"}
    done = pemath.compose("a - 2*b", tmp_path / "out", operands=folders)
    added = adapters.load_file(done.folder / adapters.WEIGHTS)
    names = {name.removeprefix("base_model.model."): delta for name, delta in added.items()}
    trained = [compiled.load(case, Path(folders[key])) for key in "ab"]
    for (site, first), (_, second) in zip(*map(oracle.tuners, trained), strict=True):
        wanted = first.beft_bias["default"][0] - 2 * second.beft_bias["default"][0]
        torch.testing.assert_close(names.pop(f"{site}.bias").double(), wanted.detach())
    assert not names


REFUSED = {
    "vera without projections": (
        compiled.bert("VeraConfig", r=2, save_projection=False),
        "save_proj",
    ),
    "vera of several widths": (
        compiled.bert("VeraConfig", r=2, target_modules=["query", "output.dense"]),
        "how wide",
    ),
    "pvera that draws": (compiled.bert("PveraConfig", r=2, sample_at_inference=True), "sample_at"),
    "randlora without bases": (
        compiled.bert("RandLoraConfig", r=5, save_projection=False),
        "save_projection",
    ),
    "randlora that is not square": (
        compiled.bert("RandLoraConfig", r=5, target_modules=["intermediate.dense"]),
        "shape of the layer",
    ),
    "unilora without positions": (
        compiled.bert("UniLoraConfig", r=2, theta_d_length=9, save_indices=False),
        "save_indices",
    ),
    "tinylora in groups": (compiled.bert("TinyLoraConfig", r=2, u=3), "weight_tying"),
    "tinylora without matrices": (
        compiled.bert("TinyLoraConfig", r=2, u=3, weight_tying=1.0, save_projection=False),
        "save_projection",
    ),
    "tinylora of an embedding": (
        compiled.bert(
            "TinyLoraConfig",
            r=2,
            u=3,
            weight_tying=1.0,
            target_modules=["word_embeddings", "query"],
        ),
        "called like embeddings: `bert.embeddings.word_embeddings`",
    ),
    "supertuning alone": (compiled.bert("SupertuningConfig", sparsity=0.9), "no shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_files_leave_open_is_refused(tmp_path: Path, name: str) -> None:
    case, words = REFUSED[name]
    folder = compiled.write(case, tmp_path / "a", "a")
    with pytest.raises(pemath.PemathError, match=words) as refused:
        pemath.compose("a", tmp_path / "out", operands={"a": str(folder)})
    assert refused.value.exit_code == 3
    assert refused.value.hint


SAVED_AS_LORA = {
    "PSOFT": compiled.bert("PsoftConfig", r=4),
    "MISS": compiled.bert("MissConfig", r=2),
    "FOURIERFT": compiled.bert("FourierFTConfig", n_frequency=9),
    "WAVEFT": compiled.bert("WaveFTConfig", n_frequency=9),
    "VERA": REFUSED["vera of several widths"][0],
    "RANDLORA": REFUSED["randlora that is not square"][0],
    "TINYLORA": REFUSED["tinylora in groups"][0],
}


@pytest.mark.parametrize("name", SAVED_AS_LORA)
def test_what_peft_is_said_to_save_as_lora_it_does(name: str) -> None:
    assert compiled.model_of(SAVED_AS_LORA[name], "a").supports_lora_conversion()


def test_no_other_type_is_said_to_be_saved_as_lora() -> None:
    told = {name for name, (_, hint) in REASONS.items() if hint == AS_LORA}
    assert told <= set(SAVED_AS_LORA)
    assert not compiled.model_of(compiled.bert("HiraConfig", r=2), "a").supports_lora_conversion()
    assert not compiled.model_of(CASES["shira"], "a").supports_lora_conversion()


def test_every_type_of_peft_is_accounted_for_once() -> None:
    of_kinds = [t for k in kinds().values() if k.folders for t in k.folders.peft_types]
    of_compiled = [t for k in compiled_kinds().values() for t in k.peft_types]
    told = [*of_kinds, *of_compiled, *REASONS]
    assert len(set(told)) == len(told)
    types = {known.value for known in peft.PeftType}
    assert types <= set(told)
    assert set(told) - types == {"FULL", "BONE"}  # pemath's own, and one that PEFT had


@pytest.mark.parametrize("name", sorted({known.value for known in peft.PeftType} & REASONS.keys()))
def test_refusals_say_why(tmp_path: Path, name: str) -> None:
    folder = adapters.lora("bert", tmp_path / "a")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": name}))
    with pytest.raises(pemath.PemathError) as refused:
        pemath.compose("a", tmp_path / "out", operands={"a": str(folder)})
    assert REASONS[name][0] in str(refused.value)
    assert refused.value.code == "unsupported-kind"
