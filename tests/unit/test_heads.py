"""Heads: weights that replace the base's. Averaged with weights that sum to one, taken over, or the
user's choice, and never silently lost."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pemath
from pemath.composition.run import Composition
from pemath.errors import HeadChoiceNeeded, NonFiniteValue, RequestError, ShapeMismatch

PREFIX = "base_model.model."
WEIGHT, BIAS = "classifier.weight", "classifier.bias"


class Folders:
    """Writes adapters, and composes them by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written: dict[str, str] = {}
        self.heads: dict[str, Mapping[str, np.ndarray]] = {}

    def add(
        self, name: str, heads: Mapping[str, np.ndarray] | None = None, **config: object
    ) -> Folders:
        """An adapter with one site and `heads`, by tensor name."""
        rng = np.random.default_rng([ord(letter) for letter in name])
        folder = self.root / name
        folder.mkdir()
        tensors = {
            f"{PREFIX}layer.q.lora_A.weight": rng.standard_normal((2, 5)).astype("f4"),
            f"{PREFIX}layer.q.lora_B.weight": rng.standard_normal((4, 2)).astype("f4"),
        }
        tensors |= {f"{PREFIX}{key}": value for key, value in (heads or {}).items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 2,
            "target_modules": ["q"],
            "modules_to_save": ["classifier"] if heads else None,
            **config,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        self.written[name], self.heads[name] = str(folder), heads or {}
        return self

    def compose(self, expression: str, names: str, **options: object) -> Composition:
        operands = {name: self.written[name] for name in names.split()}
        return pemath.compose(expression, self.root / "out", operands=operands, **options)


def head(seed: int, labels: int = 3, dtype: str = "f4") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((labels, 5)).astype(dtype)
    return {WEIGHT: weight, BIAS: rng.standard_normal(labels).astype(dtype)}


def stored_heads(done: Composition) -> dict[str, np.ndarray]:
    stored = load_file(done.folder / "adapter_model.safetensors")
    return {
        name.removeprefix(PREFIX): value for name, value in stored.items() if ".lora_" not in name
    }


def config_of(done: Composition) -> dict[str, object]:
    found = json.loads((done.folder / "adapter_config.json").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """`a` and `b` have a head, `bare` has none."""
    return Folders(tmp_path).add("a", head(1)).add("b", head(2)).add("bare")


# ------------------------------------------------------------------------------ without a choice


@pytest.mark.parametrize(
    ("expression", "weights"),
    [
        ("0.6*a + 0.4*b", (0.6, 0.4)),
        ("(a + b)/2", (0.5, 0.5)),
        ("2*a - b", (2.0, -1.0)),
        ("a/3 + 2*b/3", (1 / 3, 2 / 3)),
        ("paper(a, b, weights=[0.5, 0.5])", (0.5, 0.5)),
    ],
)
def test_weights_that_sum_to_one_average(
    folders: Folders, expression: str, weights: tuple[float, float]
) -> None:
    done = folders.compose(expression, "a b")
    found = stored_heads(done)
    assert found.keys() == {WEIGHT, BIAS}
    for name, value in found.items():
        wanted = sum(
            w * folders.heads[n][name].astype("f8") for w, n in zip(weights, "ab", strict=True)
        )
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, wanted, rtol=2e-7, atol=1e-7)
    assert config_of(done)["modules_to_save"] == ["classifier"]
    assert any("`classifier` averaged" in note for note in done.plan.notes)


def test_a_head_of_one_operand_is_taken_over(folders: Folders) -> None:
    done = folders.compose("0.7*a - bare", "a bare")
    found = stored_heads(done)
    for name, value in folders.heads["a"].items():
        np.testing.assert_array_equal(found[name], value)
    assert any("taken over from a" in note for note in done.plan.notes)


def test_equal_heads_are_kept_whatever_the_weights(tmp_path: Path) -> None:
    folders = Folders(tmp_path).add("a", head(1)).add("b", head(1))
    done = folders.compose("3*a + b", "a b")
    np.testing.assert_array_equal(stored_heads(done)[WEIGHT], head(1)[WEIGHT])
    assert any("the same" in note for note in done.plan.notes)


@pytest.mark.parametrize("expression", ["a + b", "a - b", "0.6*a + 0.5*b", "-a - b"])
def test_other_weights_need_a_choice(folders: Folders, expression: str) -> None:
    with pytest.raises(HeadChoiceNeeded) as refused:
        folders.compose(expression, "a b")
    assert not (folders.root / "out").exists()
    text = str(refused.value)
    assert refused.value.exit_code == 4
    assert "`classifier`" in text
    for choice in ("--heads drop", "--heads a", "--heads b"):
        assert choice in text, choice
    # Weights that sum to zero cannot be divided by their sum.
    assert ("--heads average" in text) == (expression != "a - b")


def test_a_head_that_an_operand_lacks_needs_a_choice(folders: Folders) -> None:
    """Two have it and one does not: nothing is exact."""
    with pytest.raises(HeadChoiceNeeded) as refused:
        folders.compose("0.5*a + 0.5*b - bare", "a b bare")
    assert "bare" in str(refused.value)


def test_without_heads_there_is_nothing_to_say(folders: Folders) -> None:
    done = folders.compose("2*bare", "bare")
    assert not stored_heads(done)
    assert config_of(done)["modules_to_save"] is None
    assert not any("head" in note for note in done.plan.notes)


# ------------------------------------------------------------------------------------- choices


def test_average_divides_by_the_sum(folders: Folders) -> None:
    found = stored_heads(folders.compose("2*a + 6*b", "a b", heads="average"))
    for name, value in found.items():
        wanted = 0.25 * folders.heads["a"][name] + 0.75 * folders.heads["b"][name]
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)


