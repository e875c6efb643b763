"""Reviews: stars to labels, texts as their writers typed them, parts that share nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pemath.errors import ConfigError, MissingExtra, ReferenceNotFound, RequestError
from pemath.lab.data.reviews import HUB, REVIEWS, readable
from pemath.lab.data.rows import Row
from pemath.lab.data.tasks import TASKS, load_task

STARS = ["reviews/amazon", "reviews/yelp"]
SIGNS = [name for name in REVIEWS if name not in STARS]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def make(root: Path, name: str, train: int = 10, test: int = 5) -> Path:
    known = REVIEWS[name]
    for file, count in ((known.train, train), (known.test, test)):
        part = Path(file).stem
        if name in STARS:
            rows = {str(i): {"ori": f"{part} {i}", "label": str(i % 5)} for i in range(count)}
            write(root / file, json.dumps(rows))
        else:
            lines = [f'"{part}\n said ""{i}"", and"\t{i % 2}' for i in range(count)]
            write(root / file, "\n".join(["sentence\tlabel", *lines]))
    return root


@pytest.mark.parametrize("name", STARS)
def test_stars_are_negative_or_positive_and_three_are_neither(name: str, tmp_path: Path) -> None:
    data = load_task(name, data_dir=make(tmp_path, name))
    assert {row.texts[0]: row.label for row in data.test} == {
        "test 0": 0,
        "test 1": 0,
        "test 3": 1,
        "test 4": 1,
    }
    assert {row.texts[0] for row in data.train} == {f"dev {i}" for i in (0, 1, 3, 4, 5, 6, 8, 9)}


@pytest.mark.parametrize("name", SIGNS)
def test_quoted_reviews_may_have_several_lines(name: str, tmp_path: Path) -> None:
    data = load_task(name, data_dir=make(tmp_path, name), validation_rows=2)
    assert data.test[1] == Row(('dev said "1", and',), 1)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 5)


@pytest.mark.parametrize("name", [*REVIEWS, *HUB])
def test_all_are_asked_in_the_words_of_the_other_review_tasks(name: str) -> None:
    task, movies = TASKS[name], TASKS["packages/movies"]
    assert (task.prompt, task.words, task.labels) == (movies.prompt, movies.words, movies.labels)
    assert task.metric == "accuracy"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (r"first\n\nsecond", "first second"),
        (r'the \""best\"" one', 'the "best" one'),
        (r"caf\u00e9", "caf\u00e9"),
        (r"a\ud800b \u0000", "a b"),
        ("on\ntwo  lines", "on two lines"),
        (r"C:\PORT and C:\u12", r"C:\PORT and C:\u12"),
    ],
)
def test_what_was_written_out_becomes_readable(written: str, shown: str) -> None:
    assert readable(written) == shown


@pytest.mark.parametrize("name", REVIEWS)
def test_no_folder_and_no_file_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="packages/movies"):
        load_task(name)
    with pytest.raises(ReferenceNotFound, match="https://github"):
        load_task(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("reviews/yelp", '{"0": {"ori": "x", "label": "5"}}', "entry 0"),
        ("reviews/yelp", '{"0": {"ori": "x", "label": 4}}', "entry 0"),
        ("reviews/yelp", '{"0": {"label": "4"}}', "no text `ori`"),
        ("reviews/yelp", "{}", "no entries"),
        ("reviews/books", "sentence\tlabel\nx\t2\n", "line 2"),
        ("reviews/books", "sentence\tlabel\nx\t1\t1\n", "line 2"),
        ("reviews/books", 'sentence\tlabel\n"x\t1\n', "line 2"),
        ("reviews/books", "text\tlabel\nx\t1\n", "no text `sentence`"),
    ],
)
def test_a_malformed_file_is_refused_by_its_place(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    path = write(make(tmp_path, name) / REVIEWS[name].train, content)
    with pytest.raises(ConfigError) as caught:
        load_task(name, data_dir=tmp_path)
    assert said in str(caught.value)
    assert path.name in str(caught.value)


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


@pytest.mark.parametrize("name", HUB)
def test_the_papers_reviews_come_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    column = HUB[name].column
    train = [{column: f"a{i}", "label": i % 2, "title": "t"} for i in range(6)]
    asked = hub(monkeypatch, [train, [{column: r"so\nso", "label": 1}]])
    data = load_task(name, validation_rows=2)
    assert asked == [((f"fancyzhx/{name[4:]}", None), {"split": ["train[:50000]", "test[:10000]"]})]
    assert data.test == (Row(("so so",), 1),)
    assert (len(data.train), len(data.validation)) == (4, 2)


@pytest.mark.parametrize("name", HUB)
def test_an_unreachable_or_odd_hub_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("offline"))
    with pytest.raises(ReferenceNotFound, match="reviews/amazon"):
        load_task(name)
    odd = [{HUB[name].column: "x", "label": -1}]
    hub(monkeypatch, [odd, odd])
    with pytest.raises(ConfigError, match="unknown label"):
        load_task(name)
    hub(monkeypatch, [[{"x": "x", "label": 1}], odd])
    with pytest.raises(ConfigError, match="no column"):
        load_task(name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra):
        load_task(name)


REAL = {  # train rows (less those that the test part has), test rows, and the digest
    "reviews/amazon": (800, 800, "4a3de0632b1deff4"),
    "reviews/yelp": (800, 800, "1c705c45ffe0171d"),
    "reviews/books": (1656, 300, "5f40a9763b5e884f"),
    "reviews/dvd": (1656, 298, "732877c1d8b4816f"),
    "reviews/electronics": (1668, 298, "3d00b66cc9e92ccc"),
    "reviews/kitchen": (1678, 300, "01af8dbd09632153"),
}


@pytest.mark.parametrize("name", REVIEWS)
def test_the_real_files(name: str, shared_data: Path) -> None:
    data = load_task(name, data_dir=shared_data)
    assert (len(data.train), len(data.test), data.digest[:16]) == REAL[name]
    for part in (data.train, data.test):
        counts = Counter(row.label for row in part)
        assert counts[0] == pytest.approx(counts[1], rel=0.05)
    readable_ = not any("\\n" in row.texts[0] or "\n" in row.texts[0] for row in data.train)
    assert readable_  # and no row in the log
