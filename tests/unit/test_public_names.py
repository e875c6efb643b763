"""The public names of the package, and what importing it costs."""

import subprocess
import sys
from importlib import import_module

import pytest

import pemath


@pytest.mark.parametrize("name", pemath.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(pemath, name) is not None


def test_public_names_are_sorted_unique_and_listed() -> None:
    assert sorted(set(pemath.__all__)) == sorted(pemath.__all__)
    assert dir(pemath) == sorted(pemath.__all__)


def test_every_public_name_has_a_docstring() -> None:
    for name in set(pemath.__all__) - {"__version__"}:
        assert getattr(pemath, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'composse'"):
        _ = pemath.composse  # type: ignore[attr-defined]


def test_a_public_function_stays_what_it_is_when_modules_are_imported() -> None:
    """No module takes the place of the function that bears its name."""
    for module in ("composition.run", "diagnose.compare", "diagnose.inspect", "cli.compose"):
        import_module(f"pemath.{module}")
    for name in ("compose", "compare", "inspect", "verify", "rebuild", "adapter", "call", "parse"):
        assert callable(getattr(pemath, name)), name


def imported_by(statements: str) -> set[str]:
    """Top-level names of what `statements` import, the standard library's left out."""
    code = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{statements}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


def test_importing_the_package_imports_nothing_else() -> None:
    assert imported_by("import pemath; pemath.__version__; dir(pemath)") == {"pemath"}


def test_expressions_are_built_without_numpy() -> None:
    statements = (
        "import pemath\n"
        "a, b = pemath.adapter('a'), pemath.adapter('b')\n"
        "str(0.5 * a - b / 2 + pemath.call('paper', a, b, weights=[0.5, 0.5]))\n"
        "pemath.parse('paper(a, -b)', a='x', b='y')"
    )
    assert imported_by(statements) == {"pemath"}
