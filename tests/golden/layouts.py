"""The layouts in which PEFT stores adapters: three operands of each, `a`, `b` and `c`.

A new layout is one entry of `LORA` or `IA3`; every test of the folder then runs on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]

# Each expression and its normal form.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "0.6*a + 0.4*b": {"a": 0.6, "b": 0.4},
    "a - b": {"a": 1.0, "b": -1.0},
    "-0.5*a": {"a": -0.5},
    "0.9*a + 0.1*(b - c)": {"a": 0.9, "b": 0.1, "c": -0.1},
}


@dataclass(frozen=True)
class Layout:
    """The configurations of the three operands on one base model."""

    base: str
    a: Config
    b: Config
    c: Config
    shared_a: bool = False  # the operands' A factors are equal, as after a shared initialisation

    def configs(self) -> Mapping[str, Config]:
        return {"a": self.a, "b": self.b, "c": self.c}


@dataclass(frozen=True)
class _Lora:
    """Writes down the operands of a LoRA layout: what they share, and what is each one's own."""

    base: str
    shared: Config = field(default_factory=dict)

    def each(self, a: Config, b: Config, c: Config, *, shared_a: bool = False) -> Layout:
        configs = [{"r": 4, "lora_alpha": 8, **self.shared, **own} for own in (a, b, c)]
        return Layout(self.base, *configs, shared_a=shared_a)

    def same(self, **shared: Any) -> Layout:
        """Equal configurations, except that `c` has another rank and alpha."""
        return self.each(shared, shared, {**shared, "r": 2, "lora_alpha": 3})


