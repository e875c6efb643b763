"""Write docs/reference/ from the command line, the registries and the exception tree.

python tools/make_reference.py            writes the pages
python tools/make_reference.py --check    says which of them are not current, and fails

What plug-ins bring is left out: it is not the same on every machine.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App

import pemath
from pemath import errors
from pemath.cli import app
from pemath.errors import PemathError
from pemath.kinds import Compiled, Kind, compiled_kinds, kinds
from pemath.kinds._lora_reading import _REFUSED_FIELDS, _REFUSED_INITIALISATIONS
from pemath.kinds._refused import REFUSED
from pemath.lab.fitting._registry import FittingMethod, fitting_methods
from pemath.methods import Method, methods
from pemath.testing import kind_conformance, method_conformance
from pemath.testing._method_trials import kinds_taken

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTE = "*Made by `tools/make_reference.py` from pemath itself; a test keeps it current.*"
SPACES = {
    "factor": "the factors",
    "core": "the joint low-rank basis",
    "delta": "dense deltas",
}
WEIGHTS = {
    "ones": "ones",
    "shares": "equal, with the sum 1",
    "first": "1 for the first operand, 0 for the others",
}
EXAMPLES = {
    kind: {name: f"example:sentiment-{kind}-{name}" for name in "ab"} for kind in ("lora", "ia3")
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
    """The text of each page, by its path below docs/reference/."""
    known = [method for method in methods().values() if method.origin is None]
    taken = {method.name: kinds_taken(method) for method in known}
    return {
        "commands.md": page("Commands", commands()),
        "methods.md": page("Methods", method_index(known, taken)),
        **{f"methods/{m.name}.md": page(m.name, method_entry(m, taken[m.name])) for m in known},
        **{f"fitting/{f.name}.md": page(f.name, fit_entry(f)) for f in fitting_methods().values()},
        "kinds.md": page("Kinds", kind_index()),
        **{f"kinds/{k.name}.md": page(k.name, kind_entry(k, taken)) for k in own_kinds()},
        **{f"kinds/{k.name}.md": page(k.name, compiled_entry(k)) for k in own_compiled()},
        "checks.md": page("Conformance checks", check_entries()),
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


Taken = dict[str, PemathError | None]
"""What becomes of each kind in a method: None where it is taken."""


def method_index(known: Sequence[Method], taken: dict[str, Taken]) -> Iterator[str]:
    """All methods in one table, grouped by where they work."""
    yield (
        "Call a method inside an expression, `paper(a, b, weights=[0.5, 0.5])`, or let it compute "
        'a whole expression: `--arithmetic "paper(normalize=true)"`. Operands may be expressions, '
        "with methods in them. `weights` is an option of all methods: one number per operand. "
        "[Merge methods](../merging.md) says what they are for and where other tools differ, "
        "[plug-ins](../plugins.md) how to add one."
    )
    yield (
        "A method works on "
        + ", ".join(f"{words} (*{space}*)" for space, words in SPACES.items())
        + ". On factors and in the joint basis nothing has the size out × in; dense deltas go by "
        "blocks of rows."
    )
    order = list(SPACES)
    rows = [
        (
            method.space,
            f"[{method.name}](methods/{method.name}.md)",
            line(method.summary),
            ", ".join(kind for kind, refused in taken[method.name].items() if refused is None),
            method.needs or "",
        )
        for method in sorted(known, key=lambda m: (order.index(m.space), m.name))
    ]
    yield table(("space", "method", "what it computes", "kinds", "needs"), rows)
    yield (
        "These learn the weights of a sum from data, and write that sum: `pemath fit` "
        "([how](../your-data.md#learn-weights))."
    )
    fitted = [
        (f"[{f.name}](fitting/{f.name}.md)", line(f.summary)) for f in fitting_methods().values()
    ]
    yield table(("method", "what it does"), fitted)


def method_entry(method: Method, taken: Taken) -> Iterator[str]:
    """One method: what it computes, its options, what it takes, and a call."""
    yield f"```text\n{method.signature()}\n```"
    yield from paragraphs(method.function.__doc__)
    yield table(("option", "value", "default"), list(option_rows(method)))
    shown = ", ".join(f"[{k}](../kinds/{k}.md)" for k, refused in taken.items() if refused is None)
    yield f"Works on {SPACES[method.space]}. Takes {shown}. Source: {line(method.source)}."
    refusals: dict[str, list[str]] = {}
    for kind, refused in taken.items():
        if refused is not None:
            refusals.setdefault(line(refused.what), []).append(kind)
    for why, refused_kinds in refusals.items():
        yield f"Refuses {' and '.join(refused_kinds)}: {why}."
    if method.needs:
        yield (
            f"Needs {NEEDS.get(method.needs, method.needs)} of every operand, measured by [`pemath lab "
            "statistics`](../commands.md#pemath-lab-statistics): statistics.safetensors in the "
            "operand's folder, or `--statistics NAME=FILE`."
        )
    yield f"```{'text' if method.needs else 'console'}\n{method_example(method, taken)}\n```"


def fit_entry(method: FittingMethod) -> Iterator[str]:
    """One method of learning weights."""
    yield from paragraphs(method.function.__doc__)
    rows = [(f"`--{n.replace('_', '-')}`", f"`{v}`") for n, v in method.options.items()]
    yield table(("option", "default"), rows)
    rows_needed = "labelled rows" if method.labelled else "rows, labels are not looked at"
    per = " or ".join(f"`{name}`" for name in method.per)
    yield (
        f"Makes small: {line(method.loss)}, on {rows_needed}. One weight for each operand and, by "
        f"`--per`, {per}. Source: {line(method.source)}."
    )
    yield f"```text\n$ pemath fit {method.name} a=./a b=./b --data rows.csv --out merged\n```"


def option_rows(method: Method) -> Iterator[tuple[str, str, str]]:
    """The options of a method, `weights` first."""
    yield "`weights`", "list of numbers", WEIGHTS[method.weights]
    words = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    for name, parameter in method.options.items():
        shown = " or ".join(words[kind] for kind in kinds_in(parameter.annotation))
        default = parameter.default
        yield f"`{name}`", shown, "none" if default is None else f"`{json.dumps(default)}`"


def method_example(method: Method, taken: Taken) -> str:
    """A command with a call of the method: its first two options with a default, and weights where
    it does not take the usual ones.
    """
    given = {n: p.default for n, p in method.options.items() if p.default is not None}
    options = dict(list(given.items())[:2])
    if method.needs:
        return f"$ pemath compose '{method.call('a', 'b', **options)}' a=./a b=./b --out merged"
    pair = next(EXAMPLES[kind] for kind in EXAMPLES if taken.get(kind, method) is None)
    for weights in ({}, {"weights": [1.3, -0.3]}):
        text = method.call("a", "b", **weights, **options)
        try:
            next(iter(pemath.evaluate(text, operands=pair)))
        except PemathError:
            continue
        bound = " ".join(f"{name}={reference}" for name, reference in pair.items())
        return f"$ pemath compose '{text}' {bound} \\\n    --heads drop --out merged"
    raise ValueError(f"no example of `{method.name}` works")


# ---------------------------------------------------------------------------------------- kinds


def own_kinds() -> list[Kind]:
    """The kinds of pemath itself."""
    return [kind for kind in kinds().values() if kind.value.__module__.startswith("pemath.")]


def own_compiled() -> list[Compiled]:
    """The kinds of pemath itself that are read as another one."""
    return [k for k in compiled_kinds().values() if k.open.__module__.startswith("pemath.")]


def kind_index() -> Iterator[str]:
    """Every kind, what is read as another one, and what is refused by name."""
    yield "What pemath does with each `peft_type`: composes it, reads it as another kind, or refuses it."
    yield "## Composed"
    yield "Values of these kinds are added, scaled and merged, and written as folders of their kind."
    rows = [
        (
            f"[{kind.name}](kinds/{kind.name}.md)",
            ", ".join(f"`{name}`" for name in kind.folders.peft_types) if kind.folders else "",
            sentence(kind.summary),
        )
        for kind in own_kinds()
    ]
    yield table(("kind", "peft_type", "what it is"), rows)
    if own_compiled():
        yield "## Read as another kind"
        yield (
            "The delta weight of these follows from their files. They compose with that kind, and the "
            "result is one of it."
        )
        rows = [
            (
                f"[{kind.name}](kinds/{kind.name}.md)",
                ", ".join(f"`{name}`" for name in kind.peft_types),
                f"[{kind.into}](kinds/{kind.into}.md)",
                sentence(kind.summary),
            )
            for kind in own_compiled()
        ]
        yield table(("kind", "peft_type", "read as", "what it is"), rows)
    yield "## Refused by name"
    yield "Any `peft_type` that is not above is refused; of these it is known why."
    yield table(
        ("peft_type", "why", "what to do"),
        [(f"`{t}`", line(why), line(hint)) for t, (why, hint) in REFUSED.items()],
    )
    yield "A LoRA is refused whose config sets one of these:"
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


def kind_entry(kind: Kind, taken: dict[str, Taken]) -> Iterator[str]:
    """One kind: what it is, how it lies in a folder, and which methods take it."""
    yield sentence(kind.summary)
    yield from list(paragraphs(sys.modules[kind.value.__module__].__doc__))[1:]
    if kind.folders is not None:
        types = ", ".join(f"`{name}`" for name in kind.folders.peft_types)
        yield (f"PEFT type: {types}. " if types else "") + line(kind.folders.__doc__)
    yield f"`delta_weight()`: {line(kind.value.delta_weight.__doc__)}"  # type: ignore[attr-defined]
    names = [name for name, by_kind in taken.items() if by_kind.get(kind.name, kind) is None]
    if names:
        yield f"Methods: {', '.join(f'[{name}](../methods/{name}.md)' for name in names)}."


def compiled_entry(kind: Compiled) -> Iterator[str]:
    """One kind that is read as another."""
    yield sentence(kind.summary)
    yield from list(paragraphs(sys.modules[kind.open.__module__].__doc__))[1:]
    types = ", ".join(f"`{name}`" for name in kind.peft_types)
    read = (kind.open.__doc__ or "").partition("Raises")[0]
    yield f"PEFT type: {types}. Read as [{kind.into}]({kind.into}.md). {line(read)}"


# --------------------------------------------------------------------------------------- checks


def check_entries() -> Iterator[str]:
    """What `check_method` and `check_kind` expect, check by check."""
    yield (
        "`pemath.testing.check_method` and `check_kind` run all of these, and report what fails by "
        "these names ([how to use them](../plugins.md))."
    )
    for module, subject in ((method_conformance, "method"), (kind_conformance, "kind")):
        yield f"## Of a {subject}"
        rows = [
            (f"`{check.__name__}`", line((check.__doc__ or "").split("\n")[0]))
            for check in module.CHECKS
        ]
        yield table(("check", "what it expects"), rows)


# --------------------------------------------------------------------------------------- errors


def error_classes() -> list[type[PemathError]]:
    """Every class of the tree, in the order of its definition."""
    found = [c for c in vars(errors).values() if inspect.isclass(c)]
    return [c for c in found if issubclass(c, PemathError)]


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
    made = pages()
    found = {str(path.relative_to(REFERENCE)): path for path in REFERENCE.rglob("*.md")}
    stale = [
        name
        for name, text in made.items()
        if name not in found or found[name].read_text(encoding="utf-8") != text
    ]
    gone = [name for name in found if name not in made]
    if "--check" in sys.argv[1:]:
        if stale or gone:
            listing = ", ".join([*stale, *gone])
            raise SystemExit(f"not current: {listing}; run python tools/make_reference.py")
        return
    for name in stale:
        (REFERENCE / name).parent.mkdir(parents=True, exist_ok=True)
        (REFERENCE / name).write_text(made[name], encoding="utf-8")
        print(f"written: docs/reference/{name}")
    for name in gone:
        found[name].unlink()
        print(f"removed: docs/reference/{name}")


if __name__ == "__main__":
    main()
