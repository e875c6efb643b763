"""`pemath compose`: what it writes and what it says, against dense float64 arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest

import pemath

from . import folders
from .conftest import Cli
from .folders import QUERY, VALUE, config_of, deltas, relative_error, tensors_of, weighted

F32 = 3e-7


def codes(folder: Path) -> set[str]:
    """The dtypes in a file's header."""
    raw = (folder / folders.WEIGHTS).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def test_a_sum_is_written_as_a_whole_folder(cli: Cli, here: Path) -> None:
    done = cli("compose", "0.6*a + 0.4*b", "a=a", "b=b", "--out", "merged")
    assert (done.code, done.err) == (0, "")
    merged = here / "merged"
    files = {folders.CONFIG, folders.WEIGHTS, "README.md", "pemath.lock.json"}
    assert {file.name for file in merged.iterdir()} == files
    wanted = weighted((0.6, here / "a"), (0.4, here / "b"))
    assert relative_error(deltas(merged), wanted) < F32
    config = config_of(merged)
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (6, 6, {})
    assert config["base_model_name_or_path"] == "tests/base"
    for said in ("0.6*a + 0.4*b", str(merged), "lora, 2 sites, float32", "tests/base", "rank", "6"):
        assert said in done.out
    assert not list(here.glob(".*"))


def test_the_card_says_what_was_composed(cli: Cli, here: Path) -> None:
    cli("compose", "0.6*a + 0.4*b", "a=a", "b=b", "-o", "merged")
    card = (here / "merged" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nbase_model: tests/base\nbase_model_relation: adapter\n")
    for said in ("`0.6*a + 0.4*b`", "| a | a |", "| b | b |", "## Certificate"):
        assert said in card


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("a", {"a": 1}),
        ("a - b", {"a": 1, "b": -1}),
        ("-0.6*a", {"a": -0.6}),
        ("-a", {"a": -1}),
        ("-(a - b)/2", {"a": -0.5, "b": 0.5}),
        ("1.3*a - 0.3*c", {"a": 1.3, "c": -0.3}),
        ("0.9*c + 0.1*(a - b)", {"c": 0.9, "a": 0.1, "b": -0.1}),
        ("exact(a, b, weights=[0.25, -2])", {"a": 0.25, "b": -2}),
        ("a - a + b", {"b": 1}),
    ],
)
def test_every_linear_expression_is_exact(
    cli: Cli, here: Path, expression: str, terms: dict[str, float]
) -> None:
    used = [name for name in "abc" if name in expression.replace("exact", "")]
    done = cli("compose", expression, *(f"{name}={name}" for name in used), "--out", "merged")
    assert (done.code, done.err) == (0, "")
    wanted = weighted(*((weight, here / name) for name, weight in terms.items()))
    assert relative_error(deltas(here / "merged"), wanted) < F32


def test_operands_that_cancel_leave_an_adapter_that_changes_nothing(cli: Cli, here: Path) -> None:
    done = cli("compose", "a - a", "a=a", "--out", "merged")
    assert (done.code, done.err) == (0, "")
    assert all(not delta.any() for delta in deltas(here / "merged").values())


def test_references_can_be_quoted_in_the_expression(cli: Cli, here: Path) -> None:
    done = cli("compose", "'a' + \"b\"", "--out", "merged")
    assert done.code == 0
    wanted = weighted((1, here / "a"), (1, here / "b"))
    assert relative_error(deltas(here / "merged"), wanted) < F32


def test_the_command_line_and_python_write_the_same_bytes(cli: Cli, here: Path) -> None:
    cli("compose", "0.6*a + 0.4*b", "a=a", "b=b", "--out", "merged", "--rank", "3")
    pemath.compose("0.6*a + 0.4*b", "other", operands={"a": "a", "b": "b"}, rank=3)
    for file in (here / "merged").iterdir():
        assert file.read_bytes() == (here / "other" / file.name).read_bytes(), file.name


# --------------------------------------------------------------------------------- rank and error


