"""train, evaluate and sweep on a user's own files, with a tiny model that is made here.

The judges are PEFT and transformers themselves: what `evaluate` reports is what a model says into
which PEFT has loaded the folder.
"""

import csv
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")

from pemath.cli import main  # noqa: E402
from pemath.errors import (  # noqa: E402
    ConfigError,
    HeadChoiceNeeded,
    KindMismatch,
    LayoutError,
    MissingExtra,
    OperandError,
    OutputExists,
    PemathError,
    ReferenceNotFound,
    RequestError,
)
from pemath.lab.accuracy import wilson_interval  # noqa: E402
from pemath.lab.own import Asking, Subject, Trained, evaluate, sweep, train  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

GOOD, BAD = ["good", "fine", "great"], ["bad", "awful", "dull"]
OTHER = ["film", "the", "was", "review"]
COLUMNS = Subject(text=["text"], label="label")
LABELS = ("negative", "positive")


def write(path: Path, rows: Sequence[tuple[Any, ...]], header: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def sentences(count: int, seed: int, share: float) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        positive = draw.random() < share
        words = draw.choices(GOOD if positive else BAD, k=2) + draw.choices(OTHER, k=4)
        draw.shuffle(words)
        rows.append((" ".join(words), LABELS[positive]))
    return rows


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert (without a head) and llama (tiny models), a.csv, b.csv, validation.csv, test.csv, pairs.csv, and modules:
    a, b (LoRAs), ia (an (IA)³), fa, fb (full fine-tunings from start 5).
    """
    root = tmp_path_factory.mktemp("own")
    save_model("causal", root / "llama")
    whole = transformers.AutoModelForSequenceClassification
    whole.from_pretrained(save_model("encoder", root / "bert")).bert.save_pretrained(root / "bert")
    header = ("text", "label")
    write(root / "a.csv", sentences(60, 1, 0.35), header)
    write(root / "b.csv", sentences(60, 2, 0.65), header)
    write(root / "validation.csv", sentences(30, 3, 0.5), header)
    write(root / "test.csv", sentences(50, 4, 0.5), header)
    pairs = [
        (text, "the film", 1 + 4 * (label == "positive")) for text, label in sentences(40, 5, 0.5)
    ]
    write(root / "pairs.csv", pairs, ("one", "two", "score"))
    quick = {"learning_rate": 0.05, "max_steps": 60, "batch_size": 8}
    for name in "ab":
        trained(root, name, f"{name}.csv", settings={**quick, "rank": 2, "alpha": 4})
    trained(root, "ia", "a.csv", pem="ia3", settings={**quick, "learning_rate": 0.2})
    for name in "ab":
        slow = {**quick, "learning_rate": 0.006}
        trained(root, f"f{name}", f"{name}.csv", pem="full", settings=slow, start_seed=5)
    return root


def trained(root: Path, name: str, data: str, **options: Any) -> Trained:
    options = {"model": str(root / "bert"), "subject": COLUMNS, "max_length": 16} | options
    return train(root / name, data=root / data, **options)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that, the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(here: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def by_peft(folder: Path, base: Path) -> Any:
    """The model with the adapter that PEFT loads from `folder`."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    return peft.PeftModel.from_pretrained(model, folder).eval()


def by_hand(folder: Path, base: Path) -> Any:
    """The model that full fine-tuning began with, with the deltas in `folder` added."""
    from safetensors.torch import load_file

    from pemath.lab.models import load_model

    model = load_model(str(base), outputs=2, seed=5).model
    own = dict(model.named_parameters())
    for name, delta in load_file(folder / "adapter_model.safetensors").items():
        own[name.removeprefix("base_model.model.")].data += delta
    return model.eval()


def share_right(model: Any, root: Path, name: str) -> float:
    """The share of rows of a file that the model answers correctly, asked one by one."""
    words = transformers.AutoTokenizer.from_pretrained(root / "bert")
    with (root / name).open(newline="", encoding="utf-8") as file:
        rows = [tuple(row) for row in csv.reader(file)][1:]
    with torch.inference_mode():
        answers = [int(model(**words(t, return_tensors="pt")).logits.argmax()) for t, _ in rows]
    right = [LABELS[a] == label for a, (_, label) in zip(answers, rows, strict=True)]
    return sum(right) / len(right)


# ---------------------------------------------------------------------------------------- train


def test_modules_begin_with_one_kept_start(made: Path) -> None:
    starts = list((made / "store" / "initialisations").iterdir())
    assert len(starts) == 2  # of the LoRAs, and of the (IA)³
    assert len(list((made / "store" / "modules").iterdir())) == 5


def test_a_trained_folder_says_how_to_ask_it(made: Path) -> None:
    card = json.loads((made / "a" / "training.json").read_text("utf-8"))
    assert card["labels"] == list(LABELS)
    assert (card["text"], card["label"], card["max_length"]) == (["text"], "label", 16)
    assert card["model"] == str(made / "bert")
    assert card["facts"]["steps"] == 60
    assert card["settings"]["rank"] == 2


def test_training_again_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.05, "max_steps": 60, "batch_size": 8, "rank": 2, "alpha": 4}
    again = train(
        tmp_path / "a", model=str(made / "bert"), data=made / "a.csv", subject=COLUMNS,
        settings=settings, max_length=16,
    )  # fmt: skip
    weights = "adapter_model.safetensors"
    assert (again.folder / weights).read_bytes() == (made / "a" / weights).read_bytes()


