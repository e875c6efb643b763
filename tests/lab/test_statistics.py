"""Statistics against a brute force: rows one by one, without padding, in plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from pemath.errors import LayoutError, StorageError
from pemath.formats.files import sha256
from pemath.formats.floats import Array
from pemath.formats.peft import PREFIX

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pemath.lab.statistics.collect import collect  # noqa: E402

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
ROWS = [[3, 14, 15, 9, 2, 6], [5, 8, 9], [7, 1, 1, 2], [11]]
LABELS = [0, 2, 1, 1]


def bert(labels: int = 3) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        **SIZES, intermediate_size=24, max_position_embeddings=16, num_labels=labels
    )
    return BertForSequenceClassification(config).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_head=2, n_layer=1, n_positions=16, vocab_size=30)
    ).eval()


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=30,
                 decoder_start_token_id=0)
    ).eval()  # fmt: skip


def adapted(base: Any, kind: str, folder: Path, **settings: Any) -> Any:
    """A PEFT model with random weights in the adapter, saved into `folder`."""
    from peft import IA3Config, LoraConfig, get_peft_model

    if kind == "lora":
        config: Any = LoraConfig(r=3, lora_alpha=6, lora_dropout=0.5, **settings)
    else:
        config = IA3Config(**settings)
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "ia3_l" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * noise)
    model.eval().save_pretrained(str(folder), save_embedding_layers=False)
    return model


def lora(folder: Path) -> Any:
    return adapted(
        bert(),
        "lora",
        folder,
        task_type="SEQ_CLS",
        target_modules=["query", "value", "output.dense"],
    )


def ia3(folder: Path) -> Any:
    return adapted(
        bert(), "ia3", folder, task_type="SEQ_CLS", target_modules=["key", "output.dense"],
        feedforward_modules=["output.dense"],
    )  # fmt: skip


def full(folder: Path) -> Any:
    """A fine-tuned model; the folder holds made-up deltas, which nothing here looks at."""
    from safetensors.numpy import save_file

    model = bert()
    folder.mkdir()
    deltas = {PREFIX + n: np.ones(tuple(p.shape), "f4") for n, p in model.named_parameters()}
    save_file(deltas, folder / "adapter_model.safetensors")
    config = {"peft_type": "FULL", "task_type": "SEQ_CLS", "base_model_name_or_path": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return model


MODELS: dict[str, Callable[[Path], Any]] = {"lora": lora, "ia3": ia3, "full": full}
every_kind = pytest.mark.parametrize("kind", MODELS)


def batch(rows: list[list[int]], labels: Any, *, left: bool = False) -> dict[str, Any]:
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    ids = [p + r if left else r + p for r, p in zip(rows, pads, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [p + o if left else o + p for o, p in zip(ones, pads, strict=True)]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


def batches() -> Iterator[dict[str, Any]]:
    yield batch(ROWS[:3], LABELS[:3])
    yield batch(ROWS[3:], LABELS[3:])


def singles() -> Iterator[dict[str, Any]]:
    for row, label in zip(ROWS, LABELS, strict=True):
        yield {"input_ids": torch.tensor([row]), "labels": torch.tensor([label])}


def seen(model: Any, kind: str, site: str) -> Array:
    """All vectors that reach the site (or leave it, for an (IA)³ on outputs), one row after another."""
    found: list[Array] = []
    before, after = model, None
    module = model.get_submodule(site.removesuffix(".weight") if kind == "full" else PREFIX + site)
    if kind == "ia3" and not module.is_feedforward:
        after = module.base_layer
    else:
        before = module

    def keep(value: Any) -> None:
        found.append(value.detach().reshape(-1, value.shape[-1]).double().numpy())

    if after is not None:
        handle = after.register_forward_hook(lambda m, i, o: keep(o))
    else:
        handle = before.register_forward_pre_hook(lambda m, i: keep(i[0]))
    with torch.no_grad():
        for single in singles():
            model(**single)
    handle.remove()
    return np.concatenate(found)


def squared_gradients(model: Any, kind: str) -> dict[str, Array]:
    """E over rows and, exactly, over labels, by one backward pass for each."""
    named = dict(model.named_parameters())
    totals = {name: np.zeros(tuple(p.shape)) for name, p in named.items()}
    for single in singles():
        for label in range(3):
            model.zero_grad()
            log_p = model(input_ids=single["input_ids"]).logits.log_softmax(-1)[0, label]
            log_p.backward()
            share = float(log_p.detach().exp())
            for name, parameter in named.items():
                if parameter.grad is not None:
                    totals[name] += share * parameter.grad.double().numpy() ** 2 / len(ROWS)
    prefix = PREFIX if kind == "full" else ""
    return {prefix + name.replace(".default", ""): total for name, total in totals.items()}


def close(found: Array, wanted: Array) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-20 + 1e-6 * np.abs(wanted).max())


@every_kind
def test_gram_matrices(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind](tmp_path / "x")
    path = collect(tmp_path / "x", model, batches())
    assert path == tmp_path / "x" / "statistics.safetensors"
    found = load_file(path)
    modules = {"lora": 2 * 4, "ia3": 2 * 3, "full": 2 * 6 + 2}[kind]
    assert len(found) == modules
    assert all(name.startswith("gram.") for name in found)
    for name, moment in found.items():
        vectors = seen(model, kind, name.removeprefix("gram."))
        if kind == "ia3":
            close(moment, (vectors**2).mean(0))
        else:
            close(moment, vectors.T @ vectors / len(vectors))


@every_kind
def test_fisher_information(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind](tmp_path / "x")
    path = collect(tmp_path / "x", model, [], fisher_batches=batches())
    found = load_file(path)
    stored = load_file(tmp_path / "x" / "adapter_model.safetensors")
    heads = {name for name in stored if "classifier" in name and kind != "full"}
    assert {name.removeprefix("fisher.") for name in found} == stored.keys() - heads
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=True)
    wanted = squared_gradients(model, kind)
    for name, information in found.items():
        close(information, wanted[name.removeprefix("fisher.")])
    assert any(information.any() for information in found.values())


def test_metadata(tmp_path: Path) -> None:
    model = lora(tmp_path / "x")
    out = tmp_path / "elsewhere.safetensors"
    assert collect(tmp_path / "x", model, batches(), out, singles(), seed=3) == out
    with safe_open(out, "numpy") as file:
        assert file.metadata() == {
            "adapter": sha256(tmp_path / "x" / "adapter_model.safetensors"),
            "fisher_rows": "4",
            "rows": "4",
            "seed": "3",
            "tokens": "14",
        }
    assert not (tmp_path / "x" / "statistics.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_bytes_again_whatever_the_mode(tmp_path: Path) -> None:
    """Dropout is off while it measures; the model is left as it was."""
    model = lora(tmp_path / "x")
    first = collect(tmp_path / "x", model, batches(), tmp_path / "1", singles())
    model.train()
    model.requires_grad_(requires_grad=False)
    second = collect(tmp_path / "x", model, batches(), tmp_path / "2", singles())
    assert first.read_bytes() == second.read_bytes()
    assert model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_number_has_the_fisher_information_of_a_normal_distribution(tmp_path: Path) -> None:
    model = adapted(bert(1), "lora", tmp_path / "x", task_type="SEQ_CLS", target_modules=["query"])
    single = {"input_ids": torch.tensor([ROWS[0]]), "labels": torch.tensor([0.5])}
    found = load_file(collect(tmp_path / "x", model, [], fisher_batches=[single]))
    model.zero_grad()
    model(**single).logits.sum().backward()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            close(found["fisher." + name.replace(".default", "")], parameter.grad.numpy() ** 2)


def test_a_generative_model_samples_its_answer(tmp_path: Path) -> None:
    """The labels say where the answer stands, and nothing else: padded on the left, kept in part."""
    model = adapted(gpt2(), "lora", tmp_path / "x", task_type="CAUSAL_LM")
    one = batch(ROWS[:3], [[-100, 6], [-100, 9], [-100, 2]], left=True) | {"logits_to_keep": 2}
    other = one | {"labels": torch.tensor([[-100, 1], [-100, 1], [-100, 1]])}
    first = load_file(collect(tmp_path / "x", model, [one], tmp_path / "1", [one], seed=5))
    second = load_file(collect(tmp_path / "x", model, [one], tmp_path / "2", [other], seed=5))
    third = load_file(collect(tmp_path / "x", model, [one], tmp_path / "3", [one], seed=6))
    fisher = [name for name in first if name.startswith("fisher.")]
    assert len(fisher) == 2
    for name in fisher:
        np.testing.assert_array_equal(first[name], second[name])
        assert (first[name] != third[name]).any()
    wanted = np.zeros((3 * 16, 3))
    parameter = next(p for n, p in model.named_parameters() if "lora_B" in n)
    generator = torch.Generator().manual_seed(5)
    for row in range(3):
        model.zero_grad()
        single = {"input_ids": one["input_ids"][row : row + 1],
                  "attention_mask": one["attention_mask"][row : row + 1]}  # fmt: skip
        log_p = model(**single).logits[0, -2].log_softmax(-1)
        drawn = torch.multinomial(log_p.detach().double().exp(), 1, generator=generator)
        log_p[drawn].sum().backward()
        wanted += parameter.grad.numpy() ** 2 / 3
    close(first[next(n for n in fisher if "lora_B" in n)], wanted)


def test_the_two_sides_of_a_sequence_to_sequence_model(tmp_path: Path) -> None:
    """Encoder and decoder are padded differently, also where both have one length."""
    model = adapted(
        t5(), "lora", tmp_path / "x", task_type="SEQ_2_SEQ_LM", target_modules=["q", "k", "wi"]
    )
    answers = [[4, 5, 1], [6, 7, 1, 1, 2, 3], [1]]
    padded = [row + [-100] * (6 - len(row)) for row in answers]
    pairs = zip(ROWS[:3], answers, strict=True)
    alone = [batch([row], [answer]) for row, answer in pairs]
    together = load_file(collect(tmp_path / "x", model, [batch(ROWS[:3], padded)], tmp_path / "1"))
    apart = load_file(collect(tmp_path / "x", model, alone, tmp_path / "2"))
    assert len(together) == 2 + 2 + 4
    for name, moment in together.items():
        close(moment, apart[name])


def test_another_model_is_refused(tmp_path: Path) -> None:
    lora(tmp_path / "x")
    with pytest.raises(LayoutError, match="no module"):
        collect(tmp_path / "x", bert(), batches())
    with pytest.raises(StorageError, match="cannot write"):
        collect(tmp_path / "x", lora(tmp_path / "y"), batches(), tmp_path / "no" / "file")
    assert not (tmp_path / "x" / "statistics.safetensors").exists()


# ------------------------------------------------------------------------------ the verb


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny model with a tokenizer, as a folder."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(25))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    bert().save_pretrained(str(tmp_path / "base"))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    from pemath.lab.data.rows import Row, Task, TaskData

    task = Task(name="t", labels=("x", "y", "z"), metric="accuracy", source="made up")
    rows = tuple(Row(texts=(f"w{i} w{i % 7} w3",), label=i % 3) for i in range(20))
    data = TaskData(task=task, train=rows, validation=(), test=rows, digest="")
    monkeypatch.setattr("pemath.lab.data.tasks.load_task", lambda name, **_: data)


@pytest.mark.usefixtures("_task")
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_the_verb(
    base: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From two adapters to their regression mean, by commands alone."""
    from pemath.cli import main

    for name in ("a", "b"):
        MODELS[kind](tmp_path / name)
        words = ["--model", str(base), "--task", "t", "--rows", "10", "--fisher-rows", "3"]
        main(["lab", "statistics", str(tmp_path / name), *words, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (told["rows"], told["tokens"], told["fisher_rows"]) == ("10", "50", "3")
        assert told["file"] == str(tmp_path / name / "statistics.safetensors")
    bound = [f"{name}={tmp_path / name}" for name in ("a", "b")]
    for method in ("regmean", "fisher"):
        out = ["--out", str(tmp_path / method)]
        main(["compose", f"{method}(a, b)", *bound, *out])
        main(["verify", str(tmp_path / method)])


@pytest.mark.usefixtures("_task")
def test_the_verb_refuses(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pemath.cli import main

    adapted(gpt2(), "lora", tmp_path / "gpt", task_type="CAUSAL_LM")
    for words, code, message in (
        ([str(tmp_path / "gpt")], 3, "does not fit"),
        (["example:sentiment-lora-a"], 2, "not yours to write into"),
        ([str(tmp_path / "gpt"), "--rows", "-1"], 2, "cannot be negative"),
        ([str(tmp_path / "none")], 5, "none"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["lab", "statistics", *words, "--model", str(base), "--task", "t"])
        assert left.value.code == code
        assert message in capsys.readouterr().err
