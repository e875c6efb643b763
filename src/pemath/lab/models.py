"""Base models and their tokenizers, loaded by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pemath.errors import ConfigError, MissingExtra, ReferenceNotFound
from pemath.names import display, listing

Family = Literal["encoder", "causal", "seq2seq"]


@dataclass(frozen=True, eq=False)
class Base:
    """A base model with its tokenizer. `name` is what adapters call it, `family` how it answers:
    by a classification head (encoder) or by the likelihood of label words (causal, seq2seq).
    """

    name: str
    family: Family
    tokenizer: Any
    model: Any

    @property
    def device(self) -> Any:
        """Where the model lies."""
        return next(self.model.parameters()).device


def device() -> str:
    """`cuda` where there is a GPU, else `cpu`. Raises MissingExtra without torch."""
    try:
        import torch
    except ImportError as missing:
        raise missing_lab(str(missing.name)) from missing
    return "cuda" if torch.cuda.is_available() else "cpu"


def missing_lab(package: str) -> MissingExtra:
    """The refusal where the extra is not installed."""
    return MissingExtra(
        f"the laboratory needs `{package}`, which is not installed",
        hint='pip install "pemath[lab]"',
    )


def require(*packages: str) -> None:
    """Refuse before any work what a missing package would stop later. Raises MissingExtra."""
    for package in packages:
        if find_spec(package) is None:
            raise missing_lab(package)


def family_of(name: str) -> Family:
    """How the model called `name` answers, from its config alone.

    Raises: MissingExtra, ReferenceNotFound.
    """
    config = _config(_located(name))
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    architectures = getattr(config, "architectures", None) or []
    generative = any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in architectures)
    return "causal" if generative else "encoder"


def load_model(name: str, *, outputs: int = 0, seed: int = 0, dtype: str = "float32") -> Base:
    """The model called `name`, in evaluation mode, on the GPU if there is one.

    `name` is a pip-shipped model (`pip:minilm`), a folder, or a name on the hub. `outputs` is the
    width of a classification head (1 for regression, 0 for a generative model); a head that the
    weights lack, or have in another width, is drawn from `seed`. Raises: MissingExtra, ReferenceNotFound, ConfigError.
    """
    where = device()
    try:
        import torch
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSeq2SeqLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )
    except ImportError as missing:
        raise missing_lab(str(missing.name)) from missing
    located = _located(name)
    family = family_of(name)
    if family == "encoder" and not outputs:
        raise ConfigError(
            f"`{display(name)}` generates no text",
            expected="a causal or a sequence-to-sequence model",
            hint="pip:smollm2 is one that needs no download",
        )
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    classes = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    head: Any = classes.get(family, AutoModelForSequenceClassification)
    if outputs:
        family, head = "encoder", AutoModelForSequenceClassification
        options |= {"num_labels": outputs, "ignore_mismatched_sizes": True}
        if outputs == 1:
            options["problem_type"] = "regression"
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            tokenizer = AutoTokenizer.from_pretrained(located)
            model, loaded = head.from_pretrained(located, output_loading_info=True, **options)
        except (OSError, ValueError) as error:
            raise _not_found(name, error) from None
    _refuse_lost_layers(name, loaded["missing_keys"] if outputs else ())
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Base(_public_name(name), family, tokenizer, model.eval().to(where))


def on_device_of(model: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that moves a batch to where the model lies."""
    device = next(model.parameters()).device

    def moved(batch: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}

    return moved


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no notes of transformers: it warns that a head is new, and here it is
    always.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _refuse_lost_layers(name: str, missing: Iterable[str]) -> None:
    """New layers are trained and saved as the head; of others an adapter would know nothing."""
    tops = sorted({key.split(".", 1)[0] for key in missing})
    lost = [top for top in tops if not top.endswith(("classifier", "score"))]
    if lost:
        raise ConfigError(
            f"`{display(name)}` has no weights for {listing(lost)}",
            expected="a model in which only the classification head is new",
            hint="choose another base model: these layers would be random, and in no adapter",
        )


def _located(name: str) -> str:
    if name.startswith("pip:"):
        from pemath.lab.assets import find

        return str(find(name))
    return name


def _config(located: str) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as missing:
        raise missing_lab(str(missing.name)) from missing
    with quiet():
        try:
            return AutoConfig.from_pretrained(located)
        except (OSError, ValueError) as error:
            raise _not_found(located, error) from None


def _public_name(name: str) -> str:
    """What an adapter's config calls the base: the hub's name of a pip-shipped model."""
    if name.startswith("pip:"):
        from pemath.lab.assets import ASSETS

        return str(ASSETS[name].hub_name)
    return os.path.abspath(name) if Path(name).is_dir() else name


def _not_found(name: str, error: Exception) -> ReferenceNotFound:
    return ReferenceNotFound(
        f"the model `{display(name)}` cannot be loaded",
        where=display(str(error).split("\n", 1)[0], 200),
        expected="a folder of transformers, a name on the hub, or a pip-shipped model",
        hint="`pemath lab assets` lists the models that need no hub",
    )