def test_another_model_in_the_same_folder_is_trained_anew(here: Path) -> None:
    settings = {"max_steps": 1}
    first = trained(here, "x", "a.csv", settings=settings)
    weights = (first.folder / "adapter_model.safetensors").read_bytes()
    torch.manual_seed(1)
    other = transformers.BertModel(transformers.BertConfig.from_pretrained(here / "bert"))
    other.save_pretrained(here / "bert")
    second = trained(here, "y", "a.csv", settings=settings)
    assert (second.folder / "adapter_model.safetensors").read_bytes() != weights


def test_an_existing_output_is_kept(made: Path) -> None:
    with pytest.raises(OutputExists):
        trained(made, "a", "a.csv")


def test_all_mistakes_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        train(
            "x", model="pip:minilmm", data="a.csv", pem="ia3",
            settings={"rank": 2, "learning_rate": -1.0}, max_length=1,
        )  # fmt: skip
    for part in ("--rank", "--learning-rate", "--model: there is no model", "--max-length"):
        assert part in caught.value.what


# ------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize(
    ("name", "judge"), [("a", by_peft), ("b", by_peft), ("ia", by_peft), ("fa", by_hand)]
)
def test_a_folder_is_worth_what_it_is(made: Path, name: str, judge: Any) -> None:
    found = evaluate(str(made / name), data=made / "test.csv")
    (score,) = found.scores
    assert found.rows == 50
    assert score.value == pytest.approx(
        share_right(judge(made / name, made / "bert"), made, "test.csv")
    )
    assert (score.low, score.high) == pytest.approx(wilson_interval(score.value, 50))


def test_an_expression_is_worth_what_peft_says(here: Path) -> None:
    from pemath import compose

    operands = {"a": str(here / "a"), "b": str(here / "b")}
    found = evaluate("0.7*a + 0.3*b", operands, data=here / "test.csv")
    assert [score.name for score in found.scores] == ["0.7*a + 0.3*b", "a", "b"]
    merged = compose("0.7*a + 0.3*b", here / "merged", operands=operands).folder
    first, a, b = found.scores
    assert first.value == pytest.approx(
        share_right(by_peft(merged, here / "bert"), here, "test.csv")
    )
    assert first.error_to_exact is not None
    assert first.error_to_exact < 1e-6
    assert first.behind is None
    for other in (a, b):
        assert other.behind is not None
        difference, low, high = other.behind
        assert difference == pytest.approx(first.value - other.value)
        assert low <= difference <= high
    only = evaluate("0.7*a + 0.3*b", operands, data=here / "test.csv", only=True)
    assert [score.value for score in only.scores] == [first.value]


def test_folders_of_strangers_with_equal_names(here: Path) -> None:
    for name in "ab":
        shutil.copytree(here / name, here / f"from-{name}" / "adapter")
        (here / f"from-{name}" / "adapter" / "training.json").unlink()
    asking = Asking(model=str(here / "bert"), store=here / "kept")
    for name in "ab":
        folder = f"./from-{name}/adapter"
        found = evaluate(folder, data="test.csv", subject=COLUMNS, asking=asking)
        known = evaluate(f"./{name}", data="test.csv")
        assert [s.value for s in found.scores] == [s.value for s in known.scores]
        assert found.labels == LABELS  # those of the file, sorted


