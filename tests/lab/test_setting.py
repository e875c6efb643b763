"""Settings: what tells results apart, and what does not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pemath.lab.data.rows import Row, Task, Writing  # noqa: E402
from pemath.lab.encoding import Encoder  # noqa: E402
from pemath.lab.quiz import Quiz  # noqa: E402
from pemath.lab.setting import Module, Setting, digest_of  # noqa: E402
from pemath.lab.writing import Writer  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

TASK = Task(
    name="films", labels=("bad", "good"), metric="accuracy", prompt="{0} :", words=(" bad", " good")
)
TEXT = Writing(name="text")


def setting(folder: Path, family: str = "causal", task: Task | Writing = TEXT) -> Setting:
    path = folder / family
    if not path.is_dir():
        save_model(family, path)
    return Setting(str(path), task, 16, "float32", 0)


def test_every_field_tells_results_apart_but_the_name(tmp_path: Path) -> None:
    one = setting(tmp_path)
    others = [
        replace(one, **change)
        for change in (
            {"max_length": 17},
            {"dtype": "bfloat16"},
            {"head_seed": 1},
            {"task": Writing(name="text", chat=True)},
            {"task": Writing(name="text", closed=False)},
            {"task": TASK},
            {"model": "elsewhere"},
        )
    ]
    keys = [repr(sorted(each.key().items())) for each in (one, *others)]
    assert len(set(keys)) == len(keys)
    assert replace(one, task=Writing(name="other")).key() == one.key()


def test_prompts_do_not_change_the_start(tmp_path: Path) -> None:
    """Modules of all tasks of a model that writes begin with the same saved tensors."""
    keys = [setting(tmp_path, task=task).base_key() for task in (TEXT, TASK)]
    assert keys[0] == keys[1]
    three = replace(TASK, labels=("a", "b", "c"))
    heads = [setting(tmp_path, "encoder", task).base_key() for task in (TASK, three)]
    assert heads[0] != heads[1]


def test_a_head_is_for_tasks_of_an_encoder(tmp_path: Path) -> None:
    regression = replace(TASK, labels=())
    assert setting(tmp_path, "encoder", TASK).outputs == 2
    assert setting(tmp_path, "encoder", regression).outputs == 1
    assert setting(tmp_path, "encoder", TEXT).outputs == 0
    assert setting(tmp_path, "causal", TASK).outputs == 0
    assert setting(tmp_path, "seq2seq", TASK).outputs == 0


def test_rows_are_shown_as_the_task_says(tmp_path: Path) -> None:
    for task, kind in ((TEXT, Writer), (TASK, Encoder)):
        one = setting(tmp_path, task=task)
        assert isinstance(one.encoder(one.base("lora")), kind)


def test_full_fine_tuning_is_in_full_precision(tmp_path: Path) -> None:
    half = replace(setting(tmp_path), dtype="bfloat16")
    kinds = {pem: next(half.base(pem).model.parameters()).dtype for pem in ("lora", "full")}
    assert kinds == {"lora": torch.bfloat16, "full": torch.float32}


def test_other_files_in_the_folder_are_another_model(tmp_path: Path) -> None:
    one = setting(tmp_path)
    before = one.key(), one.base_key()
    os.utime(tmp_path / "causal" / "model.safetensors", ns=(1, 1))
    assert (one.key(), one.base_key()) != before
    assert one.key() != before[0]
    assert one.base_key() != before[1]
    assert "files" not in replace(one, model="pip:smollm2").key()


def test_a_quiz_is_about_labels(tmp_path: Path) -> None:
    rows = [Row(("good",), 1)]
    assert Quiz(setting(tmp_path, task=TASK), rows).task == TASK
    with pytest.raises(TypeError, match="task with labels"):
        Quiz(setting(tmp_path), rows).task  # noqa: B018


def test_the_digest_of_rows() -> None:
    rows = [Row(("a", "b"), 0), Row(("c",), 1)]
    assert digest_of(rows) == digest_of(tuple(rows))
    others = [rows[::-1], rows[:1], [Row(("a", "b"), 1), rows[1]], [Row(("ab",), 0), rows[1]], []]
    assert len({digest_of(one) for one in (rows, *others)}) == 1 + len(others)


def test_a_module_is_called_what_the_store_calls_it() -> None:
    assert Module(Path("store", "modules", "abc"), "lora", {}).digest == "abc"