def test_rank_is_kept_and_the_certificate_is_true(cli: Cli, here: Path) -> None:
    done = cli("compose", "a + b", "a=a", "b=b", "--out", "merged", "--rank", "2", "--json")
    assert done.code == 0
    wanted = weighted((1, here / "a"), (1, here / "b"))
    found = deltas(here / "merged")
    assert config_of(here / "merged")["r"] == 2
    certificate = done.json["certificate"]
    assert certificate["error"] == pytest.approx(relative_error(found, wanted), abs=1e-6)
    for site, report in certificate["sites"].items():
        tail = np.linalg.svd(wanted[site], compute_uv=False)[2:]
        error = np.linalg.norm(found[site] - wanted[site]) / np.linalg.norm(wanted[site])
        assert report["rank"] == 2
        assert report["error"] == pytest.approx(error, abs=1e-6)
        assert error == pytest.approx(np.linalg.norm(tail) / np.linalg.norm(wanted[site]), rel=1e-5)


def test_max_error_takes_the_smallest_rank_that_keeps_to_it(cli: Cli, here: Path) -> None:
    words = ("compose", "a + b", "a=a", "b=b", "--json", "--out")
    bound = cli(*words, "merged", "--max-error", "30%").json["certificate"]
    assert bound["worst_error"] <= 0.3
    rank = config_of(here / "merged")["r"]
    assert 1 < rank < 6
    less = cli(*words, "less", "--rank", str(rank - 1)).json["certificate"]
    assert less["worst_error"] > 0.3


def test_max_error_may_be_a_fraction(cli: Cli, here: Path) -> None:
    words = ("compose", "a + b", "a=a", "b=b", "--out")
    assert cli(*words, "one", "--max-error", "30%").code == 0
    assert cli(*words, "two", "--max-error", "0.3").code == 0
    assert config_of(here / "one") == config_of(here / "two")


def test_shared_factors_do_not_double_the_rank(cli: Cli, here: Path) -> None:
    done = cli("compose", "same - 0.5*too", "same=same", "too=too", "--out", "merged")
    assert done.code == 0
    assert config_of(here / "merged")["r"] == 3
    wanted = weighted((1, here / "same"), (-0.5, here / "too"))
    assert relative_error(deltas(here / "merged"), wanted) < F32


def test_profiles(cli: Cli, here: Path) -> None:
    words = ("compose", "a + c", "a=a", "c=c", "--out")
    assert cli(*words, "portable").code == 0
    assert cli(*words, "compact", "--profile", "compact").code == 0
    wanted = weighted((1, here / "a"), (1, here / "c"))
    for profile in ("portable", "compact"):
        assert relative_error(deltas(here / profile), wanted) < F32
    portable, compact = config_of(here / "portable"), config_of(here / "compact")
    assert (portable["r"], portable["rank_pattern"], portable["alpha_pattern"]) == (5, {}, {})
    assert (compact["r"], compact["rank_pattern"], compact["alpha_pattern"]) == (
        5,
        {VALUE: 3},
        {VALUE: 3},
    )
    shapes = {name: tensor.shape for name, tensor in tensors_of(here / "compact").items()}
    assert shapes[f"{QUERY}.lora_A.weight"] == (5, folders.IN)
    assert shapes[f"{VALUE}.lora_A.weight"] == (3, folders.IN)


# ------------------------------------------------------------------------------------- arithmetic


def test_paper_arithmetic_adds_the_factors(cli: Cli, here: Path) -> None:
    done = cli(
        "compose", "a - 0.5*b", "a=a", "b=b", "--arithmetic", "paper", "--out", "m", "--json"
    )
    assert done.code == 0
    scale = {"a": 2.0, "b": 0.5}
    tensors = {name: tensors_of(here / name) for name in "ab"}
    wanted = {}
    for site in (QUERY, VALUE):
        a, b = (tensors[name][f"{site}.lora_A.weight"] for name in "ab")
        p, q = (scale[name] * tensors[name][f"{site}.lora_B.weight"] for name in "ab")
        wanted[site] = (p - 0.5 * q) @ (a + 0.5 * b)
    found = deltas(here / "m")
    assert relative_error(found, wanted) < F32
    assert config_of(here / "m")["r"] == 3
    distance = relative_error(found, weighted((1, here / "a"), (-0.5, here / "b")))
    assert done.json["certificate"]["error"] == pytest.approx(distance, abs=1e-6)


