"""`pemath compose --config`: the request as a YAML file."""

from pathlib import Path

import pytest

from .conftest import Cli
from .folders import config_of

REQUEST = """\
expression: 0.6*a + 0.4*b
operands:
  a: a
  b: b
rank: 3
dtype: bfloat16
profile: compact
arithmetic: exact
out: merged
"""


def test_a_file_is_the_same_request_as_the_command_line(cli: Cli, here: Path) -> None:
    (here / "request.yaml").write_text(REQUEST, encoding="utf-8")
    done = cli("compose", "--config", "request.yaml")
    assert (done.code, done.err) == (0, "")
    words = ("--rank", "3", "--dtype", "bfloat16", "--profile", "compact", "--arithmetic", "exact")
    cli("compose", "0.6*a + 0.4*b", "a=a", "b=b", "--out", "other", *words)
    for file in (here / "merged").iterdir():
        assert file.read_bytes() == (here / "other" / file.name).read_bytes(), file.name


def test_the_command_line_wins(cli: Cli, here: Path) -> None:
    (here / "request.yaml").write_text(REQUEST, encoding="utf-8")
    done = cli(
        "compose", "2*a - b", "b=c", "--config", "request.yaml", "--rank", "2", "--out", "other",
        "--dtype", "float32", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert done.json["folder"] == str(here / "other")
    assert done.json["dtype"] == "float32"
    assert config_of(here / "other")["r"] == 2
    assert not (here / "merged").exists()


def test_a_rank_on_the_command_line_replaces_the_file_s_max_error(cli: Cli, here: Path) -> None:
    text = REQUEST.replace("rank: 3", "max_error: 5%")
    (here / "request.yaml").write_text(text, encoding="utf-8")
    done = cli("compose", "--config", "request.yaml", "--rank", "2", "--profile", "portable")
    assert (done.code, done.err) == (0, "")
    assert config_of(here / "merged")["r"] == 2


@pytest.mark.parametrize("bound", ["30%", "'30 %'", "0.3", "3e-1"])
def test_max_error_in_all_spellings(cli: Cli, here: Path, bound: str) -> None:
    text = f"expression: a + b\noperands: {{a: a, b: b}}\nmax_error: {bound}\nout: merged\n"
    (here / "request.yaml").write_text(text, encoding="utf-8")
    done = cli("compose", "--config", "request.yaml", "--json")
    assert done.code == 0
    assert 0 < done.json["certificate"]["worst_error"] <= 0.3
    assert config_of(here / "merged")["r"] < 6


def test_names_are_text_as_in_yaml_1_2(cli: Cli, here: Path) -> None:
    text = "expression: no + on\noperands: {no: a, on: b}\nout: merged\n"
    (here / "request.yaml").write_text(text, encoding="utf-8")
    assert cli("compose", "--config", "request.yaml").code == 0


def test_force_in_the_file(cli: Cli, here: Path) -> None:
    (here / "request.yaml").write_text(REQUEST + "force: true\n", encoding="utf-8")
    assert cli("compose", "--config", "request.yaml").code == 0
    assert cli("compose", "--config", "request.yaml").code == 0


def test_all_mistakes_are_told_at_once(cli: Cli, here: Path) -> None:
    text = "expresion: a + b\noperands: [a, b]\nrank: many\n"
    (here / "request.yaml").write_text(text, encoding="utf-8")
    done = cli("compose", "--config", "request.yaml")
    assert done.code == 3
    for said in ("request.yaml", "`expresion`", "`operands`", "`rank`"):
        assert said in done.err


@pytest.mark.parametrize(
    "text",
    [
        "expression: [",
        "- a\n- b\n",
        "a: &x [*x]",
        "!!python/object:os.system {}",
        "\0",
        "x: 1\nx: 2\n",
    ],
)
def test_what_is_no_request_is_refused(cli: Cli, here: Path, text: str) -> None:
    (here / "request.yaml").write_text(text, encoding="utf-8")
    done = cli("compose", "--config", "request.yaml", "--json")
    assert done.code == 3
    assert done.json["error"] == "config"
    assert "request.yaml" in done.json["where"]


def test_a_file_that_is_not_there(cli: Cli) -> None:
    done = cli("compose", "--config", "request.yaml")
    assert done.code == 5
    assert "request.yaml" in done.err