def test_full_fine_tuning_keeps_its_start(here: Path) -> None:
    from pemath import compose

    operands = {"a": "fa", "b": "fb"}
    found = evaluate("0.5*a + 0.5*b", operands, data="test.csv")
    compose("0.5*a + 0.5*b", "merged", operands=operands)
    asking = Asking(model=str(here / "bert"))
    with pytest.raises(RequestError, match="head"):
        evaluate("./merged", data="test.csv", subject=COLUMNS, asking=asking)
    asking = Asking(model=str(here / "bert"), start_seed=5)
    merged = evaluate("./merged", data="test.csv", subject=COLUMNS, asking=asking)
    assert merged.scores[0].value == found.scores[0].value


def test_operands_are_asked_with_the_head_they_began_with(here: Path) -> None:
    from pemath.lab.own.bench import prepare

    files = {"test": here / "test.csv"}
    assert prepare(["a"], {"a": "fa"}, Subject(), files, Asking()).setting.head_seed == 5


def test_numbers_and_pairs(here: Path) -> None:
    pairs = Subject(text=["one", "two"], label="score", metric="pearson_spearman")
    trained(here, "x", "pairs.csv", subject=pairs, settings={"max_steps": 10})
    found = evaluate("./x", data="pairs.csv")
    assert (found.metric, found.labels) == ("pearson_spearman", ())
    assert found.scores[0].low <= found.scores[0].value <= found.scores[0].high


def test_a_model_that_generates(here: Path) -> None:
    asked = Subject(
        text=["text"], label="label", labels=LABELS, prompt="{0} was", words=["bad", "good"]
    )
    options = {"model": str(here / "llama"), "subject": asked}
    for name in "ab":
        trained(here, f"g{name}", f"{name}.csv", settings={"max_steps": 3}, **options)
    found = evaluate("0.5*a + 0.5*b", {"a": "ga", "b": "gb"}, data="test.csv")
    assert len(found.scores) == 3
    with pytest.raises(RequestError, match="answers prompts"):
        trained(here, "gc", "a.csv", model=str(here / "llama"))


# ---------------------------------------------------------------------------------------- sweep


def test_a_sweep_chooses_on_validation_and_reports_on_test(here: Path) -> None:
    operands = {"a": "a", "b": "b"}
    found = sweep(
        "(1-t)*a + t*b", operands, {"t": "0:1:0.25"}, validation="validation.csv", data="test.csv",
        out="merged",
    )  # fmt: skip
    assert [float(one.weights["t"]) for one in found.tried] == [0, 0.25, 0.5, 0.75, 1]
    for one in found.tried:
        t = float(one.weights["t"])
        alone = evaluate(f"{1 - t}*a + {t}*b", operands, data="validation.csv", only=True)
        assert alone.scores[0].value == one.score
    assert found.chosen.score == max(one.score for one in found.tried)
    alone = {score.name: score.value for score in found.scores}
    for name in operands:
        assert evaluate(f"./{name}", data="test.csv").scores[0].value == alone[name]
    assert (found.validation_rows, found.rows) == (30, 50)
    kept = evaluate("./merged", data="test.csv")  # asked as its parts are
    assert kept.scores[0].value == found.scores[0].value


def test_rows_of_the_test_part_choose_nothing(here: Path) -> None:
    lines = (here / "test.csv").read_text("utf-8").splitlines()
    with (here / "validation.csv").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines[1:4]) + "\n")
    found = sweep(
        "(1-t)*a + t*b", {"a": "a", "b": "b"}, {"t": [0.5]}, validation="validation.csv",
        data="test.csv",
    )  # fmt: skip
    assert found.validation_rows == 30
    assert "3 validation rows left out" in found.notes[0]
    with pytest.raises(RequestError, match="as well"):
        sweep("t*a", {"a": "a"}, {"t": [1]}, validation="test.csv", data="test.csv")


def test_a_search_is_seeded(here: Path) -> None:
    pytest.importorskip("optuna")
    first, second = (
        sweep(
            "(1-t)*a + t*b", {"a": "a", "b": "b"}, {"t": "0:1"}, validation="validation.csv",
            data="test.csv", kind="optuna", trials=4, seed=3,
        )
        for _ in range(2)
    )  # fmt: skip
    assert first == second
    assert first.tried[0].weights["t"] == 0.5


