"""Texts that are written: batches change nothing, seeds repeat, and the order is the prompts'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pemath.lab.data.rows import Task, Writing  # noqa: E402
from pemath.lab.sampling import Decoding, Sampling  # noqa: E402
from pemath.lab.setting import Setting  # noqa: E402
from pemath.threads import silent  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

PROMPTS = [
    "the film was",
    "does",
    "good good bad that imply",
    "yes",
    "no maybe answer :",
    "dull film",
]
GREEDY = Decoding(new_tokens=7, temperature=0)
DRAWN = Decoding(new_tokens=7)


def sampling(family: str, folder: Path, **changes: Any) -> Sampling:
    """A question of a model that says more than one thing: its random weights are made larger."""
    path = folder / family
    if not path.is_dir():
        save_model(family, path)
        _louder(path)
    setting = Setting(str(path), Writing(name="text"), 24, "float32", 0)
    made = Sampling(setting, PROMPTS, 1, GREEDY, 5)
    return replace(made, **changes)


def _louder(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    torch.manual_seed(3)
    file = folder / "model.safetensors"
    tensors = load_file(str(file))
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor.copy_(torch.randn_like(tensor) * 0.6)
    save_file(tensors, str(file), {"format": "pt"})


def asked(question: Sampling, batch_size: int = 4) -> list[str]:
    base = question.setting.base("lora")
    found: list[str] = question.prepare(base, batch_size)(base.model, silent)
    return found


def greedily(question: Sampling, prompt: str) -> str:
    """Token after token by the whole sequence anew, without a cache and without a batch."""
    base = question.setting.base("lora")
    end = base.model.generation_config.eos_token_id
    read = base.tokenizer(prompt)["input_ids"]
    seq2seq = base.family == "seq2seq"
    new = [base.model.config.decoder_start_token_id] if seq2seq else []
    start = len(new)
    with torch.inference_mode():
        while len(new) - start < question.decoding.new_tokens:
            if seq2seq:
                ids = {"input_ids": [read], "decoder_input_ids": [new]}
            else:
                ids = {"input_ids": [read + new]}
            inputs = {name: torch.tensor(value) for name, value in ids.items()}
            new.append(int(base.model(**inputs).logits[0, -1].argmax()))
            if new[-1] == end:
                break
    return str(base.tokenizer.decode(new[start:], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_greedy_texts_are_those_of_a_plain_loop(family: str, tmp_path: Path) -> None:
    question = sampling(family, tmp_path)
    wanted = [greedily(question, prompt) for prompt in PROMPTS]
    assert len(set(wanted)) > 1, "a test of nothing: the model says the same to every prompt"
    for batch_size in (1, 4, 6):
        assert asked(question, batch_size) == wanted


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_equal_seeds_draw_equal_texts_and_others_do_not(family: str, tmp_path: Path) -> None:
    question = sampling(family, tmp_path, decoding=DRAWN, samples=3)
    first = asked(question)
    assert asked(question) == first
    assert asked(replace(question, seed=6)) != first
    assert len(first) == 3 * len(PROMPTS)
    assert len({*first}) > len(PROMPTS)  # the samples of a prompt differ


def test_the_draw_leaves_no_trace_in_the_generator(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path, decoding=DRAWN)
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    first = asked(question)
    assert torch.equal(torch.rand(3), wanted)
    torch.manual_seed(2)
    assert asked(question) == first


def test_the_order_is_that_of_the_prompts(tmp_path: Path) -> None:
    """Those of one prompt stand together, whatever batches they were in."""
    question = sampling("causal", tmp_path, samples=2)
    single = {
        prompt: asked(replace(question, prompts=[prompt], samples=1))[0] for prompt in PROMPTS
    }
    assert asked(question, 3) == [single[prompt] for prompt in PROMPTS for _ in range(2)]
    backwards = replace(question, prompts=PROMPTS[::-1], samples=1)
    assert asked(backwards) == [single[prompt] for prompt in PROMPTS[::-1]]


def test_only_what_is_new_is_given_and_no_more_of_it_than_asked(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path, decoding=replace(DRAWN, new_tokens=3), samples=8)
    found = asked(question)
    assert all(len(text.split()) <= 3 for text in found)
    assert not any("[" in text for text in found)  # no special tokens
    assert all(text == text.strip() for text in found)


def test_a_narrow_choice_is_the_greedy_one(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path)
    wanted = asked(question)
    assert asked(replace(question, decoding=replace(DRAWN, top_k=1))) == wanted
    assert asked(replace(question, decoding=replace(DRAWN, top_p=1e-6))) == wanted


def test_beams_find_a_likelier_text(tmp_path: Path) -> None:
    """Or the same; none that is less likely, and some that are more."""
    question = sampling("causal", tmp_path)
    base = question.setting.base("lora")

    def likelihood(prompt: str, text: str) -> float:
        ids = base.tokenizer(prompt)["input_ids"]
        new = base.tokenizer(text, add_special_tokens=False)["input_ids"]
        log_p = base.model(input_ids=torch.tensor([ids + new])).logits[0].log_softmax(-1)
        return sum(float(log_p[len(ids) + at - 1, token]) for at, token in enumerate(new))

    four = asked(replace(question, decoding=replace(GREEDY, beams=8)))
    pairs = [
        (likelihood(prompt, one), likelihood(prompt, other))
        for prompt, one, other in zip(PROMPTS, asked(question), four, strict=True)
        if len(one.split()) == len(other.split()) == GREEDY.new_tokens  # none ended early
    ]
    assert pairs
    assert all(other >= one - 1e-4 for one, other in pairs)


def test_what_is_said_again_is_made_less_likely(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path, decoding=replace(GREEDY, new_tokens=12))
    penalised = replace(question, decoding=replace(question.decoding, repetition_penalty=5.0))

    def repeated(texts: list[str]) -> int:
        return sum(len(text.split()) - len({*text.split()}) for text in texts)

    assert repeated(asked(penalised)) < repeated(asked(question))


def test_a_long_prompt_loses_its_beginning(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path, prompts=["film " * 50 + "was good"])
    base = question.setting.base("lora")
    kept = base.tokenizer.decode(base.tokenizer(question.prompts[0])["input_ids"][-24:])
    assert asked(question) == [greedily_after(question, kept)]


def greedily_after(question: Sampling, kept: str) -> str:
    base = question.setting.base("lora")
    read = base.tokenizer(kept, add_special_tokens=False)["input_ids"]
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < question.decoding.new_tokens:
            logits = base.model(input_ids=torch.tensor([read + new])).logits[0, -1]
            new.append(int(logits.argmax()))
            if new[-1] == base.model.generation_config.eos_token_id:
                break
    return str(base.tokenizer.decode(new, skip_special_tokens=True)).strip()


def test_keys_tell_questions_apart(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path)
    others = [
        replace(question, **change)
        for change in (
            {"prompts": PROMPTS[:2]},
            {"samples": 2},
            {"seed": 6},
            {"decoding": DRAWN},
            {"decoding": replace(GREEDY, repetition_penalty=1.5)},
            {"setting": replace(question.setting, task=Writing(name="text", chat=True))},
        )
    ]
    keys = [repr(sorted(one.key().items())) for one in (question, *others)]
    assert len(set(keys)) == len(keys)
    assert replace(question, prompts=tuple(PROMPTS)).key() == question.key()


def test_options_of_a_checkpoint_do_not_stand_beside() -> None:
    assert Decoding(temperature=0).options()["temperature"] is None
    assert Decoding(temperature=0).options()["do_sample"] is False
    drawn = Decoding().options()
    assert (drawn["do_sample"], drawn["top_k"], drawn["temperature"]) == (True, 50, 1.0)


def test_labels_are_not_written(tmp_path: Path) -> None:
    question = sampling("causal", tmp_path)
    task = Task(
        name="x", labels=("no", "yes"), metric="accuracy", prompt="{0}", words=(" no", " yes")
    )
    with pytest.raises(TypeError, match="is no label"):
        asked(replace(question, setting=replace(question.setting, task=task)))
