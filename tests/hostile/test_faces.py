"""What the command line prints of a stranger's files can do nothing to a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pemath.cli import main

from . import attacks
from .judge import check_printable
from .test_strangers import STRANGE, strange_sites

# A terminal knows neither Markdown nor YAML: these are the strings that could act there.
ACTING = [
    "escape",
    "direction",
    "separator",
    "zero",
    "lines",
    "html lines",
    "backslash",
    "template",
]
Said = Callable[..., int]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command; what it prints is checked, exit codes above 5 and tracebacks are bugs."""

    def run(*words: str) -> int:
        capsys.readouterr()
        code = 0
        try:
            main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert code in (0, 2, 3, 4, 5), err
        assert "Traceback" not in err
        if "--json" in words:
            json.loads(out)
        check_printable(out)
        check_printable(err)
        return code

    return run


def folders(what: str, root: Path) -> list[str]:
    """Adapters with one strange string each: base model, kind, sites and heads, fields, path."""
    name = STRANGE[what]
    path_name = name.replace("/", "_").replace("\0", "_")
    fields = {"peft_version": name, "revision": name, "init_lora_weights": name, "bias": name}
    return [
        str(attacks.lora(root / "a", base_model_name_or_path=name)),
        str(attacks.lora(root / "b", peft_type=name)),
        str(
            attacks.write(
                root / "c", {**attacks.LORA, "modules_to_save": ["head"]}, strange_sites(name)
            )
        ),
        str(attacks.write(root / "d", attacks.LORA, strange_sites(name))),
        str(attacks.lora(root / "e", **fields)),
        str(attacks.lora(root / "f" / path_name)),
        str(attacks.lora(root / "g", alpha_pattern={name: 3}, rank_pattern={name: 2})),
        str(attacks.lora(root / "h", target_parameters=[name])),
        str(attacks.ia3(root / "i", feedforward_modules=[name], base_model_name_or_path=name)),
    ]


@pytest.mark.parametrize("what", ACTING)
def test_inspect(what: str, said: Said, tmp_path: Path) -> None:
    for folder in folders(what, tmp_path):
        for flags in ((), ("--sites",), ("--json",)):
            said("inspect", folder, *flags)


@pytest.mark.parametrize("what", ACTING)
def test_compare(what: str, said: Said, tmp_path: Path) -> None:
    for folder in folders(what, tmp_path):
        for flags in ((), ("--json",)):
            said("compare", f"x={folder}", f"y={folder}", *flags)


@pytest.mark.parametrize("what", ACTING)
def test_compose(what: str, said: Said, tmp_path: Path) -> None:
    for number, folder in enumerate(folders(what, tmp_path)):
        out = str(tmp_path / f"out{number}")
        for flags in (("--dry-run",), (), ("--force", "--json")):
            said("compose", "0.5*x", f"x={folder}", "--out", out, *flags)
        if Path(out).exists():
            said("verify", out)
            said("verify", out, "--json")


@pytest.mark.parametrize("what", ACTING)
def test_words_on_the_command_line(what: str, said: Said, tmp_path: Path) -> None:
    text = STRANGE[what]
    if "\0" in text:
        pytest.skip("no command line can hold it")
    folder = str(attacks.lora(tmp_path / "a"))
    for words in (
        (text,),
        ("inspect", text),
        ("compare", text, text),
        ("verify", text),
        ("rebuild", text, "--out", text),
        ("compose", text, f"a={folder}", "--out", str(tmp_path / "x")),
        ("compose", "a", f"{text}={folder}", "--out", str(tmp_path / "x")),
        ("compose", "a", f"a={text}", "--out", str(tmp_path / "x")),
        ("compose", "a", f"a={folder}", "--out", str(tmp_path / "x"), "--arithmetic", text),
        ("compose", "a", f"a={folder}", "--out", str(tmp_path / "x"), "--heads", text),
        ("compose", "a", f"a={folder}", "--out", str(tmp_path / "x"), "--dtype", text),
        ("compose", "a", f"a={folder}", "--out", str(tmp_path / "x"), "--rank", text),
        ("compose", "--config", text),
    ):
        said(*words)
        said(*words, "--json")
