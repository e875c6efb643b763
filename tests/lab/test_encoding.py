"""Prompts are cut where it hurts least, and only the answer is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pemath.errors import ConfigError  # noqa: E402
from pemath.lab.data.rows import Row, Task  # noqa: E402
from pemath.lab.encoding import IGNORED, Encoder  # noqa: E402
from pemath.lab.models import family_of, load_model  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

TASK = Task(
    name="nli",
    labels=("yes", "no"),
    metric="accuracy",
    prompt="does {0} imply that {1} answer :",
    words=(" yes", " no maybe"),
)


def encoder(family: str, tmp_path: Path, max_length: int = 24) -> Encoder:
    folder = save_model(family, tmp_path / family)
    assert family_of(str(folder)) == family
    return Encoder(load_model(str(folder), outputs=2 * (family == "encoder")), TASK, max_length)


def text(made: Encoder, ids: Any) -> str:
    return str(made.base.tokenizer.decode(ids, skip_special_tokens=True))


def test_a_long_text_loses_its_end_and_the_prompt_keeps_its_own(tmp_path: Path) -> None:
    made = encoder("causal", tmp_path)
    row = Row((" ".join(["film"] * 90), "good"), 1)
    ids = made.prompt_ids(row)
    assert len(ids) + max(map(len, made.word_ids())) <= 24
    assert text(made, ids).startswith("does film film")
    assert text(made, ids).endswith("imply that good answer :")


def test_only_the_answer_counts_in_the_loss(tmp_path: Path) -> None:
    made = encoder("causal", tmp_path)
    rows = [Row(("film", "good"), 0), Row(("the film was", "bad"), 1)]
    batch = made.collate([made.features(row) for row in rows])
    assert batch["labels"].shape == (2, batch["logits_to_keep"])
    learned = [[int(i) for i in line if i != IGNORED] for line in batch["labels"]]
    assert [text(made, line) for line in learned] == ["yes", "no maybe"]
    whole = torch.full_like(batch["input_ids"], IGNORED)
    whole[:, -batch["labels"].shape[1] :] = batch["labels"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    short = made.base.model(**batch).loss
    full = made.base.model(**inputs, labels=whole).loss
    assert float(short) == pytest.approx(float(full), rel=1e-6)


def test_an_encoder_gets_the_texts_and_the_class(tmp_path: Path) -> None:
    made = encoder("encoder", tmp_path)
    batch = made.collate(
        [made.features(Row(("good film", "bad"), 1)), made.features(Row(("film", "the"), 0))]
    )
    assert batch["labels"].tolist() == [1, 0]
    assert text(made, batch["input_ids"][0]) == "good film bad"


def test_a_task_without_prompt_is_refused_for_a_generative_model(tmp_path: Path) -> None:
    folder = save_model("causal", tmp_path / "m")
    with pytest.raises(ConfigError, match="has no prompt"):
        Encoder(load_model(str(folder)), Task(name="t", labels=("x", "y"), metric="accuracy"), 8)


def test_a_generative_model_is_asked_for_where_there_is_no_head(tmp_path: Path) -> None:
    folder = save_model("encoder", tmp_path / "m")
    with pytest.raises(ConfigError, match="generates no text"):
        load_model(str(folder))


def test_padding_moves_no_positions(tmp_path: Path) -> None:
    """GPT-2 has an embedding for every position: padding on the left must not shift them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from pemath.lab.evaluate import Questions

    made = encoder("causal", tmp_path)
    torch.manual_seed(0)
    made.base.model.config.rope_parameters = None
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            n_embd=16, n_head=2, n_layer=2, n_positions=64, vocab_size=len(made.base.tokenizer)
        )
    ).eval()
    task = Task(
        name="t", labels=("yes", "no"), metric="accuracy", prompt=TASK.prompt, words=(" yes", " no")
    )
    asked = Encoder(type(made.base)("gpt2", "causal", made.base.tokenizer, gpt2), task, 48)
    rows = [Row(("good " * n, "bad"), 0) for n in range(1, 12)]
    features = [asked.features(row) for row in rows]
    padded = asked.collate(features)
    padded.pop("labels")
    logits = gpt2(**padded).logits[:, -1]
    for line, feature in zip(logits, features, strict=True):
        alone = gpt2(input_ids=torch.tensor([feature["input_ids"]])).logits[0, -1]
        assert torch.allclose(line, alone, atol=1e-5)
    together = Questions(asked, rows, 16).ask(gpt2)
    assert together == [Questions(asked, [row], 1).ask(gpt2)[0] for row in rows]


def test_a_model_with_other_new_layers_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_model("encoder", tmp_path / "m")
    weights = load_file(str(folder / "model.safetensors"))
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(kept, str(folder / "model.safetensors"), {"format": "pt"})
    with pytest.raises(ConfigError, match="no weights for"):
        load_model(str(folder), outputs=2)
