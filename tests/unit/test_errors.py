"""The tree of exceptions: drawn truly, with stable codes, all of them in use."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pemath
from pemath import errors
from pemath.errors import ExpressionError, PemathError

SOURCE = Path(pemath.__file__).parent
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, PemathError)
]
# Exit codes by the branch of the tree.
EXIT_CODES = {"UsageError": 2, "InputError": 3, "OperandError": 4, "StorageError": 5}
# Only their subclasses are raised.
ABSTRACT = {"PemathError", "InputError", "FileFormatError"}


def drawn() -> dict[str, tuple[str, int | None]]:
    """Parent and exit code of each class, as the module's docstring draws them."""
    lines = (errors.__doc__ or "").split("\n\n")[1].splitlines()
    found: dict[str, tuple[str, int | None]] = {lines[0].strip(): ("", None)}
    parents = {0: lines[0].strip()}
    for line in lines[1:]:
        match = re.match(r"^([│ ]*)[├└]── (.*)", line)
        text = match[2] if match else line.strip("│ ")
        if match:
            depth = len(match[1]) // 4 + 1
            heads = re.match(r"\w+(?:, \w+)*", text)
            assert heads is not None, line
            code = re.search(r"exit (\d+)", text)
            for name in heads[0].split(", "):
                found[name] = (parents[depth - 1], int(code[1]) if code else None)
                parents[depth] = name
        # Classes that stand in parentheses, which may go on in the next lines.
        for name in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", text):
            if name not in found and hasattr(errors, name):
                found[name] = (parents[max(parents, key=lambda d: (d <= depth, d))], None)
    return found


def raised() -> set[str]:
    """Names of the classes that the package makes instances of."""

    def calls(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = node.func
                if isinstance(function, ast.Name):
                    yield function.id
                elif isinstance(function, ast.Attribute):
                    yield function.attr

    files = [path for path in SOURCE.rglob("*.py") if path.name != "errors.py"]
    return {name for path in files for name in calls(ast.parse(path.read_text(encoding="utf-8")))}


def by_name(error: type[PemathError]) -> str:
    return error.__name__


def test_all_classes_are_found() -> None:
    assert len(CLASSES) > 25
    assert PemathError in CLASSES


def test_the_drawing_is_the_tree() -> None:
    tree = {c.__name__: c.__bases__[0].__name__ if c is not PemathError else "" for c in CLASSES}
    assert {name: parent for name, (parent, _) in drawn().items()} == tree


def test_the_drawing_tells_the_exit_codes() -> None:
    told = {name: code for name, (_, code) in drawn().items() if code is not None}
    assert told == {name: getattr(errors, name).exit_code for name in told}
    assert set(EXIT_CODES) <= set(told)


def test_codes_are_unique() -> None:
    codes = [c.code for c in CLASSES]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("error", CLASSES, ids=by_name)
def test_code(error: type[PemathError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)
    assert "code" in vars(error), "inherited codes are not stable"


@pytest.mark.parametrize("error", CLASSES, ids=by_name)
def test_exit_code(error: type[PemathError]) -> None:
    branch = [EXIT_CODES[c.__name__] for c in error.__mro__ if c.__name__ in EXIT_CODES]
    assert [error.exit_code] == (branch or [1])


@pytest.mark.parametrize("error", CLASSES, ids=by_name)
def test_docstring(error: type[PemathError]) -> None:
    assert error.__doc__
    assert error.__doc__.strip().endswith(".") or "\n" in error.__doc__


@pytest.mark.parametrize("error", [c for c in CLASSES if c.__name__ not in ABSTRACT], ids=by_name)
def test_in_use(error: type[PemathError]) -> None:
    assert error.__name__ in raised(), "no code raises it"


@pytest.mark.parametrize("name", sorted(ABSTRACT))
def test_branches_are_not_raised(name: str) -> None:
    assert name not in raised(), "a more precise class says more"


ORDINARY = [c for c in CLASSES if "__init__" not in vars(c) or c is PemathError]


@pytest.mark.parametrize("error", ORDINARY, ids=by_name)
def test_message_and_dictionary(error: type[PemathError]) -> None:
    """What, where, found and expected, what to do; each of them may be absent."""
    full = error("`x` is bad", where="file, tensor `t`", found=3, expected=[1, 2], hint="do this.")
    assert str(full) == (
        "`x` is bad.\nWhere: file, tensor `t`.\nFound 3, expected [1, 2].\nWhat to do: do this."
    ) or str(full).startswith("`x` is bad.\nWhere: file, tensor `t`.\n")
    for part in ("3", "[1, 2]", "What to do: do this."):
        assert part in str(full)
    assert json.loads(json.dumps(full.as_dict())) == {
        "error": error.code,
        "what": "`x` is bad",
        "where": "file, tensor `t`",
        "found": "3",
        "expected": "[1, 2]",
        "hint": "do this.",
    }
    short = error("`x` is bad.")
    assert str(short) == "`x` is bad."
    assert set(short.as_dict().values()) == {error.code, "`x` is bad.", None}


def test_false_values_are_shown() -> None:
    """Zero is a finding like any other."""
    assert "0" in str(PemathError("x", found=0))
    assert "False" in str(PemathError("x", expected=False))


def test_expression_error() -> None:
    error = ExpressionError("this is bad.", text="a + $", position=4, hint="leave it out.")
    assert str(error) == "this is bad:\n    a + $\n        ^\nWhat to do: leave it out."
    assert error.as_dict() == {
        "error": "expression",
        "what": "this is bad.",
        "where": None,
        "found": None,
        "expected": None,
        "hint": "leave it out.",
        "expression": "a + $",
        "position": 4,
    }


def test_all_are_reachable_by_the_root() -> None:
    assert pemath.PemathError is PemathError
    for error in CLASSES:
        assert issubclass(error, PemathError)
        assert not issubclass(error, OSError | ValueError | TypeError)
