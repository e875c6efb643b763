"""Strings of a stranger in what pemath writes and says: shown, never acting."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from ruamel.yaml import YAML

import pemath
from pemath.errors import PemathError

from . import attacks
from .attacks import PREFIX
from .judge import check_message, leftovers, outcome

STRANGE = {
    "link": "[click](https://example.org/x)",
    "script link": "[click](javascript:alert(1))",
    "image": "![x](https://example.org/x.png)",
    "reference link": "[x][y]",
    "automatic link": "<https://example.org>",
    "script": "<script>alert(1)</script>",
    "image tag": "<img src=x onerror=alert(1)>",
    "comment": "<!-- hidden",
    "comment in code": "`<!-- hidden",
    "iframe behind code": "`` ` <iframe src=x>",
    "entity": "&lt;b&gt;&#60;b&#62;",
    "code": "`code` ```",
    "open code": "`",
    "emphasis": "**bold** __bold__ *i* _i_ ~~s~~",
    "table": "| a | b |",
    "escaped table": "\\| a \\| b",
    "heading": "# heading",
    "rule": "---",
    "front matter": "x\n---\nlicense: mit\n---\n",
    "lines": "x\n\n# heading\n\n<b>x</b>\n",
    "html lines": "x\r\n<b>y</b>\r\n",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "direction": "\u202egnp.exe",
    "zero": "a\0b",
    "separator": "a\u2028b\u2029c\x85d",
    "backslash": "\\",
    "backslashes": "\\\\`\\[x](y)",
    "yaml comment": "x # comment",
    "yaml map": "x: {license: mit}",
    "yaml anchor": "&a *a",
    "yaml tag": "!!python/name:os.system",
    "yaml quote": "'\"",
    "template": "{{ 7*7 }} ${x} %s {0}",
    "shell": "$(true); `true` && true",
}
# These match what a hub allows, and mean something else in YAML.
YAML_WORDS = [
    *(
        "null",
        "Null",
        "true",
        "True",
        "yes",
        "no",
        "on",
        "1",
        "1.0",
        "1e3",
        "0x1F",
        "0o17",
        "1_000",
    ),
    *(
        "-",
        "--",
        "---",
        "...",
        ".",
        ".5",
        "-1",
        ".inf",
        ".nan",
        "2024-01-01",
        "a/1",
        "_",
        "-x",
        "1/2",
    ),
]
ALLOWED = {"base_model", "base_model_relation", "library_name", "tags", "license", "pipeline_tag"}


def card(out: Path) -> tuple[dict[str, Any], list[Token]]:
    """The front matter and the Markdown of a card, as a hub reads them."""
    text = (out / "README.md").read_text("utf-8")
    assert "\r" not in text
    match = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, flags=re.DOTALL)
    assert match is not None, "no front matter"
    front = YAML(typ="safe", pure=True).load(io.StringIO(match[1]))
    assert isinstance(front, dict)
    return front, MarkdownIt("commonmark", {"html": True}).enable("table").parse(match[2])


def flat(tokens: list[Token]) -> list[Token]:
    return [inner for token in tokens for inner in (token, *(token.children or []))]


def check_card(out: Path, operands: int = 1) -> dict[str, Any]:
    """Nothing in it acts: the structure is the one that pemath writes."""
    front, tokens = card(out)
    assert front.keys() <= ALLOWED
    assert front["library_name"] == "peft"
    kinds = [token.type for token in flat(tokens)]
    for acting in (
        "html_inline",
        "html_block",
        "image",
        "link_open",
        "fence",
        "code_block",
        "hr",
        "em_open",
    ):
        assert acting not in kinds, f"{acting} in {(out / 'README.md').read_text('utf-8')}"
    headings = [
        tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert headings == ["A composed adapter", "Certificate"]
    assert kinds.count("table_open") == 1
    assert kinds.count("tr_open") == operands + 1
    assert kinds.count("td_open") == 4 * operands
    for file in out.iterdir():
        if file.suffix in (".md", ".json"):
            assert not re.search(
                r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", file.read_text("utf-8")
            ), file.name
    return front


@pytest.mark.parametrize("what", STRANGE)
def test_base_model_in_the_card(what: str, tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a", base_model_name_or_path=STRANGE[what])
    bound = {"a": str(operand)}
    assert (
        outcome(lambda: pemath.compose("0.5*a", tmp_path / "out", operands=bound, heads="drop"))
        is None
    )
    front = check_card(tmp_path / "out")
    assert front.get("base_model", STRANGE[what]) == STRANGE[what]
    written = json.loads((tmp_path / "out" / attacks.CONFIG).read_text("utf-8"))
    assert written["base_model_name_or_path"] == STRANGE[what]


@pytest.mark.parametrize("what", STRANGE)
def test_other_spelling_of_the_base_model(what: str, tmp_path: Path) -> None:
    """Two spellings make a note in the card."""
    tail = STRANGE[what].replace("/", "_")
    bound = {
        name: str(attacks.lora(tmp_path / name, base_model_name_or_path=f"{where}/{tail}"))
        for name, where in (("a", "one"), ("b", STRANGE[what]))
    }
    error = outcome(lambda: pemath.compose("a + b", tmp_path / "out", operands=bound, heads="drop"))
    if error is None:
        check_card(tmp_path / "out", 2)


@pytest.mark.parametrize("what", STRANGE)
def test_base_models_in_a_refusal(what: str, tmp_path: Path) -> None:
    bound = {
        name: str(attacks.lora(tmp_path / name, base_model_name_or_path=STRANGE[what] + name))
        for name in "ab"
    }
    error = outcome(lambda: pemath.compose("a + b", tmp_path / "out", operands=bound))
    assert error is not None
    assert leftovers(tmp_path, "a", "b") == []


@pytest.mark.parametrize("word", YAML_WORDS)
def test_base_models_that_yaml_would_take_for_something_else(word: str, tmp_path: Path) -> None:
    operand = attacks.lora(tmp_path / "a", base_model_name_or_path=word)
    pemath.compose("0.5*a", tmp_path / "out", operands={"a": str(operand)}, heads="drop")
    front = check_card(tmp_path / "out")
    assert front.get("base_model", word) == word


def strange_sites(name: str) -> dict[str, attacks.Tensor]:
    return {
        f"{PREFIX}{name}.lora_A.weight": attacks.tensor((2, 3)),
        f"{PREFIX}{name}.lora_B.weight": attacks.tensor((4, 2)),
        f"{PREFIX}{name}.head.weight": attacks.tensor((2, 2)),
    }


@pytest.mark.parametrize("what", STRANGE)
def test_site_and_head_in_the_card(what: str, tmp_path: Path) -> None:
    name = STRANGE[what]
    config = attacks.LORA | {"modules_to_save": ["head"]}
    operand = attacks.write(tmp_path / "a", config, strange_sites(name))
    error = outcome(lambda: pemath.compose("0.5*a", tmp_path / "out", operands={"a": str(operand)}))
    if error is None:
        check_card(tmp_path / "out")
    else:
        assert not name.isprintable()


@pytest.mark.parametrize("what", STRANGE)
def test_site_and_head_in_refusals(what: str, tmp_path: Path) -> None:
    """Names that the header's check lets pass come back in messages."""
    name = STRANGE[what]
    config = attacks.LORA | {"modules_to_save": ["head"]}
    good = strange_sites(name)
    other = {
        tensor: attacks.tensor((2, 9)) if "_A" in tensor else value
        for tensor, value in good.items()
    }
    bound = {
        "a": str(attacks.write(tmp_path / "a", config, good)),
        "b": str(attacks.write(tmp_path / "b", config, other)),
        "c": str(attacks.write(tmp_path / "c", config | {"r": 3}, good)),
        "d": str(attacks.write(tmp_path / "d", config | {"modules_to_save": None}, good)),
    }
    for expression in ("a + b", "c", "d", "2*a", "paper(a, b)"):
        used = {key: path for key, path in bound.items() if key in expression.replace("paper", "")}
        outcome(
            lambda e=expression, u=used: pemath.compose(e, tmp_path / "out", operands=u, force=True)
        )


