"""Help, completion, and what starting up costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pemath
from pemath.cli import app

from .conftest import Cli

VERBS = [name for name in app if not name.startswith("-")]
LAB_VERBS = [name for name in app["lab"] if not name.startswith("-")]
HEAVY = {
    "torch", "transformers", "peft", "datasets", "pydantic", "ruamel", "huggingface_hub", "numpy",
    "scipy", "safetensors", "threadpoolctl",
}  # fmt: skip


def imported(code: str) -> set[str]:
    """Top-level names that python has imported after `code`."""
    tail = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"], check=True, capture_output=True, text=True
    )
    return set(done.stderr.split())


def test_the_verbs(cli: Cli) -> None:
    expected = (
        "compose inspect compare convert verify rebuild demo kinds methods "
        "train evaluate sweep fit reproduce report lab"
    )
    assert expected.split() == VERBS
    shown = cli("--help")
    assert (shown.code, shown.err) == (0, "")
    assert all(re.search(rf"\b{verb}\b", shown.out) for verb in VERBS)
    assert cli().out == shown.out


@pytest.mark.parametrize("verb", [*VERBS, *(f"lab {verb}" for verb in LAB_VERBS)])
def test_the_help_of_every_verb_shows_an_example(cli: Cli, verb: str) -> None:
    shown = cli(*verb.split(), "--help")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(rf"Example: pemath {verb}\b", shown.out)
    assert "--json" in shown.out
    assert shown.out == cli(*verb.split(), "-h").out


def test_the_help_of_compose_begins_with_the_expression(cli: Cli) -> None:
    shown = cli("compose", "--help").out
    assert shown.index("EXPRESSION") < shown.index("OPERANDS") < shown.index("--rank")


def test_version(cli: Cli) -> None:
    assert cli("--version").out.strip() == pemath.__version__


def test_python_m_pemath() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pemath", "kinds", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert '"lora"' in done.stdout


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pemath", "compose", "a", "a=zed", "--out", "merged"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("pemath: ")


def test_help_imports_nothing_heavy() -> None:
    code = "from pemath.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass"
    assert not imported(code) & HEAVY


def test_composing_imports_no_framework(here: Path) -> None:
    code = (
        "from pemath.cli import main\n"
        "main(['compose', 'a + b', 'a=a', 'b=b', '--out', 'merged'])\n"
        "main(['inspect', 'merged'])\n"
        "main(['compare', 'a', 'b', '--json'])"
    )
    assert not imported(code) & (HEAVY - {"numpy", "threadpoolctl"})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(cli: Cli, here: Path, shell: str) -> None:
    done = cli("--install-completion", "--shell", shell, "--output", "script")
    assert done.code == 0
    script = (here / "script").read_text(encoding="utf-8")
    assert all(verb in script for verb in VERBS)
    assert "--max-error" in script or "max-error" in script


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("pemath com", {"compose", "compare"}),
        ("pemath compose --dt", {"--dtype"}),
        ("pemath compose --profile ''", {"portable", "compact"}),
    ],
)
def test_bash_completes(cli: Cli, here: Path, words: str, found: set[str]) -> None:
    cli("--install-completion", "--shell", "bash", "--output", "script")
    asked = (
        "source ./script\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "complete -p pemath >/dev/null || exit 1; _pemath; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", asked], check=True, capture_output=True, text=True, cwd=here
    )
    assert set(done.stdout.split()) == found