def test_average_over_those_that_have_it(folders: Folders) -> None:
    found = stored_heads(folders.compose("a + b + bare", "a b bare", heads="average"))
    wanted = (folders.heads["a"][WEIGHT] + folders.heads["b"][WEIGHT]) / 2
    np.testing.assert_allclose(found[WEIGHT], wanted, rtol=1e-6, atol=1e-6)


def test_average_of_weights_that_cancel_is_refused(folders: Folders) -> None:
    with pytest.raises(HeadChoiceNeeded, match="sum to zero"):
        folders.compose("a - b", "a b", heads="average")


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_operand_can_be_chosen(folders: Folders, name: str) -> None:
    done = folders.compose("a - b", "a b", heads=name)
    for key, value in folders.heads[name].items():
        np.testing.assert_array_equal(stored_heads(done)[key], value)
    assert config_of(done)["modules_to_save"] == ["classifier"]
    assert any(f"taken from {name}" in note for note in done.plan.notes)


def test_drop_leaves_the_bases_head(folders: Folders) -> None:
    done = folders.compose("a - b", "a b", heads="drop")
    assert not stored_heads(done)
    assert config_of(done)["modules_to_save"] is None
    assert any("dropped" in note for note in done.plan.notes)


def test_an_operand_without_heads_cannot_be_chosen(folders: Folders) -> None:
    with pytest.raises(RequestError, match="bare"):
        folders.compose("a - bare", "a bare", heads="bare")
    assert not (folders.root / "out").exists()


@pytest.mark.parametrize("choice", ["c", "Average", "", "a b", "none"])
def test_no_such_choice(folders: Folders, choice: str) -> None:
    with pytest.raises(RequestError) as refused:
        folders.compose("0.5*a + 0.5*b", "a b", heads=choice)
    assert refused.value.exit_code == 2
    assert not (folders.root / "out").exists()


def test_the_choice_is_recorded(folders: Folders) -> None:
    done = folders.compose("a - b", "a b", heads="a")
    lock = json.loads((done.folder / "pemath.lock.json").read_text())
    assert lock["request"]["heads"] == "a"
    assert any("taken from a" in note for note in lock["notes"])
    assert "taken from a" in (done.folder / "README.md").read_text()


# -------------------------------------------------------------------------------- shapes and types


def test_label_sets_that_differ_are_refused(tmp_path: Path) -> None:
    folders = Folders(tmp_path).add("a", head(1, labels=3)).add("b", head(2, labels=2))
    for options in ({}, {"heads": "average"}):
        with pytest.raises(ShapeMismatch, match="classifier"):
            folders.compose("0.5*a + 0.5*b", "a b", **options)
    found = stored_heads(folders.compose("0.5*a + 0.5*b", "a b", heads="b"))
    assert found[WEIGHT].shape == (2, 5)


def test_a_head_with_one_more_tensor_is_another_head(tmp_path: Path) -> None:
    folders = Folders(tmp_path).add("a", head(1)).add("b", {WEIGHT: head(2)[WEIGHT]})
    with pytest.raises(ShapeMismatch):
        folders.compose("0.5*a + 0.5*b", "a b")


