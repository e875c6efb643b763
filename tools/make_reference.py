"""Write docs/reference/ from the command line, the registries and the exception tree.

python tools/make_reference.py            writes the pages
python tools/make_reference.py --check    says which of them are not current, and fails
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App

from pemath import errors
from pemath.cli import app
from pemath.kinds import kinds
from pemath.kinds._lora_reading import _REFUSED_FIELDS, _REFUSED_INITIALISATIONS
from pemath.methods import Method, methods

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTE = "*Made by `tools/make_reference.py` from pemath itself; a test keeps it current.*"
SPACES = {
    "factor": "the factors",
    "delta": "dense deltas",
    "core": "the joint low-rank basis",
}
NEEDS = {"gram": "the Gram matrices", "fisher": "the Fisher information"}
EXIT_CODES = {
    0: "done",
    1: "a bug in pemath",
    2: "the request is wrong: an option, the expression, something that is not installed",
    3: "a file is refused",
    4: "the operands do not go together",
    5: "reading or writing failed",
    130: "interrupted; nothing was written",
}


def pages() -> dict[str, str]:
    """The text of each page, by file name."""
    return {
        "commands.md": page("Commands", commands()),
        "methods.md": page("Methods", method_entries()),
        "kinds.md": page("Kinds", kind_entries()),
        "errors.md": page("Errors", error_entries()),
    }


def page(title: str, blocks: Iterable[str]) -> str:
    """A page: title, note and blocks, an empty line between any two."""
    return "\n\n".join([f"# {title}", NOTE, *blocks]) + "\n"


# ------------------------------------------------------------------------------------- commands


def verbs(group: App = app, before: str = "") -> Iterator[tuple[str, App]]:
    """The verbs with their apps, in the order of their registration; those of a group by both
    names.
    """
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        if command.default_command is None:
            yield from verbs(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def commands() -> Iterator[str]:
    """Every verb with its parameters, and the exit codes."""
    yield (
        "Every verb takes `--help`; `pemath --version` prints the version and "
        "`pemath --install-completion` installs completion for bash, zsh, fish or PowerShell."
    )
    for verb, command in verbs():
        function = command.default_command
        yield f"## pemath {verb}"
        yield from paragraphs(function.__doc__)
        yield f"```text\n{example(command.help, function.__doc__)}\n```"
        rows = [
            (
                ", ".join(f"`{name}`" for name in shown_names(argument)),
                value_of(argument),
                line(argument.parameter.help),
            )
            for argument in command.assemble_argument_collection(parse_docstring=True)
        ]
        yield table(("parameter", "value", "meaning"), rows)
    yield "## Exit codes"
    yield table(
        ("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in EXIT_CODES.items()]
    )
    yield "The classes behind them are in [errors](errors.md)."


def example(*helps: str | None) -> str:
    """The first example in these texts."""
    found = [re.search(r"^\s*Example: (.+)$", text or "", re.MULTILINE) for text in helps]
    return next(match[1] for match in found if match)


def shown_names(argument: Any) -> list[str]:
    """How a parameter is written: its name in capitals by position, its flags by name."""
    if argument.index is None:
        return list(argument.names)
    return [argument.field_info.name.upper()]


def value_of(argument: Any) -> str:
    """What a parameter takes, in a table's cell."""
    choices = argument.get_choices()
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    hint = argument.hint
    named = {bool: "", int: "whole number", float: "number", Path: "path"}
    shown = next((named[kind] for kind in kinds_in(hint) if kind in named), "text")
    several = typing.get_origin(hint) is tuple
    return (
        f"{shown}, any number" if several else shown + (" (required)" if argument.required else "")
    )


def kinds_in(hint: Any) -> list[Any]:
    """The classes of a type hint, without None."""
    parts = typing.get_args(hint) or (hint,)
    return [part for part in parts if part is not type(None)]


# -------------------------------------------------------------------------------------- methods


def method_entries() -> Iterator[str]:
    """Every method with its options."""
    yield (
        "Call a method inside an expression, `paper(a, b, weights=[0.5, 0.5])`, or let it compute "
        'a whole expression: `--arithmetic "paper(normalize=true)"`. `weights` is an option of all '
        "methods: one number per operand. "
        "[The algebra](../algebra.md) has the formulas."
    )
    for method in methods().values():
        yield f"## {method.name}"
        yield f"```text\n{method.signature()}\n```"
        yield from paragraphs(method.function.__doc__)
        yield table(("option", "value", "default"), list(option_rows(method)))
        yield f"Works on {SPACES[method.space]}. Source: {line(method.source)}."
        if method.needs:
            yield (
                f"Needs {NEEDS[method.needs]} of every operand, measured by "
                "[`pemath lab statistics`](commands.md#pemath-lab-statistics): statistics.safetensors "
                "in the operand's folder, or `--statistics NAME=FILE`."
            )


