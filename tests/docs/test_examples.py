"""Every example in the documentation runs, in order, one name space and one folder per document.

python    run by sybil; blocks that begin with `>>>` are compared as doctests
console   each line `$ command` is run in bash and must exit with 0; where output is shown, its
          lines must appear in that order, with white space free and `...` for anything; those of
          docs/reference, one per method, are calls of `pemath` and run in this process
bash      installs and the like, not run here: `.ci/run` runs the README's first two, word for
          word; in every other one the tests below admit only calls of make, pip and `.ci/run`
others    shown, not run
"""

import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from pemath.cli import main
from pemath.methods import _registry as registry
from pemath.methods import methods

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
RUN = {"python", "console"}
SHOWN = {"json", "text", "toml", "yaml"}
TIMEOUT = 300  # seconds for one command


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Splits a console block into commands, each with the lines of output shown under it."""
    lines = iter(block.splitlines())
    command: str | None = None
    shown: list[str] = []
    for line in lines:
        if not line.startswith("$ "):
            shown.append(line)
            continue
        if command is not None:
            yield command, shown
        command, shown = line.removeprefix("$ "), []
        while command.endswith("\\"):
            command += "\n" + next(lines)
    if command is None:
        message = "a console block must begin with `$ `"
        raise ValueError(message)
    yield command, shown


def missing(shown: list[str], output: str) -> str | None:
    """The first shown line that does not follow the ones before it in the output, or None."""
    remaining = [" ".join(line.split()) for line in output.splitlines()]
    for line in shown:
        wanted = " ".join(line.split())
        if wanted in ("", "..."):
            continue
        pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.|…", wanted))
        while remaining and not re.fullmatch(pattern, remaining[0]):
            remaining.pop(0)
        if not remaining:
            return line
        remaining.pop(0)
    return None


def run_console(example: Example) -> str | None:
    """Runs a console block; returns what went wrong, as sybil wants it."""
    run = in_this_process if REFERENCE in Path(example.path).parents else in_bash
    for command, shown in commands(example.parsed):
        status, output = run(command)
        if status != 0:
            return f"`{command}` exited with {status}:\n{output}"
        if (line := missing(shown, output)) is not None:
            return f"`{command}` did not print {line!r}:\n{output}"
    return None


def in_bash(command: str) -> tuple[int, str]:
    """The exit status and the output of a command."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONIOENCODING": "utf-8",
        "TERM": "dumb",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        check=False,
        encoding="utf-8",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout


def in_this_process(command: str) -> tuple[int, str]:
    """The same for a call of `pemath`, without starting it anew."""
    program, *words = shlex.split(command.replace("\\\n", " "))
    assert program == "pemath"
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            main(words)
        except SystemExit as end:
            return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()


PARSERS = (
    PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE),
    CodeBlockParser("console", run_console),
)


def named(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


def fences(document: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    text = document.read_text(encoding="utf-8")
    return re.findall(r"^ *```([^\n`]*)\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document.parse(str(path), *PARSERS)
    monkeypatch.chdir(tmp_path)
    methods()  # a method that an example defines is gone with it
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_block_says_whether_it_runs(path: Path) -> None:
    for language, _ in fences(path):
        assert language in RUN | SHOWN | {"bash"}, f"unknown or missing language: {language!r}"


def test_readme_opens_with_the_two_commands_that_ci_runs() -> None:
    (first, install), (second, test) = fences(REPOSITORY / "README.md")[:2]
    assert first == second == "bash"
    assert "pip install ." in install
    assert "pemath demo" in install
    assert re.search(r"make .*\btest\b", test)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_other_bash_blocks_only_install_or_call_make(path: Path) -> None:
    blocks = [source for language, source in fences(path) if language == "bash"]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    for line in "".join(blocks[2:] if path.name == "README.md" else blocks).splitlines():
        words = shlex.split(line, comments=True)
        match words:
            case [] | ["pip", "install", *_] | ["bash", ".ci/run"]:
                pass
            case ["make", *arguments]:
                assert {word for word in arguments if "=" not in word} <= targets, line
            case _:
                pytest.fail(f"an example that nothing runs: {line!r}")


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (["rank 16"], True),
        (["  rank   16  "], True),
        (["sites 12", "rank 16"], True),
        (["sites 12", "...", "total error 0.25 %"], True),
        (["total error ... %"], True),
        (["", "..."], True),
        (["rank 8"], False),
        (["rank 1"], False),
        (["rank 16", "sites 12"], False),
        (["rank 16", "rank 16"], False),
    ],
)
def test_shown_output_is_compared_loosely_but_in_order(shown: list[str], found: bool) -> None:
    output = "sites   12\nrank 16\n\ntotal error 0.25 %\n"
    assert (missing(shown, output) is None) is found


def test_commands_are_split_with_their_continuations() -> None:
    block = "$ one \\\n    --two\nseen\n$ three\n"
    assert list(commands(block)) == [("one \\\n    --two", ["seen"]), ("three", [])]


def test_a_console_block_without_a_command_is_an_error() -> None:
    with pytest.raises(ValueError, match="must begin with"):
        list(commands("output only\n"))
