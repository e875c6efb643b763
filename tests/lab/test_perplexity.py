"""Perplexity against one plain pass over the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pemath.errors import ConfigError  # noqa: E402
from pemath.lab.models import load_model  # noqa: E402
from pemath.lab.perplexity import perplexity  # noqa: E402
from tests.lab.tiny_models import WORDS, save_model  # noqa: E402

TEXT = " ".join(WORDS * 3)


def test_one_window_is_the_mean_over_the_text(tmp_path: Path) -> None:
    base = load_model(str(save_model("causal", tmp_path / "m")))
    ids = torch.tensor([base.tokenizer(TEXT)["input_ids"]])
    wanted = base.model(input_ids=ids, labels=ids).loss.exp()
    assert perplexity(base, base.model, TEXT) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (7, 6), (20, 3)])
def test_windows_count_every_token_once(tmp_path: Path, window: int, stride: int) -> None:
    base = load_model(str(save_model("causal", tmp_path / "m")))
    ids = base.tokenizer(TEXT)["input_ids"]
    seen, total = 1, 0.0
    for start in range(0, len(ids), stride):
        piece = torch.tensor([ids[start : start + window]])
        log_p = base.model(input_ids=piece).logits[0].log_softmax(-1).detach()
        for position in range(max(seen, start + 1), min(start + window, len(ids))):
            total -= float(log_p[position - start - 1, ids[position]])
        seen = max(seen, min(start + window, len(ids)))
    wanted = torch.tensor(total / (len(ids) - 1)).exp()
    found = perplexity(base, base.model, TEXT, window=window, stride=stride)
    assert found == pytest.approx(float(wanted), rel=1e-4)


def test_refusals(tmp_path: Path) -> None:
    encoder = load_model(str(save_model("encoder", tmp_path / "e")), outputs=2)
    with pytest.raises(ConfigError, match="has no perplexity"):
        perplexity(encoder, encoder.model, TEXT)
    causal = load_model(str(save_model("causal", tmp_path / "c")))
    with pytest.raises(ValueError, match="smaller than the window"):
        perplexity(causal, causal.model, TEXT, window=8, stride=8)


def test_the_verb_compares_with_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from pemath.cli import app
    from pemath.lab.modules import attach, initialise, save

    monkeypatch.chdir(tmp_path)
    model = str(save_model("causal", tmp_path / "m"))
    (tmp_path / "start").mkdir()
    settings = {"target_modules": ["q_proj", "v_proj"], "rank": 2, "alpha": 2}
    initialise(load_model(model), "lora", settings, 1, tmp_path / "start")
    base = load_model(model)
    loaded = attach(base, "lora", tmp_path / "start", trainable=True)
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    (tmp_path / "a").mkdir()
    save(loaded, base, tmp_path / "a")
    wanted = perplexity(base, loaded.eval(), TEXT)
    (tmp_path / "text.txt").write_text(TEXT)
    app(
        ["evaluate", "-0.6*a", "a=./a", "--model", model, "--data", "text.txt", "--metric",
         "perplexity", "--json"],
        result_action="return_value",
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)["perplexity"]
    plain = load_model(model)
    assert found["a"] == pytest.approx(wanted, rel=1e-4)
    assert found["the base model alone"] == pytest.approx(perplexity(plain, plain.model, TEXT))
    assert found["-0.6*a"] != pytest.approx(found["a"])
