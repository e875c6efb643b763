"""Exit codes and messages, one class of error after the other, as text and as JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from . import folders
from .conftest import Cli

AB = ("a=a", "b=b", "--out", "merged")


def pickled(here: Path) -> None:
    (here / "a" / folders.WEIGHTS).unlink()
    (here / "a" / "adapter_model.bin").write_bytes(b"not to be opened")


def truncated(here: Path) -> None:
    file = here / "a" / folders.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])


def without_json(here: Path) -> None:
    (here / "a" / folders.CONFIG).write_text("{", encoding="utf-8")


def of_type(name: str) -> Callable[[Path], None]:
    def change(here: Path) -> None:
        config = folders.config_of(here / "a") | {"peft_type": name}
        (here / "a" / folders.CONFIG).write_text(json.dumps(config), encoding="utf-8")

    return change


def with_field(name: str, value: object) -> Callable[[Path], None]:
    def change(here: Path) -> None:
        config = folders.config_of(here / "a") | {name: value}
        (here / "a" / folders.CONFIG).write_text(json.dumps(config), encoding="utf-8")

    return change


def other_base(here: Path) -> None:
    with_field("base_model_name_or_path", "somebody/else")(here)


def other_shape(here: Path) -> None:
    config, tensors = folders.config_of(here / "a"), folders.tensors_of(here / "a")
    wide = {
        folders.PREFIX + name: tensor[:-1] if "lora_B" in name else tensor
        for name, tensor in tensors.items()
    }
    folders.written(here / "a", config, {k: t.astype("f4") for k, t in wide.items()})


def no_change(here: Path) -> None:
    pass


# name: (exit code, stable code, what happens before, words, what the message must hold)
CASES: dict[str, tuple[int, str, Callable[[Path], None], tuple[str, ...], tuple[str, ...]]] = {
    # 2: the request
    "syntax": (2, "expression", no_change, ("a + * b", *AB), ("a + * b", "    ^")),
    "early end": (2, "expression", no_change, ("a + ", *AB), ("ends too early",)),
    "a number": (2, "expression", no_change, ("2", "--out", "merged"), ("adapter is needed",)),
    "a product": (2, "expression", no_change, ("a*b", *AB), ("two adapters", "  ^")),
    "unbound": (2, "expression", no_change, ("a + zed", *AB), ("`zed`", "zed=PATH")),
    "unused": (2, "request", no_change, ("a", *AB), ("`b`",)),
    "no binding": (2, "request", no_change, ("a", "a", "--out", "m"), ("`a`", "NAME=REFERENCE")),
    "bound twice": (2, "request", no_change, ("a", "a=a", *AB[:2], "a=b"), ("`a`", "twice")),
    "no output": (2, "request", no_change, ("a", "a=a"), ("--out",)),
    "no expression": (2, "request", no_change, ("--out", "merged"), ("pemath compose",)),
    "unknown method": (2, "request", no_change, ("papr(a, b)", *AB), ("`papr`", "`paper`")),
    "unknown option": (
        2, "request", no_change, ("paper(a, b, normalise=true)", *AB), ("`normalise`", "`normalize`")
    ),
    "wrong option": (2, "request", no_change, ("paper(a, b, normalize=3)", *AB), ("`normalize`",)),
    "weights": (2, "request", no_change, ("paper(a, b, weights=[1])", *AB), ("`weights`",)),
    "arithmetic": (2, "request", no_change, ("a + b", *AB, "--arithmetic", "sum"), ("`sum`",)),
    "arithmetic's syntax": (
        2, "expression", no_change, ("a + b", *AB, "--arithmetic", "paper("), ("paper(", "^")
    ),
    "rank 0": (2, "request", no_change, ("a + b", *AB, "--rank", "0"), ("at least 1", "0")),
    "rank and error": (
        2, "request", no_change, ("a + b", *AB, "--rank", "2", "--max-error", "1%"), ("--max-error",)
    ),
    "error bound": (2, "request", no_change, ("a + b", *AB, "--max-error", "ten"), ("`ten`", "1%")),
    "200 %": (2, "request", no_change, ("a + b", *AB, "--max-error", "200%"), ("100 %",)),
    "not a rank": (2, "usage", no_change, ("a + b", *AB, "--rank", "two"), ("--rank", "two")),
    "dtype": (2, "usage", no_change, ("a + b", *AB, "--dtype", "int8"), ("int8", "bfloat16")),
    "profile": (2, "usage", no_change, ("a + b", *AB, "--profile", "big"), ("big", "compact")),
    "unknown flag": (2, "usage", no_change, ("a + b", *AB, "--ranks", "2"), ("--ranks", "--rank")),
    "heads": (2, "request", no_change, ("a + b", *AB, "--heads", "zed"), ("`zed`", "average")),
    "rank of (IA)³": (
        2, "request", no_change, ("v", "v=v", "--out", "m", "--rank", "2"), ("LoRA", "ia3")
    ),
    "output is an operand": (
        2, "request", no_change, ("a + b", "a=a", "b=b", "--out", "a", "--force"), ("`a`",)
    ),
    # 3: a file
    "pickle": (3, "pickle-refused", pickled, ("a + b", *AB), ("adapter_model.bin", "safetensors")),
    "truncated": (3, "truncated-file", truncated, ("a + b", *AB), ("`a`", folders.WEIGHTS)),
    "bad JSON": (3, "config", without_json, ("a + b", *AB), (folders.CONFIG,)),
    "kind": (3, "unsupported-kind", of_type("LORE"), ("a + b", *AB), ("`LORE`", "LORA")),
    "refused kind": (3, "unsupported-kind", of_type("OFT"), ("a + b", *AB), ("OFT", "orthogonal")),
    "DoRA": (3, "unsupported-feature", with_field("use_dora", True), ("a + b", *AB), ("`use_dora`",)),
    "rank in the config": (3, "layout", with_field("r", 4), ("a + b", *AB), ("`" + folders.QUERY, "4")),
    "alpha": (3, "config", with_field("lora_alpha", "x"), ("a + b", *AB), ("lora_alpha",)),
    # 4: operands
    "kinds": (
        4, "kind-mismatch", no_change, ("a + v", "a=a", "v=v", "--out", "m"), ("lora", "ia3")
    ),
    "ranks": (
        4, "rank-mismatch", no_change,
        ("a + c", "a=a", "c=c", "--out", "m", "--arithmetic", "paper"), (folders.QUERY, "exact"),
    ),
    "bases": (
        4, "base-mismatch", other_base, ("a + b", *AB), ("somebody/else", "--base-model")
    ),
    "shapes": (4, "shape-mismatch", other_shape, ("a + b", *AB), (folders.QUERY, "9×12", "10×12")),
    "heads' weights": (
        4, "head-choice-needed", no_change, ("x + y", "x=half", "y=rest", "--out", "m"),
        ("`classifier`", "--heads average", "--heads drop", "--heads x", "--heads y"),
    ),
    "heads' labels": (
        4, "shape-mismatch", no_change, ("x + y", "x=half", "y=wide", "--out", "m"),
        ("`classifier`", "--heads drop"),
    ),
    "error too large": (
        4, "error-too-large", no_change,
        ("a + b", *AB, "--arithmetic", "paper", "--max-error", "1%"), ("1 %",),
    ),
    "dtype too narrow": (
        4, "error-too-large", no_change,
        ("a + b", *AB, "--dtype", "bfloat16", "--max-error", "0.1%"), ("bfloat16", "--dtype"),
    ),
    # 5: reading and writing
    "no folder": (5, "reference-not-found", no_change, ("a", "a=./zed", "--out", "m"), ("zed",)),
    "no example": (
        5, "reference-not-found", no_change, ("a", "a=example:zed", "--out", "m"),
        ("`zed`", "sentiment-lora-a"),
    ),
    "no adapter": (5, "reference-not-found", no_change, ("a", "a=.", "--out", "m"), (folders.CONFIG,)),
    "no parent": (5, "storage", no_change, ("a", "a=a", "--out", "zed/m"), ("zed",)),
    "output exists": (5, "output-exists", no_change, ("a", "a=a", "--out", "b"), ("--force",)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refusals_of_compose(cli: Cli, here: Path, name: str) -> None:
    exit_code, code, change, words, said = CASES[name]
    change(here)
    before = sorted(here.rglob("*"))
    shown = cli("compose", *words)
    assert (shown.code, shown.out) == (exit_code, "")
    assert shown.err.startswith("pemath: ")
    for part in said:
        assert part in shown.err
    assert "Traceback" not in shown.err
    told = cli("compose", *words, "--json")
    assert (told.code, told.err) == (exit_code, "")
    assert told.json["error"] == code
    assert {"what", "where", "found", "expected", "hint"} <= told.json.keys()
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (("frobnicate",), 2, "frobnicate"),
        (("inspekt", "a"), 2, "inspekt"),
        (("inspect",), 2, "REFERENCE"),
        (("inspect", "zed"), 5, "zed"),
        (("compare", "a=a"), 2, "two adapters"),
        (("compare", "a=a", "v=v"), 4, "different kinds"),
        (("verify", "a"), 5, "pemath.lock.json"),
        (("verify", "zed"), 5, "zed"),
        (("rebuild", "a", "--out", "m"), 5, "pemath.lock.json"),
        (("rebuild", "a"), 2, "--out"),
        (("kinds", "lora"), 2, "lora"),
    ],
)
def test_refusals_of_the_other_verbs(
    cli: Cli, words: tuple[str, ...], exit_code: int, said: str
) -> None:
    shown = cli(*words)
    assert (shown.code, shown.out) == (exit_code, "")
    assert shown.err.startswith("pemath: ")
    assert said.lower() in shown.err.lower()
    told = cli(*words, "--json")
    assert (told.code, told.err) == (exit_code, "")
    assert told.json["what"]


@pytest.mark.parametrize("words", [("exact()",), ("paper()",), ("a + exact()", "a=a")])
def test_a_call_without_operands_is_refused(cli: Cli, here: Path, words: tuple[str, ...]) -> None:
    done = cli("compose", *words, "--out", "merged")
    assert done.code == 2
    assert "operand" in done.err
    assert not (here / "merged").exists()


def test_an_interrupted_run_leaves_nothing(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(here.rglob("*"))
    monkeypatch.setattr("pemath.composition.stream.stream", interrupted)
    done = cli("compose", "a + b", *AB)
    assert (done.code, done.out) == (130, "")
    assert "interrupted" in done.err
    assert sorted(here.rglob("*")) == before
