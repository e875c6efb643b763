"""Random models a few kilobytes large, of every family, with a tokenizer that knows few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "film",
    "was",
    "good",
    "bad",
    "fine",
    "awful",
    "great",
    "dull",
    "yes",
    "no",
    "maybe",
    "review",
    "answer",
    ":",
    "does",
    "that",
    "imply",
]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def save_model(family: str, folder: Path) -> Path:
    """A random model of the family (encoder, causal, seq2seq), saved as transformers does."""
    import torch

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    model = _model(family, len(tokenizer))
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def _model(family: str, vocabulary: int) -> Any:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    if family == "encoder":
        return BertForSequenceClassification(
            BertConfig(**SIZES, vocab_size=vocabulary, max_position_embeddings=64)
        )
    if family == "causal":
        return LlamaForCausalLM(
            LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=vocabulary, pad_token_id=0)
        )
    return T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=vocabulary,
                 decoder_start_token_id=0, pad_token_id=0, eos_token_id=3)
    )  # fmt: skip


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", eos_token="[SEP]",
    )  # fmt: skip