def test_normalised_paper_arithmetic_is_exact_where_a_is_shared(cli: Cli, here: Path) -> None:
    words = ("compose", "same - too", "same=same", "too=too", "--json", "--arithmetic")
    plain = cli(*words, "paper", "--out", "plain").json["certificate"]
    normal = cli(*words, "paper(normalize=true)", "--out", "normal").json["certificate"]
    assert plain["error"] == pytest.approx(1.0, abs=1e-6)  # twice the difference
    assert normal["error"] < F32
    wanted = weighted((1, here / "same"), (-1, here / "too"))
    assert relative_error(deltas(here / "normal"), wanted) < F32


def test_a_method_can_be_called_inside_an_expression(cli: Cli, here: Path) -> None:
    one = cli("compose", "paper(a, b, weights=[0.5, 0.5])", "a=a", "b=b", "--out", "one")
    two = cli("compose", "0.5*a + 0.5*b", "a=a", "b=b", "--arithmetic", "paper", "--out", "two")
    assert (one.code, two.code) == (0, 0)
    assert relative_error(deltas(here / "one"), deltas(here / "two")) < F32


def test_ia3_is_affine_around_one(cli: Cli, here: Path) -> None:
    done = cli("compose", "0.7*v - 0.2*w", "v=v", "w=w", "--out", "merged")
    assert (done.code, done.err) == (0, "")
    v, w, merged = (tensors_of(here / name) for name in ("v", "w", "merged"))
    for name in v:
        np.testing.assert_allclose(
            merged[name], 1 + 0.7 * (v[name] - 1) - 0.2 * (w[name] - 1), rtol=F32
        )


# ---------------------------------------------------------------------------------- type and heads


@pytest.mark.parametrize(
    ("dtype", "code", "largest"),
    [("float64", "F64", 1e-14), ("float16", "F16", 1e-3), ("bfloat16", "BF16", 8e-3)],
)
def test_dtype(cli: Cli, here: Path, dtype: str, code: str, largest: float) -> None:
    done = cli("compose", "a + b", "a=a", "b=b", "--dtype", dtype, "--out", "merged", "--json")
    assert done.json["dtype"] == dtype
    assert codes(here / "merged") == {code}
    assert done.json["certificate"]["error"] <= largest
    if dtype == "bfloat16":
        assert done.json["certificate"]["error"] > 1e-4


def test_heads_are_averaged_where_the_weights_sum_to_one(cli: Cli, here: Path) -> None:
    done = cli("compose", "0.25*x + 0.75*y", "x=half", "y=rest", "--out", "merged")
    assert done.code == 0
    assert "head `classifier` averaged: 0.25 x, 0.75 y" in done.out
    x, y, merged = (tensors_of(here / name) for name in ("half", "rest", "merged"))
    for part in ("classifier.weight", "classifier.bias"):
        np.testing.assert_allclose(merged[part], 0.25 * x[part] + 0.75 * y[part], rtol=F32)
    assert config_of(here / "merged")["modules_to_save"] == ["classifier"]


def test_a_head_that_only_one_operand_has_is_taken_over(cli: Cli, here: Path) -> None:
    done = cli("compose", "x + a", "x=half", "a=a", "--out", "merged")
    assert done.code == 0
    assert "taken over from x" in done.out
    x, merged = tensors_of(here / "half"), tensors_of(here / "merged")
    np.testing.assert_array_equal(merged["classifier.weight"], x["classifier.weight"])


