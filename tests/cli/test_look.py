"""`pemath inspect`, `compare`, `kinds`, `methods` and `demo`: what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pemath.cli import demo
from pemath.kinds import compiled_kinds, kinds
from pemath.methods import methods
from pemath.references import examples

from . import folders
from .conftest import Cli
from .folders import QUERY, VALUE, deltas


def test_inspect(cli: Cli, here: Path) -> None:
    done = cli("inspect", "half")
    assert (done.code, done.err) == (0, "")
    for said in ("lora", "tests/base", "rank", "3", "float32", "classifier", "1 query, 1 value"):
        assert said in done.out
    found = cli("inspect", "half", "--json").json
    assert found["kind"] == "lora"
    assert found["ranks"] == {"min": 3, "max": 3, "distinct": [3]}
    for site, delta in deltas(here / "half").items():
        assert found["sites"][site]["norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        assert found["sites"][site]["scale"] == 2.0
    assert QUERY in cli("inspect", "half", "--sites").out


def test_inspect_shows_what_cannot_be_composed(cli: Cli, here: Path) -> None:
    folders.lora(here / "dora", 5, use_dora=True)
    done = cli("inspect", "dora")
    assert done.code == 0
    assert "use_dora" in done.out


def test_compare(cli: Cli, here: Path) -> None:
    done = cli("compare", "same=same", "too=too")
    assert (done.code, done.err) == (0, "")
    for said in (
        "same + too",
        "0.5*same + 0.5*too",
        "same - too",
        "paper",
        "peft_linear",
        "cosine",
    ):
        assert said in done.out
    found = cli("compare", "same=same", "too=too", "--json").json
    x, y = deltas(here / "same"), deltas(here / "too")
    inner = sum(np.vdot(x[site], y[site]) for site in x)
    norms = [np.sqrt(sum(np.linalg.norm(d) ** 2 for d in one.values())) for one in (x, y)]
    assert found["total"]["cosine"] == pytest.approx(inner / np.prod(norms), abs=1e-9)
    assert found["initialisation"]["verdict"] == "identical"
    outcomes = {
        (c["expression"], m["method"]): (m["error"], m["projection"])
        for c in found["combinations"]
        for m in c["methods"]
    }
    # With one A, PEFT's linear doubles the mean and loses the difference.
    assert outcomes["0.5*same + 0.5*too", "peft_linear"] == pytest.approx((1, 2), abs=1e-6)
    assert outcomes["same - too", "peft_linear"] == pytest.approx((1, 0), abs=1e-6)
    assert outcomes["0.5*same + 0.5*too", "paper"] == pytest.approx((0, 1), abs=1e-6)
    assert outcomes["same - too", "paper"] == pytest.approx((1, 2), abs=1e-6)
    assert outcomes["same - too", "paper(normalize=true)"] == pytest.approx((0, 1), abs=1e-6)


def test_compare_says_the_same_as_composing(cli: Cli) -> None:
    """The distance that `compare` predicts is the one that the certificate finds."""
    found = cli("compare", "a=a", "b=b", "--json").json
    for combination in found["combinations"]:
        for outcome in combination["methods"]:
            words = ("--arithmetic", outcome["method"], "--out", "m", "--force", "--json")
            done = cli("compose", combination["expression"], "a=a", "b=b", *words)
            certified = done.json["certificate"]["error"]
            assert certified == pytest.approx(outcome["error"], abs=1e-6)


def test_compare_takes_references_without_names(cli: Cli) -> None:
    done = cli("compare", "a", "b", "--sites")
    assert done.code == 0
    assert "a + b" in done.out
    assert VALUE in done.out


def test_compare_ia3(cli: Cli, here: Path) -> None:
    found = cli("compare", "v=v", "w=w", "--json").json
    v, w = folders.tensors_of(here / "v"), folders.tensors_of(here / "w")
    inner = sum(np.vdot(v[name] - 1, w[name] - 1) for name in v)
    norms = [np.sqrt(sum(np.linalg.norm(x - 1) ** 2 for x in one.values())) for one in (v, w)]
    assert found["total"]["cosine"] == pytest.approx(inner / np.prod(norms), abs=1e-9)


def test_kinds(cli: Cli) -> None:
    done = cli("kinds")
    assert done.code == 0
    told = {kind["name"]: kind for kind in cli("kinds", "--json").json["kinds"]}
    known = {**kinds(), **compiled_kinds()}
    assert told.keys() == known.keys()
    for name, kind in known.items():
        assert name in done.out
        assert told[name]["summary"] == kind.summary
    assert (told["lora"]["peft_type"], told["lora"]["read_as"]) == ("LORA", "")
    assert (told["loha"]["peft_type"], told["loha"]["read_as"]) == ("LOHA", "lora")


def test_methods(cli: Cli) -> None:
    done = cli("methods")
    assert done.code == 0
    told = {method["name"]: method for method in cli("methods", "--json").json["methods"]}
    assert told.keys() == methods().keys()
    for method in methods().values():
        assert method.signature() in done.out
        assert method.source.split()[0] in done.out
        for option in method.options:
            assert option in told[method.name]["call"]


def test_every_example_can_be_inspected(cli: Cli) -> None:
    assert len(examples()) >= 3
    for name in examples():
        found = cli("inspect", f"example:{name}", "--json").json
        assert found["kind"] in kinds()
        assert found["obstacles"] == []


def test_demo_without_its_extra(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    before = sorted(here.rglob("*"))
    done = cli("demo")
    assert (done.code, done.err) == (0, "")
    for said in ("0.5*a + 0.5*b", "exact sum", "peft_linear", 'pip install torch "pemath[demo]"'):
        assert said in done.out
    assert sorted(here.rglob("*")) == before


def test_demo_keeps_what_it_made(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    done = cli("demo", "--out", "kept")
    assert done.code == 0
    assert "kept" in done.out
    assert cli("verify", "kept").code == 0


def test_demo_as_json(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    found = cli("demo", "--json").json
    assert found["certificate"]["error"] < 1e-6
    assert found["comparison"]["kind"] == "lora"
    assert not found["accuracy"]


@pytest.mark.parametrize("verb", [["kinds"], ["methods"], ["compare", "a", "b", "--sites"]])
def test_a_closed_pipe_is_no_error(here: Path, verb: list[str]) -> None:
    command = f"{sys.executable} -m pemath {' '.join(verb)} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=here, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
