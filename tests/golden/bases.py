"""Tiny base models with random weights, and one fixed input for each."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

VOCABULARY = 40
TOKENS = torch.tensor([[3, 14, 15, 9, 2, 6], [5, 35, 8, 9, 7, 1]])
SIZES = {"num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
MOE = {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 2, "num_experts_per_tok": 2}


class Net(nn.Module):
    """Layers that are no transformer's: convolutions of every dimension, an embedding, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.line = nn.Conv1d(6, 8, 3, stride=2, padding=1)
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(6, 8, 1)
        self.volume = nn.Conv3d(2, 4, (2, 3, 3), padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8 + 8 + 4, 5)

    def forward(
        self, words: torch.Tensor, image: torch.Tensor, volume: torch.Tensor
    ) -> torch.Tensor:
        line = torch.tanh(self.line(self.words(words).transpose(1, 2))).transpose(1, 2)
        line = line + self.attention(line, line, line)[0]
        image = torch.tanh(self.point(torch.tanh(self.stem(image))))
        volume = torch.tanh(self.volume(volume))
        pooled = [line.mean(1), image.mean((2, 3)), volume.mean((2, 3, 4))]
        return self.head(torch.cat(pooled, 1))


class GroupedNet(nn.Module):
    """A convolution whose channels come in two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.grouped(torch.tanh(self.stem(image))).mean((2, 3))


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(**SIZES, num_hidden_layers=2, vocab_size=VOCABULARY, max_position_embeddings=16)
    )


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=VOCABULARY, tie_word_embeddings=False))


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(**SIZES, num_hidden_layers=2, num_key_value_heads=2, vocab_size=VOCABULARY)
    )


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2}
    return T5ForConditionalGeneration(
        T5Config(**sizes, vocab_size=VOCABULARY, feed_forward_proj="gated-gelu")
    )


def _mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return _eager_experts(
        MixtralForCausalLM(MixtralConfig(**MOE, vocab_size=VOCABULARY, num_local_experts=4))
    )


def _gpt_oss() -> nn.Module:
    from transformers import GptOssConfig, GptOssForCausalLM

    return _eager_experts(
        GptOssForCausalLM(
            GptOssConfig(**MOE, vocab_size=VOCABULARY, num_local_experts=4, head_dim=8)
        )
    )


def _eager_experts(model: nn.Module) -> nn.Module:
    model.set_experts_implementation("eager")  # the grouped kernels know no float64
    return model


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
    "mixtral": _mixtral,
    "gpt_oss": _gpt_oss,
    "net": Net,
    "grouped_net": GroupedNet,
}


@functools.cache
def _built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        model = BUILDERS[name]()
        with torch.no_grad():  # biases and norms are not zero in a trained model
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of PEFT and transformers; they are not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def base(name: str) -> nn.Module:
    """A fresh copy of the base model `name`, always with the same float32 weights."""
    return copy.deepcopy(_built(name))


def forward(name: str, model: nn.Module) -> torch.Tensor:
    """The output of `model`, a float64 base `name` or a PEFT model around one."""
    if name == "net":
        inputs = {
            "words": TOKENS % 20,
            "image": _noise(2, 3, 9, 9),
            "volume": _noise(2, 2, 5, 6, 6),
        }
    elif name == "grouped_net":
        inputs = {"image": _noise(2, 4, 6, 6)}
    else:
        inputs = {"input_ids": TOKENS}
        if name == "t5":
            inputs["decoder_input_ids"] = TOKENS.flip(1)
    with torch.no_grad():
        output = model(**inputs)
    return output if isinstance(output, torch.Tensor) else output.logits
