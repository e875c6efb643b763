"""Methods that other packages bring: found, named, used, and left out where they are broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath import plugins
from pemath.methods import Stack, _registry, method, methods, named_method

from . import bias_kind

TILT = '''
"""A method of another package."""

from functools import reduce
from operator import add
from typing import Any

from pemath.methods import Stack, method


@method(space="factor", source="our own")
def tilt(stack: Stack, *, t: float = 0.5, towards: str = "second") -> Any:
    """The sum, its first operand by 1 - t and the others by t.

    `t` is how much; `towards` is a word.
    """
    first, *others = (v * w for v, w in zip(stack.values, stack.weights, strict=True))
    return reduce(add, (other * t for other in others), first * (1 - t))
'''

Installed = Callable[..., None]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def install(tmp_path: Path) -> Installed:
    """Puts a distribution into a folder as pip would."""

    def put(name: str, entry_points: str, **modules: str) -> None:
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{name.replace('-', '_')}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(entry_points)

    return put


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`pemath` in a process that sees the folder."""
    source = Path(pemath.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(source)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pemath", *words],
            check=False,
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=environment,
        )

    return call


def listed(run: Run) -> tuple[dict[str, dict[str, str | None]], str]:
    """The methods that `pemath methods --json` lists, and what it says besides."""
    done = run("methods", "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return {found["name"]: found for found in json.loads(done.stdout)["methods"]}, done.stderr


def test_a_method_of_another_package_is_used_like_any_other(
    install: Installed, run: Run, tmp_path: Path
) -> None:
    install("pemath-tilt", "[pemath.methods]\ntilt = pemath_tilt\n", pemath_tilt=TILT)
    found, said = listed(run)
    assert found.keys() == methods().keys() | {"tilt"}
    assert said == ""
    assert found["tilt"]["origin"] == "pemath-tilt 0.1"
    assert found["exact"]["origin"] is None
    assert found["tilt"]["call"] == 'tilt(a, b, …, weights=[1, …], t=0.5, towards="second")'
    assert re.search(r"^ +from +pemath-tilt 0.1$", run("methods").stdout, re.MULTILINE)

    pair = ["a=example:sentiment-lora-a", "b=example:sentiment-lora-b", "--heads", "drop"]
    for text, out in (
        ('tilt(a, b, t=0.25, towards="b") - 0.5*b', "tilted"),
        ("0.75*a - 0.25*b", "sum"),
    ):
        done = run("compose", text, *pair, "--out", out)
        assert done.returncode == 0, done.stderr
    adapters = {name: str(tmp_path / name) for name in ("tilted", "sum")}
    tilted, total = (dict(pemath.evaluate("x", operands={"x": path})) for path in adapters.values())
    assert tilted.keys() == total.keys()
    for site, value in tilted.items():
        np.testing.assert_allclose(value.delta_weight(), total[site].delta_weight(), atol=1e-6)
    assert run("verify", "tilted").returncode == 0

    refused = run("compose", "tilt(a, b, t=[1])", *pair, "--out", "none")
    assert refused.returncode == 2
    assert "option `t` of `tilt` has a wrong value" in refused.stderr


def test_an_entry_point_may_name_the_function_or_a_method(install: Installed, run: Run) -> None:
    made = "from pemath.methods import Method, named_method\nfrom dataclasses import replace\n"
    made += "LEAN = replace(named_method('exact'), name='lean')\n"
    entries = "[pemath.methods]\ntilt = pemath_tilt:tilt\nlean = lean_module:LEAN\n"
    install("pemath-tilt", entries, pemath_tilt=TILT, lean_module=made)
    found, said = listed(run)
    assert found["tilt"]["origin"] == found["lean"]["origin"] == "pemath-tilt 0.1"
    assert said == ""


BROKEN = {
    "import no_such_module": "ModuleNotFoundError: No module named",
    "1 / 0": "ZeroDivisionError: division by zero",
    "import sys; sys.exit(3)": "SystemExit: 3",
    "def f(:": "SyntaxError: ",
    TILT.replace("tilt(", "exact("): "ValueError: method exact is registered twice",
    TILT + TILT.replace("tilt(", "paper("): "ValueError: method paper is registered twice",
    TILT + "\nraise RuntimeError('too late')": "RuntimeError: too late",
}


def test_broken_plug_ins_are_left_out_by_name(install: Installed, run: Run) -> None:
    for number, source in enumerate(BROKEN):
        entry = f"[pemath.methods]\nbad{number} = module{number}\n"
        install(f"pemath-bad{number}", entry, **{f"module{number}": source})
    good = TILT.replace("tilt(", "later(")
    install("pemath-good", "[pemath.methods]\nlater = good_module\n", good_module=good)
    found, said = listed(run)
    assert found.keys() == methods().keys() | {"later"}
    assert all(found[name]["origin"] is None for name in methods())
    for number, reason in enumerate(BROKEN.values()):
        wanted = f"plug-in `bad{number}` of pemath-bad{number} 0.1 is left out (module{number}): {reason}"
        assert wanted in said


def test_two_packages_with_one_name(install: Installed, run: Run) -> None:
    install("pemath-one", "[pemath.methods]\ntilt = one\n", one=TILT)
    install("pemath-two", "[pemath.methods]\ntilt = two\n", two=TILT)
    found, said = listed(run)
    assert found["tilt"]["origin"] == "pemath-one 0.1"
    assert "plug-in `tilt` of pemath-two 0.1 is left out (two): ValueError" in said


def test_what_nobody_asks_for_is_not_imported(install: Installed, run: Run) -> None:
    install(
        "pemath-loud",
        "[pemath.methods]\nloud = loud\n[pemath.kinds]\nloud = loud\n[pemath.scorers]\nloud = loud\n",
        loud="print('imported')",
    )
    assert "imported" not in run("--help").stdout
    done = run("inspect", "example:sentiment-lora-a")
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stdout
    pair = ["a=example:sentiment-lora-a", "b=example:sentiment-lora-b"]
    assert "imported" not in run("compose", "paper(a, b)", *pair, "--dry-run").stdout
    unknown = run("compose", "louder(a, b)", *pair, "--dry-run")
    assert unknown.returncode == 2
    assert "there is no method `louder`" in unknown.stderr
    assert "imported" in unknown.stdout


def test_a_kind_of_another_package_is_composed(
    install: Installed, run: Run, tmp_path: Path
) -> None:
    source = Path(bias_kind.__file__).read_text(encoding="utf-8")
    source += "\n\nKIND = kind_of(Bias, BiasFolders())\n"
    install("pemath-bias", "[pemath.kinds]\nbias = bias_plugin:KIND\n", bias_plugin=source)
    install("pemath-none", "[pemath.kinds]\nnone = none_plugin\n", none_plugin="1 / 0")
    for name, numbers in (("a", [1.0, 2.0]), ("b", [0.5, -1.0])):
        (tmp_path / name).mkdir()
        tensors = {"base_model.model.layer.delta_bias": np.array(numbers, "f4")}
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "BIAS"}')
    listed = run("kinds", "--json")
    assert "bias" in [kind["name"] for kind in json.loads(listed.stdout)["kinds"]]
    assert "plug-in `none` of pemath-none 0.1 is left out" in listed.stderr
    assert "Traceback" not in listed.stderr
    done = run("compose", "a + 2*b", "a=a", "b=b", "--out", "sum")
    assert done.returncode == 0, done.stderr
    (found,) = load_file(tmp_path / "sum" / "adapter_model.safetensors").values()
    np.testing.assert_array_equal(found, [2.0, 0.0])


def test_a_method_may_be_defined_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    methods()
    monkeypatch.setattr(_registry, "_METHODS", dict(_registry._METHODS))

    @method(space="factor", source="here")
    def late(stack: Stack) -> Any:
        """The first operand."""
        return stack.values[0]

    assert methods()["late"].function is named_method("late").function is late
    with pytest.raises(ValueError, match="method late is registered twice"):
        method(space="factor", source="here")(late)


def test_pemath_has_its_names_whoever_comes_first(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(TILT.replace("tilt(", "paper("), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import early"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "ValueError: method paper is registered twice" in done.stderr


def test_a_name_that_nobody_has() -> None:
    assert plugins.names("pemath.nothing") == ()
    assert plugins.named("pemath.nothing", "any") is None
    assert plugins.load("pemath.nothing", {}, str) == {}