@pytest.mark.parametrize("what", STRANGE)
def test_reference_in_the_card(what: str, tmp_path: Path) -> None:
    name = STRANGE[what].replace("/", "_").replace("\0", "_")
    operand = attacks.lora(tmp_path / name)
    for number, (text, bound) in enumerate(
        (("0.5*a", {"a": str(operand)}), (f"0.5*{json.dumps(str(operand))}", {}))
    ):
        out = tmp_path / f"out{number}"
        assert (
            outcome(lambda t=text, b=bound, o=out: pemath.compose(t, o, operands=b, heads="drop"))
            is None
        )
        check_card(out)


@pytest.mark.parametrize("what", STRANGE)
def test_reference_in_refusals(what: str, tmp_path: Path) -> None:
    bound = {"a": STRANGE[what]}
    for text, names in (
        ("a", bound),
        (json.dumps(STRANGE[what]), {}),
        ("a + c", bound),
        ("2", bound),
    ):
        assert (
            outcome(lambda t=text, n=names: pemath.compose(t, tmp_path / "out", operands=n))
            is not None
        )


@pytest.mark.parametrize("what", STRANGE)
def test_options_of_a_request(what: str, tmp_path: Path) -> None:
    operand = str(attacks.lora(tmp_path / "a"))
    text = STRANGE[what]
    requests: list[dict[str, Any]] = [
        {"arithmetic": text},
        {"dtype": text},
        {"heads": text},
        {"profile": text},
        {"operands": {"a": operand, text: operand}},
        {"arithmetic": f"paper(normalize={json.dumps(text)})"},
        {"arithmetic": f"paper({json.dumps(text)})"},
    ]
    for request in requests:
        fields = {"operands": {"a": operand}} | request
        assert outcome(lambda f=fields: pemath.compose("a", tmp_path / "out", **f)) is not None
    chosen = {"operands": {"a": operand}, "base_model": text, "heads": "drop"}
    if outcome(lambda: pemath.compose("a", tmp_path / "out", **chosen)) is None:
        check_card(tmp_path / "out")