def test_half_precision_heads_are_averaged_in_float64(tmp_path: Path) -> None:
    one, other = head(1, dtype="f2"), head(2, dtype="f2")
    folders = Folders(tmp_path).add("a", one).add("b", other)
    found = stored_heads(folders.compose("a/3 + 2*b/3", "a b"))
    for name, value in found.items():
        assert value.dtype == np.float16
        wanted = one[name].astype("f8") / 3 + 2 * other[name].astype("f8") / 3
        np.testing.assert_array_equal(value, wanted.astype("f2"))


def test_mixed_types_take_the_wider_one(tmp_path: Path) -> None:
    folders = Folders(tmp_path).add("a", head(1, dtype="f2")).add("b", head(2, dtype="f8"))
    found = stored_heads(folders.compose("0.5*a + 0.5*b", "a b"))
    assert {value.dtype for value in found.values()} == {np.dtype("f8")}


def test_the_heads_type_is_not_the_adapters(folders: Folders) -> None:
    """`dtype` is that of the factors; a head goes out as it came in."""
    found = stored_heads(folders.compose("a - bare", "a bare", dtype="float16"))
    np.testing.assert_array_equal(found[WEIGHT], folders.heads["a"][WEIGHT])


def test_a_tensor_of_whole_numbers_is_taken_over_as_it_is(tmp_path: Path) -> None:
    heads = {WEIGHT: head(1)[WEIGHT], "classifier.position_ids": np.arange(7, dtype=np.int64)}
    folders = Folders(tmp_path).add("a", heads).add("bare")
    found = stored_heads(folders.compose("a + bare", "a bare"))
    np.testing.assert_array_equal(found["classifier.position_ids"], np.arange(7))


@pytest.mark.parametrize("expression", ["0.5*a + 0.5*b", "b + bare"])
def test_a_head_that_is_not_finite_is_refused(folders: Folders, expression: str) -> None:
    broken = head(3)
    broken[WEIGHT][1, 2] = np.nan
    folders.written.pop("b")
    (folders.root / "broken").mkdir()
    other = Folders(folders.root / "broken").add("b", broken)
    folders.written["b"] = other.written["b"]
    names = "a b" if expression.startswith("0.5") else "b bare"
    with pytest.raises(NonFiniteValue, match="classifier"):
        folders.compose(expression, names)
    assert not (folders.root / "out").exists()


# --------------------------------------------------------------------------- spellings, several


def test_the_spelling_of_older_peft(tmp_path: Path) -> None:
    old = {f"classifier.modules_to_save.{k.split('.')[-1]}": v for k, v in head(1).items()}
    named = {
        f"classifier.modules_to_save.default.{k.split('.')[-1]}": v for k, v in head(3).items()
    }
    folders = Folders(tmp_path).add("a", old).add("b", head(2)).add("c", named)
    found = stored_heads(folders.compose("0.25*a + 0.25*b + 0.5*c", "a b c"))
    assert found.keys() == {WEIGHT, BIAS}
    wanted = 0.25 * head(1)[WEIGHT] + 0.25 * head(2)[WEIGHT] + 0.5 * head(3)[WEIGHT]
    np.testing.assert_allclose(found[WEIGHT], wanted, rtol=1e-6, atol=1e-6)


def test_the_bases_own_copy_is_not_a_head(tmp_path: Path) -> None:
    heads = {**head(1), "classifier.original_module.weight": head(9)[WEIGHT]}
    folders = Folders(tmp_path).add("a", heads).add("b", head(2))
    found = stored_heads(folders.compose("0.5*a + 0.5*b", "a b"))
    assert found.keys() == {WEIGHT, BIAS}


def test_every_head_gets_its_own_answer(tmp_path: Path) -> None:
    """One head is shared, one belongs to a, one to b."""
    saved = ["classifier", "pooler", "score"]
    folders = Folders(tmp_path)
    folders.add("a", {**head(1), "pooler.weight": head(3)[WEIGHT]}, modules_to_save=saved[:2])
    folders.add("b", {**head(2), "x.score.weight": head(4)[WEIGHT]}, modules_to_save=saved[::2])
    done = folders.compose("0.5*a + 0.5*b", "a b")
    found = stored_heads(done)
    assert found.keys() == {WEIGHT, BIAS, "pooler.weight", "x.score.weight"}
    np.testing.assert_array_equal(found["x.score.weight"], head(4)[WEIGHT])
    assert config_of(done)["modules_to_save"] == sorted(saved)
    text = " ".join(done.plan.notes)
    assert "`classifier` averaged" in text
    assert "`pooler` taken over from a" in text
    assert "`x.score` taken over from b" in text


