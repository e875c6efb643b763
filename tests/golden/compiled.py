"""Kinds that pemath reads as LoRA: what PEFT writes of each, and what PEFT itself makes of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model

from . import adapters
from .bases import base, quiet
from .oracle import Deltas, tuners

Config = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An adapter of one kind on one base, and the rank that pemath must read it as."""

    config: str
    base: str
    settings: Config
    rank: int | None = None


def bert(config: str, rank: int | None = None, **settings: Any) -> Case:
    return Case(config, "bert", {"target_modules": ["query", "value"], **settings}, rank)


def gpt2(config: str, rank: int | None = None, **settings: Any) -> Case:
    settings = {"target_modules": ["c_attn"], "fan_in_fan_out": True, **settings}
    return Case(config, "gpt2", settings, rank)


def net(config: str, *sites: str, rank: int | None = None, **settings: Any) -> Case:
    return Case(config, "net", {"target_modules": list(sites), **settings}, rank)


EVERYWHERE = {"target_modules": ["query", "intermediate.dense", "output.dense"]}
EFFECTIVE = {"use_effective_conv2d": True}

# No one-dimensional convolution with a core in LoKr: PEFT 0.21.2 fails on it (torch.kron wants its
# operands contiguous).
CASES: dict[str, Case] = {
    "loha": bert("LoHaConfig", 9, r=3, alpha=7),
    "loha everywhere": bert("LoHaConfig", 4, r=2, alpha=1, **EVERYWHERE),
    "loha patterns": bert(
        "LoHaConfig",
        r=2,
        rank_pattern={"value": 3},
        alpha_pattern={"layer.0.attention.self.query": 5},
    ),
    "loha of more than full rank": bert("LoHaConfig", 32, r=8, alpha=4),
    "loha conv2d": net("LoHaConfig", "stem", rank=4, r=2, alpha=3, **EFFECTIVE),
    "loha conv1d": net("LoHaConfig", "line", rank=4, r=2, alpha=3, **EFFECTIVE),
    "loha conv of more than full rank": net("LoHaConfig", "stem", rank=6, r=3, **EFFECTIVE),
    "loha net": net("LoHaConfig", "stem", "line", "head", r=2, **EFFECTIVE),
    "lokr": bert("LoKrConfig", 8, r=2, alpha=7),
    "lokr everywhere": bert("LoKrConfig", r=2, alpha=7, **EVERYWHERE),
    "lokr both factored": bert("LoKrConfig", 1, r=1, alpha=3, decompose_both=True),
    "lokr both full": bert("LoKrConfig", 32, r=16, alpha=3),
    "lokr factor": bert("LoKrConfig", r=3, alpha=3, decompose_factor=2, **EVERYWHERE),
    "lokr patterns": bert("LoKrConfig", r=2, rank_pattern={"value": 3}, alpha_pattern={"query": 1}),
    "lokr conv2d full": net("LoKrConfig", "stem", r=2, alpha=3),
    "lokr conv2d core": net("LoKrConfig", "stem", r=1, alpha=3, **EFFECTIVE),
    "lokr conv2d 1x1 full": net("LoKrConfig", "point", r=4, alpha=3),
    "lokr conv1d full": net("LoKrConfig", "line", r=2, alpha=3),
    "vera": bert("VeraConfig", 6, r=6),
    "vera, one module": bert("VeraConfig", 3, r=3, target_modules=["intermediate.dense"]),
    "vera gpt2": gpt2("VeraConfig", 5, r=5),
    "pvera": bert("PveraConfig", 3, r=3),
    "pvera gpt2": gpt2("PveraConfig", 3, r=3),
    "adalora": bert("AdaLoraConfig", 5, init_r=5, lora_alpha=3, total_step=9),
    "adalora everywhere": bert("AdaLoraConfig", 3, init_r=3, total_step=9, **EVERYWHERE),
    "adalora without alpha": bert("AdaLoraConfig", 5, init_r=5, lora_alpha=0, total_step=9),
    "adalora gpt2": gpt2("AdaLoraConfig", 5, init_r=5, total_step=9),
    "vblora": bert("VBLoRAConfig", 3, r=3, num_vectors=11, vector_length=8, topk=3),
    "vblora, top weights": bert(
        "VBLoRAConfig", 3, r=3, num_vectors=11, vector_length=8, topk=3, save_only_topk_weights=True
    ),
    "vblora, one vector": bert("VBLoRAConfig", 2, r=2, num_vectors=4, vector_length=8, topk=1),
    "vblora gpt2": gpt2("VBLoRAConfig", 3, r=3, num_vectors=300, vector_length=8, topk=2),
    "gralora": bert("GraloraConfig", 8, r=4, gralora_k=2, alpha=5),
    "gralora hybrid": bert("GraloraConfig", 11, r=4, gralora_k=2, hybrid_r=3, alpha=5),
    "gralora, four parts": bert("GraloraConfig", 16, r=4, gralora_k=4, **EVERYWHERE),
    "gralora of full rank": bert("GraloraConfig", 32, r=12, gralora_k=4),
    "gralora gpt2": gpt2("GraloraConfig", 8, r=4, gralora_k=2, alpha=5),
    "delora": bert("DeloraConfig", 3, r=3, **EVERYWHERE),
    "delora patterns": bert("DeloraConfig", r=3, rank_pattern={"value": 2}),
    "c3a": bert("C3AConfig", 32, block_size=8),
    "c3a everywhere": bert("C3AConfig", 32, block_size=16, **EVERYWHERE),
    "shira": bert("ShiraConfig", 32, r=4),
    "shira everywhere": bert("ShiraConfig", 32, r=4, **EVERYWHERE),
    "unilora": bert("UniLoraConfig", 3, r=3, theta_d_length=50, save_indices=True, **EVERYWHERE),
    "unilora gpt2": gpt2("UniLoraConfig", 3, r=3, theta_d_length=50, save_indices=True),
    "randlora": bert("RandLoraConfig", 32, r=5, randlora_alpha=9),
    "tinylora": bert("TinyLoraConfig", 2, r=2, u=5, weight_tying=1.0, **EVERYWHERE),
    "supertuning": bert("SupertuningConfig", 35, r=3, sparsity=0.9, lora_alpha=5.0, **EVERYWHERE),
}


def model_of(case: Case, seed: str) -> PeftModel:
    """The base with a new adapter of this case, trained."""
    with quiet():
        torch.manual_seed(sum(seed.encode()))  # of what is drawn and kept
        model = get_peft_model(base(case.base), getattr(peft, case.config)(**case.settings))
    wanted = {
        name.removeprefix("base_model.model.")
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return adapters.train(model, seed, lambda part: part in wanted)


def write(case: Case, folder: Path, seed: str) -> Path:
    """A trained adapter of this case, as PEFT saves it."""
    return adapters.save(model_of(case, seed), folder)


def load(case: Case, folder: Path) -> PeftModel:
    """The adapter on its base, in float64."""
    with quiet():
        model = PeftModel.from_pretrained(base(case.base).double(), str(folder))
    return model.double().eval()


def deltas(model: PeftModel) -> Deltas:
    """What PEFT's own layers say that they add to each weight."""
    found = {}
    for site, module in tuners(model):
        delta = module.get_delta_weight("default").detach()
        found[f"{site}.weight"] = delta.to_dense() if delta.is_sparse else delta
    assert found
    return found