@pytest.mark.parametrize("choice", ["average", "x", "y", "drop"])
def test_heads_by_choice(cli: Cli, here: Path, choice: str) -> None:
    done = cli("compose", "x + y", "x=half", "y=rest", "--heads", choice, "--out", "merged")
    assert done.code == 0
    assert "head `classifier`" in done.out
    x, y, merged = (tensors_of(here / name) for name in ("half", "rest", "merged"))
    if choice == "drop":
        assert not [name for name in merged if "classifier" in name]
        assert config_of(here / "merged")["modules_to_save"] is None
        return
    for part in ("classifier.weight", "classifier.bias"):
        wanted = {"average": (x[part] + y[part]) / 2, "x": x[part], "y": y[part]}[choice]
        np.testing.assert_allclose(merged[part], wanted, rtol=F32)


def test_base_model_by_request(cli: Cli, here: Path) -> None:
    folders.lora(here / "other", 5, base_model_name_or_path="somebody/else")
    words = ("compose", "a + o", "a=a", "o=other", "--out", "merged")
    assert cli(*words).code == 4
    assert cli(*words, "--base-model", "tests/base").code == 0
    assert config_of(here / "merged")["base_model_name_or_path"] == "tests/base"


# ------------------------------------------------------------------------- dry run, force and JSON


def test_a_dry_run_reads_no_tensor_and_writes_nothing(cli: Cli, here: Path) -> None:
    folders.lora(here / "nan", 5)
    file = here / "nan" / folders.WEIGHTS
    raw = file.read_bytes()
    file.write_bytes(raw[:-4] + np.float32(np.nan).tobytes())
    before = sorted(here.rglob("*"))
    words = ("compose", "a + n", "a=a", "n=nan", "--out", "merged")
    done = cli(*words, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert sorted(here.rglob("*")) == before
    for said in ("would compose a + n", "2 sites", "lora", "tests/base", "6"):
        assert said in done.out
    assert cli(*words).code == 3


def test_a_dry_run_needs_no_output_and_speaks_json(cli: Cli) -> None:
    done = cli("compose", "0.5*x + 0.5*y", "x=half", "y=rest", "--dry-run", "--json")
    assert done.code == 0
    plan = done.json
    assert (plan["kind"], plan["sites"], plan["largest_rank"]) == ("lora", 2, 6)
    assert plan["operands"]["x"] == {"reference": "half", "sites": 2, "dtype": "float32"}
    assert any("averaged" in note for note in plan["notes"])


def test_a_dry_run_refuses_what_compose_refuses(cli: Cli, here: Path) -> None:
    assert cli("compose", "a + v", "a=a", "v=v", "--dry-run").code == 4
    assert cli("compose", "a", "a=a", "--out", "b", "--dry-run").code == 5


def test_force_replaces_an_adapter(cli: Cli, here: Path) -> None:
    assert cli("compose", "a + b", "a=a", "b=b", "--out", "merged").code == 0
    refused = cli("compose", "2*a", "a=a", "--out", "merged")
    assert refused.code == 5
    assert "--force" in refused.err
    assert config_of(here / "merged")["r"] == 6
    assert cli("compose", "2*a", "a=a", "--out", "merged", "--force").code == 0
    assert relative_error(deltas(here / "merged"), weighted((2, here / "a"))) < F32
    assert not list(here.glob(".*"))


def test_force_spares_everything_else(cli: Cli, here: Path) -> None:
    (here / "precious").mkdir()
    (here / "precious" / "thesis.tex").write_text("draft", encoding="utf-8")
    for target in ("precious", "a"):
        before = {f: f.read_bytes() for f in (here / target).iterdir()}
        assert cli("compose", "2*a", "a=a", "--out", target, "--force").code in (2, 5)
        assert {f: f.read_bytes() for f in (here / target).iterdir()} == before


def test_json_holds_the_whole_certificate(cli: Cli, here: Path) -> None:
    done = cli("compose", "0.6*a + 0.4*b", "a=a", "b=b", "--out", "merged", "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert found["folder"] == str(here / "merged")
    assert found["kind"] == "lora"
    assert set(found["certificate"]["sites"]) == {QUERY, VALUE}
    lock = json.loads((here / "merged" / "pemath.lock.json").read_text(encoding="utf-8"))
    assert lock["certificate"] == found["certificate"]