BERT = _Lora("bert", {"target_modules": ["query", "value"]})
GPT2 = _Lora("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True})
LLAMA = _Lora("llama", {"target_modules": ["q_proj", "v_proj"]})
T5 = _Lora("t5", {"target_modules": ["q", "v", "wi_0", "wo"]})
MIXTRAL = _Lora("mixtral", {"target_modules": ["q_proj"]})
GPT_OSS = _Lora("gpt_oss", {"target_modules": ["v_proj"]})
NET = _Lora("net")
BOTH_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

LORA: dict[str, Layout] = {
    # ranks and scalings
    "plain": BERT.each({}, {}, {}),
    "shared A": BERT.each({}, {}, {}, shared_a=True),
    "different ranks and alphas": BERT.each(
        {"r": 2, "lora_alpha": 7}, {"r": 5, "lora_alpha": 1}, {"r": 1, "lora_alpha": 0.5}
    ),
    "rank above the matrix": BERT.each({"r": 40}, {"r": 20}, {}),
    "rank_pattern": BERT.each(
        {"rank_pattern": {"layer.0.attention.self.query": 6}},
        {"rank_pattern": {r"^bert\.encoder\.layer\.1\..*": 2, "value": 3}},
        # The first match counts, in the order of the file, which PEFT sorts.
        {"rank_pattern": {"attention.self.query": 8, "query": 1}},
    ),
    "alpha_pattern": BERT.each(
        {"alpha_pattern": {r"layer\.[01]\.attention\.self\.value": 3}},
        {"alpha_pattern": {"query": 20, "value": 1}},
        {"alpha_pattern": {"layer.0.attention.self.query": 5, "no.such.module": 6, "query": 7}},
    ),
    "rank_pattern and alpha_pattern": BERT.each(
        {"rank_pattern": {"query": 7}, "alpha_pattern": {"layer.0.attention.self.query": 3}},
        {"rank_pattern": {"value": 2}, "alpha_pattern": {"query": 5}},
        {},
    ),
    "rslora": BERT.each({"use_rslora": True}, {"use_rslora": True, "r": 9}, {"use_rslora": True}),
    "rslora beside plain": BERT.each({"use_rslora": True}, {}, {"use_rslora": True, "r": 3}),
    "rslora with patterns": BERT.each(
        {"use_rslora": True, "rank_pattern": {"query": 6}},
        {"use_rslora": True, "alpha_pattern": {"value": 3}},
        {},
    ),
    # target modules
    "regex": BERT.same(target_modules=r".*layer\.\d+\.attention\.self\.(query|key)"),
    "regex beside list": BERT.each({"target_modules": r".*\.(query|key)"}, {}, {}),
    "all-linear": BERT.same(target_modules="all-linear"),
    "full names": BERT.same(
        target_modules=["bert.encoder.layer.0.output.dense", "bert.pooler.dense"]
    ),
    "layers_to_transform": BERT.each(
        {"layers_to_transform": [0]},
        {"layers_to_transform": [1], "layers_pattern": "layer"},
        {"layers_to_transform": 1},
    ),
    "exclude_modules": BERT.each(
        {"exclude_modules": ["bert.encoder.layer.0.attention.self.query"]},
        {"exclude_modules": r".*layer\.1.*"},
        {},
    ),
    "different sites": BERT.each(
        {"target_modules": ["query"]},
        {"target_modules": ["value", "pooler.dense"], "r": 2},
        {"target_modules": ["query", "output.dense"]},
    ),
    # biases of B
    "lora_bias": BERT.same(lora_bias=True),
    "lora_bias on one": BERT.each({"lora_bias": True}, {}, {"lora_bias": True, "r": 2}),
    # embeddings
    "embedding": BERT.same(target_modules=["word_embeddings", "query"]),
    "embedding and head": LLAMA.same(target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "embedding on one": LLAMA.each({"target_modules": ["embed_tokens", "q_proj"]}, {}, {}),
    # weights stored as [in, out]
    "fan_in_fan_out": GPT2.same(),
    "fan_in_fan_out embedding": GPT2.same(target_modules=["wte", "c_attn"]),
    "fan_in_fan_out lora_bias": GPT2.same(target_modules=["c_attn"], lora_bias=True),
    # other models
    "llama": LLAMA.same(target_modules=["q_proj", "k_proj", "down_proj", "up_proj"]),
    "llama all-linear": LLAMA.same(target_modules="all-linear", use_rslora=True),
    "t5": T5.same(),
    "t5 patterns": T5.each(
        {"rank_pattern": {"decoder.block.1.layer.1.EncDecAttention.q": 3}},
        {"target_modules": r"decoder\..*\.(q|v)"},
        {"alpha_pattern": {r"encoder\..*": 2}},
    ),
    # experts that are one parameter
    "experts": MIXTRAL.same(target_parameters=BOTH_EXPERTS),
    "experts only": MIXTRAL.same(target_modules=[], target_parameters=BOTH_EXPERTS),
    "experts, one parameter": MIXTRAL.same(target_parameters=["experts.down_proj"]),
    "experts and router": MIXTRAL.same(target_parameters=["experts.down_proj", "gate.weight"]),
    "experts on one": MIXTRAL.each({"target_parameters": BOTH_EXPERTS}, {}, {}),
    "experts with rank_pattern": MIXTRAL.each(
        {"target_parameters": BOTH_EXPERTS, "rank_pattern": {"experts.gate_up_proj": 2}},
        {"target_parameters": BOTH_EXPERTS[::-1], "alpha_pattern": {"experts.down_proj": 5}},
        {"target_parameters": BOTH_EXPERTS, "r": 1, "use_rslora": True},
    ),
    "transposed experts": GPT_OSS.same(target_parameters=BOTH_EXPERTS),
    # convolutions and other layers of torch
    "conv1d": NET.same(target_modules=["line"]),
    "conv2d": NET.same(target_modules=["stem"]),
    "conv2d 1x1": NET.same(target_modules=["point"]),
    "conv3d": NET.same(target_modules=["volume"]),
    "conv with lora_bias": NET.same(target_modules=["line", "stem", "point"], lora_bias=True),
    "whole net": NET.each(
        {"target_modules": ["words", "line", "stem", "point", "volume", "head"]},
        {"target_modules": ["stem", "point"], "rank_pattern": {"stem": 3}},
        {"target_modules": ["stem", "head"], "use_rslora": True},
    ),
    "multihead attention": NET.same(target_modules=["attention"]),
    # initialisations that leave the base as it is
    "gaussian": BERT.same(init_lora_weights="gaussian"),
    "orthogonal": BERT.same(init_lora_weights="orthogonal"),
    "mica": BERT.same(init_lora_weights="mica"),
    "eva": BERT.same(init_lora_weights="eva"),
    # variants that differ in training only
    "velora": BERT.each({"velora_config": {"num_groups": 4}}, {}, {}),
}


def _ia3(base: str, a: Config, b: Config | None = None, c: Config | None = None) -> Layout:
    return Layout(base, a, a if b is None else b, a if c is None else c)


IA3: dict[str, Layout] = {
    "bert": _ia3("bert", {"target_modules": ["key", "value"], "feedforward_modules": []}),
    "bert feedforward": _ia3(
        "bert",
        {
            "target_modules": ["key", "value", "output.dense"],
            "feedforward_modules": ["output.dense"],
        },
    ),
    "bert feedforward output": _ia3(
        "bert", {"target_modules": ["intermediate.dense"], "feedforward_modules": []}
    ),
    "bert regex": _ia3(
        "bert",
        {
            "target_modules": r".*layer\.\d\.(attention\.self\.key|output\.dense)",
            "feedforward_modules": r".*layer\.\d\.output\.dense",
        },
    ),
    "bert different sites": _ia3(
        "bert",
        {"target_modules": ["key"], "feedforward_modules": []},
        {
            "target_modules": ["value", "layer.1.output.dense"],
            "feedforward_modules": ["layer.1.output.dense"],
        },
        {"target_modules": ["key", "value"], "feedforward_modules": []},
    ),
    "gpt2": _ia3(
        "gpt2",
        {
            "target_modules": ["c_attn", "mlp.c_proj"],
            "feedforward_modules": ["mlp.c_proj"],
            "fan_in_fan_out": True,
        },
    ),
    "llama": _ia3(
        "llama",
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "t5": _ia3(
        "t5", {"target_modules": ["k", "v", "wi_1", "wo"], "feedforward_modules": ["wi_1", "wo"]}
    ),
    "conv2d": _ia3("net", {"target_modules": ["stem", "point"], "feedforward_modules": []}),
    "conv2d feedforward": _ia3(
        "net", {"target_modules": ["stem", "point"], "feedforward_modules": ["point"]}
    ),
    "conv3d": _ia3(
        "net", {"target_modules": ["volume", "head"], "feedforward_modules": ["volume"]}
    ),
}