@pytest.mark.parametrize("what", STRANGE)
def test_fields_that_are_kept(what: str, tmp_path: Path) -> None:
    """Unknown fields come through unchanged, in JSON that stays JSON."""
    fields = {"revision": STRANGE[what], "auto_mapping": {STRANGE[what]: [STRANGE[what]]}}
    operand = attacks.lora(tmp_path / "a", **fields)
    pemath.compose("0.5*a", tmp_path / "out", operands={"a": str(operand)}, heads="drop")
    written = json.loads((tmp_path / "out" / attacks.CONFIG).read_text("utf-8"))
    assert {name: written[name] for name in fields} == fields
    check_card(tmp_path / "out")


@pytest.mark.parametrize("what", STRANGE)
def test_metadata_is_not_passed_on(what: str, tmp_path: Path) -> None:
    data = attacks.safetensors(
        attacks.lora_tensors(), {STRANGE[what]: STRANGE[what], "format": "pt"}
    )
    operand = attacks.write(tmp_path / "a", attacks.LORA, data)
    pemath.compose("0.5*a", tmp_path / "out", operands={"a": str(operand)}, heads="drop")
    raw = (tmp_path / "out" / attacks.WEIGHTS).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_two_operands_with_one_name(tmp_path: Path) -> None:
    """Long paths differ at their ends: what is shown short must not be taken for the same."""
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 5)
    one = attacks.lora(deep / "one", base_model_name_or_path="someone/one")
    two = attacks.lora(deep / "two", base_model_name_or_path="someone/two", seed=3)
    text = f"{json.dumps(str(one))} + {json.dumps(str(two))}"
    error = outcome(lambda: pemath.compose(text, tmp_path / "out", heads="drop"))
    assert isinstance(error, PemathError), "two base models were taken for one"
    pemath.compose(text, tmp_path / "out", heads="drop", base_model="someone/one")
    check_card(tmp_path / "out", 2)
    lock = json.loads((tmp_path / "out" / "pemath.lock.json").read_text("utf-8"))
    assert len(lock["sources"]) == 2


def test_a_name_and_a_reference_that_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a + "a"`: the bound name and the folder of that name are two operands."""
    attacks.lora(tmp_path / "a")
    bound = {"a": str(attacks.lora(tmp_path / "other", seed=3, base_model_name_or_path="x/y"))}
    monkeypatch.chdir(tmp_path)
    error = outcome(
        lambda: pemath.compose('a + "a"', tmp_path / "out", operands=bound, heads="drop")
    )
    assert isinstance(error, PemathError), "two base models were taken for one"


def test_check_message_finds_what_it_is_for() -> None:
    for text in ("\x1b[31m", "\u202ex", "a\nb\nc\nd\ne\nf", "x" * 4000):
        with pytest.raises(AssertionError):
            check_message(PemathError(text))