def test_the_base_is_loaded_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pemath.lab import setting

    loaded = []
    load = setting.load_model
    monkeypatch.setattr(
        setting,
        "load_model",
        lambda *words, **options: (loaded.append(1), load(*words, **options))[1],
    )
    sweep(
        "(1-t)*a + t*b", {"a": "a", "b": "b"}, {"t": "0:1:0.1"}, validation="validation.csv",
        data="test.csv",
    )  # fmt: skip
    assert len(loaded) == 1


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("evaluate ./zed --data test.csv", "reference-not-found"),
        ("evaluate a --data zed.csv", "reference-not-found"),
        ("evaluate a", "request"),
        ("evaluate a --data test.csv --text zed", "config"),
        ("evaluate a --data test.csv --label text", "request"),
        ("evaluate a --data test.csv --labels positive,negative", "operands"),
        ("evaluate a --data test.csv --task packages/movies", "request"),
        ("evaluate a --data test.csv --model zed/zed", "reference-not-found"),
        ("evaluate a --data test.csv --model llama", "request"),
        ("evaluate a --data test.csv --batch-size 0", "request"),
        ("evaluate a --data test.csv --prompt {0} --words x,y", "request"),
        ("train x --model bert --data a.csv --text text --label label --prompt {0}", "request"),
        ("evaluate a+ a=a --data test.csv", "expression"),
        ("evaluate a a=a b=b --data test.csv", "request"),
        ("evaluate a a --data test.csv", "request"),
        ("evaluate a-b a=a b=b --data test.csv", "head-choice-needed"),
        ("evaluate a+x a=a x=ia --data test.csv", "kind-mismatch"),
        ("evaluate 'a' a=a x=ia --data test.csv", "request"),
        ("evaluate regmean(a,b) a=a b=b --data test.csv", "statistics-needed"),
        ("evaluate x x=example:sentiment-lora-a --data test.csv", "request"),
        ("sweep (1-t)*a+t*b a=a b=b --validation validation.csv --data test.csv", "request"),
        ("sweep (1-t)*a+t*b t=0:1:0.3 a=a b=b --validation validation.csv --data test.csv", "request"),
        ("sweep (1-t)*a+t*b t=0:1 a=a b=b --validation validation.csv --data test.csv", "request"),
        ("sweep (1-t)*a+t*b t=0:1:1 u=1 a=a b=b --validation a.csv --data test.csv", "request"),
        ("sweep (1-t)*a+t*b t=0:1:1 a=a b=b c=b --validation a.csv --data test.csv", "request"),
        ("sweep (1-t)*a+t*b t=0:1:1 a=a --validation a.csv --data test.csv", "expression"),
        ("sweep (1-t)*a+t*b t=0:1:1 a=a b=b --data test.csv", "request"),
        ("sweep a-2*t*b t=0:1:0.5 a=a b=b --validation a.csv --data test.csv", "head-choice-needed"),
        ("sweep t*a t=1 a=a --validation a.csv --data test.csv --out b", "output-exists"),
        ("train a --model bert --data a.csv --text text --label label", "output-exists"),
        ("train x --model bert --data a.csv", "request"),
        ("train x --model bert", "request"),
        ("train x --model bert --data zed.csv --text text --label label", "reference-not-found"),
        ("train x --model bert --data a.csv --text text --label label --labels u,v", "config"),
        ("train x --model bert --data a.csv --text text --label label --seed -1", "request"),
        ("train x --model bert --data a.csv --text text --label label --report-to zed", "request"),
        ("train x --model bert --data a.csv --text text --label label --target-modules zed", "config"),
        ("train x --model bert --data a.csv --text text --label label --pem ia3 --rank 1", "request"),
    ],
)  # fmt: skip
def test_refusals(cli: Cli, words: str, error: str) -> None:
    code, out, err = cli(*words.split(), "--json")
    assert json.loads(out)["error"] == error, out
    assert code in (2, 3, 4, 5)
    assert "Traceback" not in err


def test_a_module_without_a_head(cli: Cli) -> None:
    assert cli("compose", "a+b", "a=a", "b=b", "--heads", "drop", "--out", "x")[0] == 0
    words = "evaluate x --data test.csv --model bert --text text --label label --json"
    code, out, _ = cli(*words.split())
    assert (code, json.loads(out)["error"]) == (3, "layout")


def test_a_head_for_other_labels(here: Path) -> None:
    rows = [(text, "mixed") for text, _ in sentences(9, 9, 0.5)]
    write(here / "three.csv", sentences(9, 8, 0.5) + rows, ("text", "label"))
    (here / "a" / "training.json").unlink()
    with pytest.raises(LayoutError, match="labels"):
        evaluate("./a", data="three.csv", subject=COLUMNS, asking=Asking(model=str(here / "bert")))


def test_another_model(here: Path) -> None:
    torch.manual_seed(0)
    shutil.copytree(here / "bert", here / "small")
    config = transformers.BertConfig.from_pretrained(here / "bert", hidden_size=8)
    transformers.BertModel(config).save_pretrained(here / "small")
    for name in ("a", "ia", "fa"):
        with pytest.raises(LayoutError, match="does not fit"):
            evaluate(f"./{name}", data="test.csv", asking=Asking(model=str(here / "small")))


