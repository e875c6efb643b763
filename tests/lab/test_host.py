"""What a swapped module answers, against PEFT's own loading and against dense float64 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pemath.composition.run import compose  # noqa: E402
from pemath.errors import LayoutError  # noqa: E402
from pemath.lab.data.rows import Row, Task  # noqa: E402
from pemath.lab.encoding import Encoder  # noqa: E402
from pemath.lab.evaluate import Host, Questions  # noqa: E402
from pemath.lab.models import load_model  # noqa: E402
from pemath.lab.modules import attach, initialise, parameters_of, read_tensors, save  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

SETTINGS = {
    "encoder": {"lora": {"target_modules": ["query", "value"], "rank": 4, "alpha": 8},
                "ia3": {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]}},
    "causal": {"lora": {"target_modules": ["q_proj", "v_proj"], "rank": 4, "alpha": 8},
               "ia3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}},
    "seq2seq": {"lora": {"target_modules": ["q", "v"], "rank": 4, "alpha": 8},
                "ia3": {"target_modules": ["k", "wo"], "feedforward_modules": ["wo"]}},
}  # fmt: skip
TASK = Task(
    name="films",
    labels=("bad", "good"),
    metric="accuracy",
    prompt="review : {0} answer :",
    words=(" bad", " good"),
)
ROWS = [
    Row((text,), 0) for text in ("the film was good", "awful", "great fine dull film", "the the")
]


def base_of(family: str, tmp_path: Path) -> Any:
    folder = tmp_path / family
    if not folder.is_dir():
        save_model(family, folder)
    return load_model(str(folder), outputs=2 if family == "encoder" else 0, seed=3)


def module(family: str, pem: str, tmp_path: Path, seed: int) -> Path:
    """A module with random numbers everywhere, head included."""
    folder = tmp_path / f"{pem}-{seed}"
    folder.mkdir()
    base = base_of(family, tmp_path)
    generator = torch.Generator().manual_seed(seed)
    before = parameters_of(base)
    if pem != "full":
        initialise(base, pem, SETTINGS[family][pem], seed, folder)
        model = attach(base_of(family, tmp_path), pem, folder, trainable=True)
    else:
        model = base.model.requires_grad_()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save(model, base, folder, before if pem == "full" else None)
    return folder


def logits(model: Any, encoder: Encoder) -> np.ndarray[Any, Any]:
    batch = encoder.collate([encoder.features(row) for row in ROWS])
    batch.pop("labels") if encoder.base.family == "encoder" else None
    with torch.inference_mode():
        return model(**batch).logits.double().numpy()


@pytest.mark.parametrize("pem", ["lora", "ia3", "full"])
@pytest.mark.parametrize("family", ["encoder", "causal", "seq2seq"])
def test_a_swapped_module_answers_as_one_that_was_loaded(
    family: str, pem: str, tmp_path: Path
) -> None:
    a, b = (module(family, pem, tmp_path, seed) for seed in (1, 2))
    composed = [
        compose(text, tmp_path / f"c{i}", operands=operands, heads="average").folder
        for i, (text, operands) in enumerate(
            (("a", {"a": a}), ("b", {"b": b}), ("0.3*a + 0.7*b", {"a": a, "b": b}))
        )
    ]
    host = Host(base_of(family, tmp_path), pem, composed[0])
    encoder = Encoder(base_of(family, tmp_path), TASK, 32)
    for folder in (composed[2], composed[0], composed[1], composed[2]):
        host.swap(folder)
        loaded = attach(base_of(family, tmp_path), pem, folder).eval()
        np.testing.assert_allclose(logits(host.model, encoder), logits(loaded, encoder), atol=1e-6)
    separate = attach(base_of(family, tmp_path), pem, a).eval()
    host.swap(composed[0])
    np.testing.assert_allclose(logits(host.model, encoder), logits(separate, encoder), atol=2e-5)


def test_a_full_module_is_the_difference_to_the_base(tmp_path: Path) -> None:
    folder = module("encoder", "full", tmp_path, 1)
    base = base_of("encoder", tmp_path)
    before = {name: value.double() for name, value in parameters_of(base).items()}
    model = attach(base, "full", folder)
    deltas = read_tensors(folder)
    for name, parameter in model.named_parameters():
        wanted = before[name] + deltas[f"base_model.model.{name}"].double()
        np.testing.assert_allclose(parameter.detach().double(), wanted, atol=1e-7)
    assert all(float(delta.abs().max()) > 0 for delta in deltas.values())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    lora, ia3 = (module("encoder", pem, tmp_path, 1) for pem in ("lora", "ia3"))
    host = Host(base_of("encoder", tmp_path), "lora", lora)
    with pytest.raises(LayoutError, match="does not fit the model"):
        host.swap(ia3)


def test_raw_folders_keep_their_scaling(tmp_path: Path) -> None:
    raw = module("encoder", "lora", tmp_path, 1)  # alpha / r = 2, not folded in
    host = Host(base_of("encoder", tmp_path), "lora", raw)
    encoder = Encoder(base_of("encoder", tmp_path), TASK, 32)
    loaded = attach(base_of("encoder", tmp_path), "lora", raw).eval()
    np.testing.assert_allclose(logits(host.model, encoder), logits(loaded, encoder), atol=1e-6)


@pytest.mark.parametrize("family", ["encoder", "causal", "seq2seq"])
@pytest.mark.parametrize("words", [(" bad", " good"), (" bad film", " good")])
def test_answers_do_not_depend_on_the_batch(
    family: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    base = base_of(family, tmp_path)
    task = Task(name="t", labels=TASK.labels, metric="accuracy", prompt=TASK.prompt, words=words)
    encoder = Encoder(base, task, 32)
    together = Questions(encoder, ROWS, 4).ask(base.model)
    alone = [Questions(encoder, [row], 1).ask(base.model)[0] for row in ROWS]
    assert together == alone


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
@pytest.mark.parametrize("words", [(" bad", " good"), (" bad film", " good dull")])
def test_the_answer_is_the_likeliest_word(
    family: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """Log-likelihoods from one plain forward pass for each word, without padding or caching."""
    base = base_of(family, tmp_path)
    task = Task(name="t", labels=TASK.labels, metric="accuracy", prompt=TASK.prompt, words=words)
    encoder = Encoder(base, task, 32)
    for row, answer in zip(ROWS, Questions(encoder, ROWS, 4).ask(base.model), strict=True):
        scores = []
        for word in encoder.word_ids():
            prompt = encoder.prompt_ids(row)
            if family == "causal":
                ids = torch.tensor([prompt + word])
                log_p = base.model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            else:
                labels = torch.tensor([word])
                ids = torch.tensor([prompt])
                log_p = base.model(input_ids=ids, labels=labels).logits.log_softmax(-1)[0]
            scores.append(sum(float(line[i].detach()) for line, i in zip(log_p, word, strict=True)))
        assert answer == int(np.argmax(scores))


def test_regression_gives_numbers(tmp_path: Path) -> None:
    save_model("encoder", tmp_path / "m")
    base = load_model(str(tmp_path / "m"), outputs=1, seed=1)
    task = Task(name="t", labels=(), metric="pearson_spearman")
    answers = Questions(Encoder(base, task, 32), ROWS, 4).ask(base.model)
    assert all(isinstance(answer, float) for answer in answers)
    assert len(set(answers)) == len(ROWS)