def option_rows(method: Method) -> Iterator[tuple[str, str, str]]:
    """The options of a method, `weights` first."""
    usual = {
        "ones": "ones",
        "shares": "equal, with the sum 1",
        "first": "1 for the first operand, 0 for the others",
    }
    yield "`weights`", "list of numbers", usual[method.weights]
    words = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    for name, parameter in method.options.items():
        shown = " or ".join(words[kind] for kind in kinds_in(parameter.annotation))
        default = parameter.default
        yield f"`{name}`", shown, "none" if default is None else f"`{str(default).lower()}`"


# ---------------------------------------------------------------------------------------- kinds


def kind_entries() -> Iterator[str]:
    """Every kind, and what is refused by name."""
    for kind in kinds().values():
        yield f"## {kind.name}"
        yield sentence(kind.summary)
        yield from list(paragraphs(sys.modules[kind.value.__module__].__doc__))[1:]
        if kind.folders is not None:
            types = ", ".join(f"`{name}`" for name in kind.folders.peft_types)
            yield f"PEFT type: {types}. {line(kind.folders.__doc__)}"
        yield f"`delta_weight()`: {line(kind.value.delta_weight.__doc__)}"  # type: ignore[attr-defined]
    yield "## Refused by name"
    yield "Any other `peft_type` is refused, and so is a LoRA whose config sets one of these:"
    rows = [(f"`{name}`", line(reason)) for name, reason in _REFUSED_FIELDS.items()]
    starts = ", ".join(f"`{name}`" for name in _REFUSED_INITIALISATIONS)
    rows.append(
        (
            f"`init_lora_weights`: {starts}",
            "a part of the base weights was moved into the adapter, so these files alone do not say "
            "what the adapter adds to the original base",
        )
    )
    yield table(("field", "why"), rows)
    yield (
        "`pemath inspect` still shows such an adapter, with the reason. Weights stored as a pickle "
        "(`adapter_model.bin`) are never opened."
    )


# --------------------------------------------------------------------------------------- errors


def error_classes() -> list[type[errors.PemathError]]:
    """Every class of the tree, in the order of its definition."""
    found = [c for c in vars(errors).values() if inspect.isclass(c)]
    return [c for c in found if issubclass(c, errors.PemathError)]


def error_entries() -> Iterator[str]:
    """Every exception with its code and exit code."""
    yield (
        "All exceptions are in `pemath.errors`, and `pemath.PemathError` catches every one. `code` is "
        "stable: it is what `--json` prints as `error`, beside `what`, `where`, `found`, `expected` "
        "and `hint`. The exit code is that of the command line."
    )
    rows = [
        (
            f"`{known.__name__}`",
            f"`{known.code}`",
            str(known.exit_code),
            f"`{known.__bases__[0].__name__}`",
            line((known.__doc__ or "").split("\n\n")[0]),
        )
        for known in error_classes()
    ]
    yield table(("class", "code", "exit", "is a", "meaning"), rows)


# ------------------------------------------------------------------------------------ Markdown


def paragraphs(docstring: str | None) -> Iterator[str]:
    """The prose of a docstring, a string per paragraph: no example, parameters or exceptions."""
    prose = re.split(r"^Parameters\n-+$", inspect.cleandoc(docstring or ""), flags=re.MULTILINE)[0]
    for paragraph in prose.split("\n\n"):
        text = re.sub(r"(^|\n)Raises:.*", "", paragraph, flags=re.DOTALL)
        if text.strip() and not text.startswith("Example:"):
            yield line(text)


def sentence(text: str) -> str:
    """A line that begins with a capital and ends with a full stop."""
    shown = line(text)
    return shown[0].upper() + shown[1:].rstrip(".") + "."


def line(text: str | None) -> str:
    """Text on one line, in which nothing but `code` acts as markup."""
    joined = " ".join((text or "").split())
    parts = re.split(r"(`[^`]*`)", joined)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*<\[])", r"\\\1", part) for part in parts
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, with every bar inside a cell escaped."""
    shown = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    shown.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


def main() -> None:
    """Write the pages, or with --check compare them with the files."""
    stale = []
    for name, text in pages().items():
        file = REFERENCE / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv[1:]:
                REFERENCE.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
                print(f"written: docs/reference/{name}")
    if stale and "--check" in sys.argv[1:]:
        raise SystemExit(f"not current: {', '.join(stale)}; run python tools/make_reference.py")


if __name__ == "__main__":
    main()