def test_records_that_disagree(here: Path) -> None:
    def changed(name: str, **fields: Any) -> None:
        path = here / name / "training.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}))

    def asked(**options: Any) -> None:
        evaluate("a + b", {"a": "a", "b": "b"}, data="test.csv", **options)

    changed("b", labels=["positive", "negative"])
    with pytest.raises(OperandError, match="same order"):
        asked()
    changed("b", labels=list(LABELS), max_length=32)
    with pytest.raises(OperandError, match="max length"):
        asked()
    asked(asking=Asking(max_length=16))
    changed("b", max_length="32")
    with pytest.raises(ConfigError, match="operand `b`"):
        asked()


def test_rows_that_were_trained_on_choose_nothing(here: Path) -> None:
    from pemath.lab.own.agreement import held_out_alike
    from pemath.lab.own.card import read_card

    card = read_card(here / "a")
    assert card is not None
    known = card.model_copy(update={"task": "packages/movies", "validation_rows": 100})
    more = known.model_copy(update={"validation_rows": 200})
    movies = Subject(task="packages/movies")
    assert held_out_alike(movies, {"a": known}).validation_rows == 100
    assert held_out_alike(Subject(task="glue/rte"), {"a": known}).validation_rows is None
    for given, cards in (
        (Subject(task="packages/movies", validation_rows=200), {"a": known}),
        (movies, {"a": known, "b": more}),
    ):
        with pytest.raises(OperandError, match="trained on"):
            held_out_alike(given, cards)


def test_a_missing_package_is_said_before_any_work(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pemath.lab import models

    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(MissingExtra, match="peft"):
        trained(here, "x", "a.csv")
    with pytest.raises(MissingExtra, match="peft"):
        evaluate("./a", data="test.csv")


def test_kinds_have_their_classes(here: Path) -> None:
    for expression, operands, error in (
        ("a + x", {"a": "a", "x": "ia"}, KindMismatch),
        ("a - b", {"a": "a", "b": "b"}, HeadChoiceNeeded),
        ("a", {"a": "zed"}, ReferenceNotFound),
    ):
        with pytest.raises(error) as caught:
            evaluate(expression, operands, data="test.csv")
        assert isinstance(caught.value, PemathError)


# ------------------------------------------------------------------------------- what is printed


def test_what_the_verbs_print(cli: Cli) -> None:
    words = "train x --model bert --data a.csv --text text --label label --max-steps 2"
    code, out, err = cli(*words.split())
    assert (code, err) == (0, "")
    assert "labels  negative, positive" in out
    code, out, err = cli("evaluate", "0.5*a + 0.5*b", "a=a", "b=b", "--data", "test.csv")
    assert (code, err) == (0, "")
    assert "50 rows, labels: negative, positive" in out
    assert "95 % interval" in out
    words = "t=0:1:0.5 a=a b=b --validation validation.csv --data test.csv --out merged"
    code, out, err = cli("sweep", "(1-t)*a + t*b", *words.split())
    assert (code, err) == (0, "")
    assert out.count("chosen ") >= 1
    assert "test rows, which chose nothing" in out


def test_json(cli: Cli) -> None:
    words = "t=0:1:0.5 a=a b=b --validation validation.csv --data test.csv --json"
    found = json.loads(cli("sweep", "(1-t)*a + t*b", *words.split())[1])
    assert [one["weights"]["t"] for one in found["curve"]] == [0, 0.5, 1]
    assert found["chosen"]["validation"] == max(one["validation"] for one in found["curve"])
    assert found["scores"][0]["name"] == found["chosen"]["expression"]
    found = json.loads(cli("evaluate", "a", "--data", "test.csv", "--json")[1])
    assert found["labels"] == list(LABELS)


def test_statistics_of_own_modules_are_used_by_data_driven_methods(here: Path) -> None:
    """The verb needs no options for what pemath trained; `regmean` then finds the file."""
    for name in ("a", "b"):
        pemath_lab_statistics(here, name)
    found = evaluate("regmean(a, b)", {"a": "a", "b": "b"}, data="test.csv")
    assert found.scores[0].expression == "regmean(a, b)"


def pemath_lab_statistics(here: Path, name: str) -> None:
    from pemath.lab.own.measuring import measure

    written = measure(f"./{name}", data=here / f"{name}.csv", rows=6, fisher_rows=2)
    assert written == (here / name / "statistics.safetensors") or written.is_file()
