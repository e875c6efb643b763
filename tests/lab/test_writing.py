"""Texts as inputs: what is learned of them, what is cut, and how a chat is put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pemath.errors import ConfigError  # noqa: E402
from pemath.lab.data.rows import Row, Writing  # noqa: E402
from pemath.lab.encoding import IGNORED  # noqa: E402
from pemath.lab.models import load_model  # noqa: E402
from pemath.lab.writing import Writer  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

OPEN, CLOSED = Writing(name="text", closed=False), Writing(name="text")
CHAT = Writing(name="reply", chat=True)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}answer :{% endif %}"
)
FILM = Row(("the film", "was good"), 0)


def writer(family: str, folder: Path, writing: Writing, max_length: int = 24) -> Writer:
    base = load_model(str(save_model(family, folder / family)))
    return Writer(base, writing, max_length)


def text(made: Writer, ids: Any) -> str:
    return str(made.base.tokenizer.decode(ids))


def learned(features: dict[str, Any]) -> list[int]:
    return [i for i in features["labels"] if i != IGNORED]


def test_only_the_text_is_learned_and_its_end(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CLOSED)
    features = made.features(FILM)
    prompt = made.prompt_ids("the film")
    assert features["input_ids"][: len(prompt)] == prompt
    assert features["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    assert len(features["labels"]) == len(features["input_ids"])
    assert text(made, learned(features)) == "was good [SEP]"
    assert features["input_ids"][len(prompt) :] == learned(features)


def test_an_open_text_has_no_end(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, OPEN)
    assert text(made, learned(made.features(FILM))) == "was good"


def test_without_a_prompt_everything_is_learned(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CLOSED)
    features = made.features(Row(("", "the film was good"), 0))
    assert features["labels"] == features["input_ids"]
    assert text(made, features["input_ids"]) == "the film was good [SEP]"


def test_a_long_text_loses_its_end_and_a_long_prompt_its_beginning(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CLOSED, max_length=8)
    features = made.features(Row(("", "film " * 20), 0))
    assert len(features["input_ids"]) == 8
    assert made.base.tokenizer.eos_token_id not in features["input_ids"]  # the end was cut off
    features = made.features(Row(("yes " * 20 + "no", "was good"), 0))
    assert features["input_ids"][:5] == made.prompt_ids("yes " * 20 + "no")[-5:]
    assert text(made, learned(features)) == "was good [SEP]"  # a short text leaves the prompt room
    features = made.features(Row(("yes " * 20 + "no", "good " * 20), 0))
    assert features["input_ids"][:4] == made.prompt_ids("yes " * 20 + "no")[-4:]
    assert text(made, learned(features)) == "good good good good"


def test_what_ends_an_input_stays_its_end(tmp_path: Path) -> None:
    made = writer("seq2seq", tmp_path, CLOSED, max_length=8)
    ids = made.features(Row(("film " * 20, "was good"), 0))["input_ids"]
    assert (len(ids), ids[-1]) == (8, made.base.tokenizer.eos_token_id)


def test_a_batch_is_padded_where_nothing_is_learned(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CLOSED)
    rows = [FILM, Row(("", "the film was very very good"), 0)]
    features = [made.features(row) for row in rows]
    batch = made.collate(features)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    for line, one in enumerate(features):
        count = len(one["input_ids"])
        assert batch["attention_mask"][line].tolist() == [1] * count + [0] * (
            batch["input_ids"].shape[1] - count
        )
        assert batch["input_ids"][line, :count].tolist() == one["input_ids"]
        assert set(batch["labels"][line, count:].tolist()) <= {IGNORED}
        assert set(batch["input_ids"][line, count:].tolist()) <= {made.pad_id}


def test_what_is_learned_is_the_mean_over_the_text(tmp_path: Path) -> None:
    """As the model's own loss has it."""
    made = writer("causal", tmp_path, CLOSED)
    features = made.features(FILM)
    ids = torch.tensor(features["input_ids"])
    log_p = made.base.model(input_ids=ids[None]).logits[0].log_softmax(-1).detach()
    start = len(made.prompt_ids("the film"))
    wanted = -torch.stack([log_p[at - 1, ids[at]] for at in range(start, len(ids))]).mean()
    loss = made.base.model(**made.collate([features])).loss.detach()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)


def test_a_chat_is_put_as_its_template_puts_it(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CHAT)
    made.base.tokenizer.chat_template = TEMPLATE
    ids = made.prompt_ids("the film")
    assert text(made, ids) == "[UNK] : the film answer :"  # "user" is not among its words
    features = made.features(FILM)
    assert features["input_ids"][: len(ids)] == ids
    assert text(made, learned(features)) == "was good [SEP]"


def test_a_chat_without_a_template_is_put_plainly(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CHAT)
    assert made.base.tokenizer.chat_template is None
    wanted = made.base.tokenizer("Instruction: the film\nReply:")["input_ids"]
    assert made.prompt_ids("the film") == wanted
    assert text(made, learned(made.features(FILM))) == "was good [SEP]"


def test_a_template_is_for_chats_alone(tmp_path: Path) -> None:
    made = writer("causal", tmp_path, CLOSED)
    plain = made.prompt_ids("the film")
    made.base.tokenizer.chat_template = TEMPLATE
    assert made.prompt_ids("the film") == plain == made.base.tokenizer("the film")["input_ids"]


def test_a_model_of_two_sides_reads_the_prompt_and_writes_the_text(tmp_path: Path) -> None:
    made = writer("seq2seq", tmp_path, CLOSED, max_length=6)
    features = made.features(FILM)
    assert text(made, features["input_ids"]) == "[CLS] the film [SEP]"
    assert text(made, features["labels"]) == "was good [SEP]"
    long = made.features(Row(("film " * 20, "good " * 20), 0))
    assert (len(long["input_ids"]), len(long["labels"])) == (6, 6)
    empty = made.features(Row(("", "was good"), 0))
    assert text(made, empty["input_ids"]) == "[CLS] [SEP]"  # an encoder reads something
    batch = made.collate([features, long])
    assert batch["labels"].shape == (2, 6)
    assert batch["labels"][0].tolist() == [*features["labels"], *[IGNORED] * 3]
    assert torch.isfinite(made.base.model(**batch).loss)


def test_an_encoder_writes_nothing(tmp_path: Path) -> None:
    base = load_model(str(save_model("encoder", tmp_path / "m")), outputs=2)
    with pytest.raises(ConfigError, match="writes no text"):
        Writer(base, CLOSED, 16)