def test_a_head_of_an_operand_that_cancels(folders: Folders) -> None:
    """`a` has weight zero: its head is neither averaged in nor lost without a word."""
    done = folders.compose("b + a - a", "a b")
    np.testing.assert_allclose(stored_heads(done)[WEIGHT], folders.heads["b"][WEIGHT], atol=1e-7)


def test_a_sequence_classifier_without_a_head_is_loadable(tmp_path: Path) -> None:
    """PEFT adds `classifier` to modules_to_save by itself for this task type."""
    folders = Folders(tmp_path)
    folders.add("a", head(1), task_type="SEQ_CLS").add("b", head(2), task_type="SEQ_CLS")
    done = folders.compose("a - b", "a b", heads="drop")
    assert config_of(done)["task_type"] is None
    kept = folders.root / "kept"
    kept.mkdir()
    again = Folders(kept).add("a", head(1), task_type="SEQ_CLS").add("b", head(2), task_type="SEQ_CLS")  # fmt: skip
    assert config_of(again.compose("0.5*a + 0.5*b", "a b"))["task_type"] == "SEQ_CLS"


def test_many_names_of_heads_take_no_time_by_pairs(tmp_path: Path) -> None:
    heads = {f"{PREFIX}a.b.c.head{i}.weight": np.ones((1, 1), "f4") for i in range(300)}
    wanted = [f"name{i}" for i in range(200_000)] + [f"c.head{i}" for i in range(300)]
    folders, start = Folders(tmp_path).add("a", heads, modules_to_save=wanted), time.monotonic()
    assert len(pemath.inspect(folders.written["a"]).heads) == 300
    assert time.monotonic() - start < 10  # by pairs it takes a minute


def test_unknown_tensors_are_no_heads(tmp_path: Path) -> None:
    folders = Folders(tmp_path).add("a", {"other.weight": head(1)[WEIGHT]})
    with pytest.raises(pemath.PemathError, match=r"other\.weight"):
        folders.compose("2*a", "a")


# ---------------------------------------------------------------------------------- trained biases


def test_trained_biases_average_like_heads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4)).astype("f4")
    folders = Folders(tmp_path)
    folders.add("a", {"layer.q.bias": first}, bias="lora_only", modules_to_save=None)
    folders.add("b", {"layer.q.bias": second}, bias="lora_only", modules_to_save=None)
    done = folders.compose("0.3*a + 0.7*b", "a b")
    (found,) = stored_heads(done).values()
    np.testing.assert_allclose(found, 0.3 * first + 0.7 * second, rtol=1e-6, atol=1e-7)
    assert config_of(done)["bias"] == "lora_only"
    assert config_of(done)["modules_to_save"] is None


@pytest.mark.parametrize("expression", ["a - b", "2*a", "2*a + bare", "0.5*a + 0.5*bare"])
def test_a_bias_that_the_base_must_tell_is_refused(tmp_path: Path, expression: str) -> None:
    """A bias is an absolute value: b = b0 + Σc(b - b0) needs b0 unless the weights sum to one."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4)).astype("f4")
    folders = Folders(tmp_path).add("bare")
    folders.add("a", {"layer.q.bias": first}, bias="all", modules_to_save=None)
    folders.add("b", {"layer.q.bias": second}, bias="all", modules_to_save=None)
    names = "a b" if "b" in expression.replace("bare", "") else "a bare" if "bare" in expression else "a"  # fmt: skip
    with pytest.raises(HeadChoiceNeeded, match="bias"):
        folders.compose(expression, names)
    dropped = folders.compose(expression, names, heads="drop")
    assert not stored_heads(dropped)
    assert config_of(dropped)["bias"] == "none"


def test_a_bias_of_weight_one_is_taken_over(tmp_path: Path) -> None:
    """b0 + 1·(b - b0): what the others lack, they do not change."""
    bias = np.arange(4, dtype="f4")
    folders = Folders(tmp_path).add("bare")
    folders.add("a", {"layer.q.bias": bias}, bias="all", modules_to_save=None)
    done = folders.compose("a - 3*bare", "a bare")
    np.testing.assert_array_equal(stored_heads(done)["layer.q.bias"], bias)
