"""Trials: the same bytes again, nothing done twice, and interrupted work that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pemath.errors import StorageError  # noqa: E402
from pemath.lab import setting as module_under_test  # noqa: E402
from pemath.lab.data.rows import Row, Task  # noqa: E402
from pemath.lab.quiz import Quiz  # noqa: E402
from pemath.lab.setting import Module, Setting  # noqa: E402
from pemath.lab.store import Store  # noqa: E402
from pemath.lab.train import Training  # noqa: E402
from pemath.lab.trials import Trials  # noqa: E402
from pemath.references import WEIGHTS  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

TASK = Task(name="films", labels=("bad", "good"), metric="accuracy")
GOOD = ("good", "great", "fine film", "the film was great", "the film was good", "fine")
BAD = ("bad", "awful", "dull film", "the film was awful", "the film was bad", "dull")
ROWS = [Row((text,), int(text in GOOD)) for pair in zip(GOOD, BAD, strict=True) for text in pair]
LORA = {"target_modules": ["query", "value"], "rank": 4, "alpha": 8}
TRAINING = Training(learning_rate=1e-2, epochs=2, batch_size=4)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(str(save_model("encoder", tmp_path / "model")), TASK, 32, "float32", 7)


def trained(trials: Trials, setting: Setting, **changes: Any) -> Module:
    options: dict[str, Any] = {"pem": "lora", "settings": LORA, "training": TRAINING, "rows": ROWS,
                               "seed": 1, "start": 5} | changes  # fmt: skip
    pem, settings, training, rows = (
        options.pop(name) for name in ("pem", "settings", "training", "rows")
    )
    return trials.module(setting, pem, settings, training, rows, **options)


@pytest.mark.parametrize("pem", ["lora", "ia3", "full"])
def test_equal_keys_give_equal_bytes_and_other_seeds_do_not(
    pem: str, setting: Setting, tmp_path: Path
) -> None:
    settings = {"lora": LORA, "ia3": {"target_modules": ["key"], "feedforward_modules": []}}
    options: dict[str, Any] = {"pem": pem, "settings": settings.get(pem, {})}
    first = trained(Trials(Store(tmp_path / "1")), setting, **options)
    again = trained(Trials(Store(tmp_path / "2")), setting, **options)
    other = trained(Trials(Store(tmp_path / "1")), setting, **options, seed=2)
    assert first.digest == again.digest != other.digest
    content = [(made.folder / WEIGHTS).read_bytes() for made in (first, again, other)]
    assert content[0] == content[1] != content[2]
    assert first.facts["rows"] == len(ROWS)
    assert first.facts["steps"] == 6
    assert first.facts["trainable"] > 0


def test_modules_share_the_saved_initialisation(setting: Setting, tmp_path: Path) -> None:
    """At a learning rate of nearly nothing all that is left is the start: A random, B zero."""
    from safetensors.torch import load_file

    trials = Trials(Store(tmp_path / "store"))
    still = Training(learning_rate=1e-30, max_steps=1, weight_decay=0.0)
    a, b = (trained(trials, setting, training=still, rows=ROWS[i::2]) for i in (0, 1))
    c = trained(trials, setting, training=still, start=6)
    tensors = [load_file(str(made.folder / WEIGHTS)) for made in (a, b, c)]
    for name, tensor in tensors[0].items():
        assert torch.allclose(tensor, tensors[1][name], rtol=0, atol=1e-25)
        if "lora_A" in name:
            assert not torch.allclose(tensor, tensors[2][name])
        if "classifier" in name:  # the head is the setting's, whatever A is
            assert torch.allclose(tensor, tensors[2][name], rtol=0, atol=1e-25)
    assert len(list((tmp_path / "store" / "initialisations").iterdir())) == 2


@pytest.mark.parametrize("pem", ["lora", "ia3", "full"])
def test_training_can_begin_at_a_module(pem: str, setting: Setting, tmp_path: Path) -> None:
    """At a learning rate of nearly nothing what comes out is what went in."""
    from safetensors.torch import load_file

    settings = {"lora": LORA, "ia3": {"target_modules": ["key"], "feedforward_modules": []}}
    options: dict[str, Any] = {"pem": pem, "settings": settings.get(pem, {})}
    trials = Trials(Store(tmp_path / "store"))
    first = trained(trials, setting, **options)
    still = Training(learning_rate=1e-30, max_steps=1, weight_decay=0.0)
    same = trained(trials, setting, **options, training=still, start=first)
    moved = trained(trials, setting, **options, rows=ROWS[::2], start=first)
    begun, kept, further = (load_file(str(m.folder / WEIGHTS)) for m in (first, same, moved))
    assert begun.keys() == kept.keys() == further.keys()
    for name, tensor in begun.items():
        assert torch.allclose(kept[name], tensor, rtol=0, atol=1e-6), name
    assert any(not torch.allclose(further[name], tensor) for name, tensor in begun.items())
    assert (same.pem, same.facts["steps"], moved.facts["rows"]) == (pem, 1, len(ROWS[::2]))
    # One start was saved, and none for what goes on from a module.
    starts = tmp_path / "store" / "initialisations"
    assert (len(list(starts.iterdir())) if starts.exists() else 0) == (pem != "full")


def test_what_a_module_began_with_is_a_part_of_it(setting: Setting, tmp_path: Path) -> None:
    trials = Trials(Store(tmp_path / "store"))
    short = Training(learning_rate=1e-2, max_steps=1, batch_size=4)
    first, other = (trained(trials, setting, training=short, seed=seed) for seed in (1, 2))
    after = [trained(trials, setting, training=short, start=start) for start in (first, other, 5)]
    assert len({module.digest for module in after}) == 3
    assert trained(trials, setting, training=short, start=first) == after[0]


def test_nothing_is_done_twice(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(Store(tmp_path / "store"))
    made = trained(trials, setting)
    quizzes = {"q": Quiz(setting, ROWS)}
    with trials.asking({"a": made}, quizzes, batch_size=4) as ask:
        answered = ask("a", "q")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was done before")

    monkeypatch.setattr(Setting, "base", never)
    assert trained(trials, setting) == made
    with trials.asking({"a": made}, quizzes, batch_size=4) as ask:
        assert ask("a", "q") == answered


def test_the_base_is_loaded_once_for_all_that_is_asked(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(Store(tmp_path / "store"))
    pair = {"a": trained(trials, setting, rows=ROWS[::2]), "b": trained(trials, setting)}
    loads = []
    load = module_under_test.load_model
    monkeypatch.setattr(
        module_under_test, "load_model", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    quizzes = {"all": Quiz(setting, ROWS), "few": Quiz(setting, ROWS[:3])}
    with trials.asking(pair, quizzes, batch_size=4) as ask:
        for tenth in range(11):
            for name in quizzes:
                ask(f"{1 - tenth / 10:.1f}*a + {tenth / 10:.1f}*b", name)
        ends = [ask(name, "all") for name in pair]
    assert len(loads) == 1
    assert ends[0].error_to_exact == 0.0
    # The ends of the sweep are the modules themselves: asked once, eleven weights in all.
    assert len(list((tmp_path / "store" / "answers").iterdir())) == 22


def test_training_that_was_interrupted_goes_on(setting: Setting, tmp_path: Path) -> None:
    long = Training(learning_rate=1e-3, max_steps=210, batch_size=4)
    straight = trained(Trials(Store(tmp_path / "1")), setting, training=long)

    def until(last: int) -> Callable[[str, int, int], None]:
        def progress(what: str, done: int, total: int) -> None:
            seen.append(done)
            if done == last:
                raise KeyboardInterrupt

        return progress

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        trained(Trials(Store(tmp_path / "2"), progress=until(150)), setting, training=long)
    assert not (tmp_path / "2" / "modules").is_dir() or not list(
        (tmp_path / "2" / "modules").iterdir()
    )
    seen.clear()
    resumed = trained(Trials(Store(tmp_path / "2"), progress=until(-1)), setting, training=long)
    assert seen[0] == 103, "from the checkpoint at an end of an epoch, not from the start"
    assert (resumed.folder / WEIGHTS).read_bytes() == (straight.folder / WEIGHTS).read_bytes()
    assert not list((tmp_path / "2" / "unfinished").iterdir())


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot keep finished work"):
        Store(tmp_path / "file").get("modules", {}, lambda folder, scratch: None)


def test_two_that_want_one_piece_make_it_once(tmp_path: Path) -> None:
    import threading
    import time

    store, made = Store(tmp_path), []

    def slow(folder: Path, scratch: Path) -> None:
        made.append(folder)
        time.sleep(0.3)
        (folder / "value").write_text("made")

    threads = [
        threading.Thread(target=lambda: store.get("things", {"x": 1}, slow)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.get("things", {"x": 1}, slow)
    assert len(made) == 1
    assert (found / "value").read_text() == "made"
    assert json.loads((found / "key.json").read_text())["x"] == 1
