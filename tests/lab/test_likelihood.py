"""Likelihoods against plain sums over one row at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pemath.lab.data.rows import Row, Task, Writing  # noqa: E402
from pemath.lab.encoding import IGNORED  # noqa: E402
from pemath.lab.likelihood import Likelihood, Reading  # noqa: E402
from pemath.lab.metrics import METRICS  # noqa: E402
from pemath.lab.perplexity import perplexity  # noqa: E402
from pemath.lab.setting import Setting  # noqa: E402
from pemath.threads import silent  # noqa: E402
from tests.lab.tiny_models import WORDS, save_model  # noqa: E402

ROWS = [
    Row(("the film", "was good"), 0),
    Row(("the film that was", "great great great fine"), 0),
    Row(("does", "no"), 0),
    Row(("review :", "awful dull bad " * 6), 0),  # cut
    Row(("yes no maybe", "good"), 0),
]
PLAIN = [Row(("", row.texts[1]), 0) for row in ROWS]
TEXT = " ".join(WORDS * 3)


def setting(family: str, folder: Path, writing: Writing | Task | None = None) -> Setting:
    writing = writing or Writing(name="text")
    return Setting(str(save_model(family, folder / family)), writing, 16, "float32", 0)


def plainly(made: Setting, row: Row) -> tuple[float, int]:
    """The sum of -log p over the tokens of the text, by the model alone with this row."""
    base = made.base("lora")
    features = made.encoder(base).features(row)
    ids, labels = (torch.tensor(features[name]) for name in ("input_ids", "labels"))
    if base.family == "seq2seq":
        start = torch.tensor([base.model.config.decoder_start_token_id])
        before = torch.cat([start, labels[:-1]])
        output = base.model(input_ids=ids[None], decoder_input_ids=before[None])
        log_p = output.logits[0].log_softmax(-1)
        chosen = [log_p[at, labels[at]] for at in range(len(labels))]
    else:
        log_p = base.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        chosen = [log_p[at - 1, ids[at]] for at in range(1, len(ids)) if labels[at] != IGNORED]
    return -float(sum(chosen)), len(chosen)


def asked(question: Any, batch_size: int = 2) -> list[Any]:
    base = question.setting.base("lora")
    found: list[Any] = question.prepare(base, batch_size)(base.model, silent)
    return found


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
@pytest.mark.parametrize("rows", [ROWS, PLAIN], ids=["prompts", "none"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_sum_what_single_rows_sum(
    family: str, rows: list[Row], batch_size: int, tmp_path: Path
) -> None:
    made = setting(family, tmp_path)
    found = asked(Likelihood(made, rows), batch_size)
    for (loss, count), row in zip(found, rows, strict=True):
        wanted, tokens = plainly(made, row)
        assert count == tokens
        assert loss == pytest.approx(wanted, rel=1e-4)


def test_the_first_token_of_a_text_without_a_prompt_is_given(tmp_path: Path) -> None:
    """Nothing stands before it that could predict it."""
    ((_, count),) = asked(Likelihood(setting("causal", tmp_path), [Row(("", "was good"), 0)]))
    assert count == 2  # good, and the end


def test_the_answers_are_as_many_as_there_are_batches_told_of(tmp_path: Path) -> None:
    made, told = setting("causal", tmp_path), []
    base = made.base("lora")
    answer = Likelihood(made, ROWS).prepare(base, 2)
    answer(base.model, lambda what, done, total: told.append((what, done, total)))
    assert told == [("reading", 1, 3), ("reading", 2, 3), ("reading", 3, 3)]


def test_a_running_text_by_windows_has_the_perplexity_of_the_whole(tmp_path: Path) -> None:
    made = setting("causal", tmp_path)
    base = made.base("lora")
    for window, stride in ((64, 32), (16, 8), (7, 6)):
        pairs = asked(Reading(made, TEXT, window, stride))
        losses, tokens = [loss for loss, _ in pairs], [count for _, count in pairs]
        assert sum(tokens) == len(base.tokenizer(TEXT)["input_ids"]) - 1
        wanted = perplexity(base, base.model, TEXT, window=window, stride=stride)
        assert METRICS["perplexity"](tokens, losses) == pytest.approx(wanted, rel=1e-6)


def test_only_the_first_tokens_are_read(tmp_path: Path) -> None:
    made = setting("causal", tmp_path)
    base = made.base("lora")
    ids = torch.tensor(base.tokenizer(TEXT)["input_ids"][:20])
    wanted = float(base.model(input_ids=ids[None], labels=ids[None]).loss)
    ((loss, count),) = asked(Reading(made, TEXT, 64, 32, tokens=20))
    assert count == 19
    assert math.isclose(loss / count, wanted, rel_tol=1e-4)


def test_keys_tell_questions_apart(tmp_path: Path) -> None:
    made = setting("causal", tmp_path)
    chat = setting("causal", tmp_path, Writing(name="text", chat=True))
    questions = [
        Likelihood(made, ROWS),
        Likelihood(made, PLAIN),
        Likelihood(chat, ROWS),
        Reading(made, TEXT, 64, 32),
        Reading(made, TEXT, 64, 16),
        Reading(made, TEXT, 32, 16),
        Reading(made, TEXT, 64, 32, tokens=9),
        Reading(made, TEXT[:-4], 64, 32),
    ]
    keys = [repr(sorted(one.key().items())) for one in questions]
    assert len(set(keys)) == len(keys)
    assert Likelihood(made, ROWS).key() == Likelihood(made, list(ROWS)).key()


def test_labels_have_no_likelihood_here(tmp_path: Path) -> None:
    task = Task(
        name="x", labels=("no", "yes"), metric="accuracy", prompt="{0}", words=(" no", " yes")
    )
    made = setting("causal", tmp_path, task)
    with pytest.raises(TypeError, match="texts, not of labels"):
        Likelihood(made, ROWS).prepare(made.base("lora"), 2)
