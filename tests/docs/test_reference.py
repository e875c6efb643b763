"""docs/reference/ is current, and everything that can be named is in it.

The second half looks at signatures, registries and classes by itself, not through the generator.
"""

import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import pemath
from pemath.cli import app
from pemath.errors import PemathError
from pemath.kinds import compiled_kinds, kinds
from pemath.kinds._refused import REFUSED
from pemath.methods import _registry as registry
from pemath.methods import methods

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"
GROUPS = {"lab"}  # verbs below a verb
VERBS = [
    verb
    for name in app
    if not name.startswith("-")
    for verb in (
        [f"{name} {below}" for below in app[name] if not below.startswith("-")]
        if name in GROUPS
        else [name]
    )
]
WRITTEN = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))]


def generator() -> ModuleType:
    path = REPOSITORY / "tools" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def section(page: str, title: str) -> str:
    """The part of a page under the heading `title`."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page} has no section `{title}`"
    return found[1]


def errors(root: type[PemathError] = PemathError) -> Iterator[type[PemathError]]:
    yield root
    for child in root.__subclasses__():
        yield from errors(child)


def test_the_pages_are_current() -> None:
    pages = generator().pages()
    assert pages.keys() == {str(p.relative_to(REFERENCE)) for p in REFERENCE.rglob("*.*")}
    for name, text in pages.items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == text, (
            f"docs/reference/{name} is not current: run python tools/make_reference.py"
        )


def test_what_plug_ins_bring_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(methods()["exact"], name="other", origin="some-package 1.0")
    monkeypatch.setattr(registry, "_METHODS", {**registry._METHODS, "other": other})
    assert "other" in methods()
    pages = generator().pages()
    assert "methods/other.md" not in pages
    assert "methods/exact.md" in pages
    assert "[other]" not in pages["methods.md"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_flag_is_documented(verb: str) -> None:
    *groups, name = verb.split()
    function = app[groups[0]][name].default_command if groups else app[verb].default_command
    assert function is not None
    text = section("commands.md", f"pemath {verb}")
    for name, parameter in inspect.signature(function).parameters.items():
        flag = parameter.kind is parameter.KEYWORD_ONLY
        shown = f"--{name.replace('_', '-')}" if flag else name.upper()
        row = re.search(rf"^\| `{shown}`[^|]*\|[^|]*\| (.+) \|$", text, re.MULTILINE)
        assert row is not None, shown
        assert len(row[1]) > 5, shown
    assert f"```text\npemath {verb}" in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_used_in_an_example_that_runs(verb: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in WRITTEN]
    blocks = [b for text in texts for b in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]
    assert any(re.search(rf"^\$ pemath {verb}\b", block, re.MULTILINE) for block in blocks)


METHODS = {name: method for name, method in methods().items() if method.origin is None}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_and_option_is_documented(name: str) -> None:
    found = METHODS[name]
    text = (REFERENCE / "methods" / f"{name}.md").read_text(encoding="utf-8")
    for option, parameter in found.options.items():
        row = re.search(rf"^\| `{option}` \| [^|]+ \| (.+) \|$", text, re.MULTILINE)
        assert row is not None, option
        default = parameter.default
        shown = "none" if default is None else f"`{json.dumps(default)}`"
        assert row[1] == shown, option
    assert "| `weights` |" in text
    assert found.signature() in text
    assert "Source: " in text
    assert re.search(r"Takes \[", text)
    language = "text" if found.needs else "console"
    assert f"```{language}\n$ pemath compose '{name}(a, b" in text
    index = (REFERENCE / "methods.md").read_text(encoding="utf-8")
    assert f"| {found.space} | [{name}](methods/{name}.md) |" in index


@pytest.mark.parametrize("name", kinds())
def test_every_kind_is_documented(name: str) -> None:
    folders = kinds()[name].folders
    check_kind_page(name, folders.peft_types if folders else ())


@pytest.mark.parametrize("name", compiled_kinds())
def test_every_kind_that_is_read_as_another_is_documented(name: str) -> None:
    found = compiled_kinds()[name]
    text = check_kind_page(name, found.peft_types)
    assert f"Read as [{found.into}]({found.into}.md)" in text


def check_kind_page(name: str, peft_types: tuple[str, ...]) -> str:
    text = (REFERENCE / "kinds" / f"{name}.md").read_text(encoding="utf-8")
    index = (REFERENCE / "kinds.md").read_text(encoding="utf-8")
    assert f"| [{name}](kinds/{name}.md) |" in index
    for peft_type in peft_types:
        assert f"`{peft_type}`" in text
        assert f"`{peft_type}`" in index
    return text


def test_what_is_refused_is_documented_with_the_reason() -> None:
    text = section("kinds.md", "Refused by name")
    for peft_type in REFUSED:
        assert re.search(rf"^\| `{peft_type}` \| .{{10,}} \|", text, re.MULTILINE), peft_type


def test_every_error_class_is_documented() -> None:
    for module in pkgutil.walk_packages(pemath.__path__, "pemath."):
        if not module.name.startswith(("pemath.lab", "pemath.__main__")):
            importlib.import_module(module.name)
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    for known in errors():
        row = f"| `{known.__name__}` | `{known.code}` | {known.exit_code} |"
        assert row in text, f"{known.__name__} is not in docs/reference/errors.md"


def test_every_error_code_is_given_once() -> None:
    codes = [known.code for known in errors()]
    assert len(set(codes)) == len(codes)


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            found = (path.parent / file) if file else path
            assert found.exists(), f"{path.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
                assert anchor in anchors, f"{path.name}: {target}"
