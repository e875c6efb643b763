"""What a PEFT user does today: load the adapters onto the model, combine them, save the result.

PEFT needs a base model for this, but reads none of its weights. To spend no time on them, the
model is built on the meta device and every weight becomes one number that is broadcast to its
shape. `plain` makes the calls as PEFT's documentation shows them. `tuned` keeps the adapters'
dtype (PEFT widens bfloat16 to float32) and skips the random initialisation of weights that
loading overwrites: the fastest that PEFT's own options allow.

python peft_combine.py plain|tuned llama|roberta METHOD[@DENSITY] RANK OUTPUT ADAPTER...
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel


def hollow(base: str, dtype: torch.dtype) -> torch.nn.Module:
    """The base model without memory for its weights. The configs' defaults are the sizes wanted."""
    with torch.device("meta"):
        if base == "llama":
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig())
        else:
            model = transformers.RobertaModel(transformers.RobertaConfig())
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            number = torch.zeros(1, dtype=dtype).expand(weight.shape)
            setattr(module, name, torch.nn.Parameter(number, requires_grad=False))
    return model


def dtype_of(adapter: str) -> torch.dtype:
    with (Path(adapter) / "adapter_model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    codes = {entry.get("dtype") for entry in header.values()} - {None}
    return torch.bfloat16 if codes == {"BF16"} else torch.float32


OPTIONS: dict[str, dict[str, bool]] = {
    "plain": {},
    "tuned": {"autocast_adapter_dtype": False, "low_cpu_mem_usage": True},
}


def main(way: str, base: str, method: str, rank: int, output: str, adapters: list[str]) -> None:
    options = OPTIONS[way]
    names = [f"a{i}" for i in range(len(adapters))]
    model = PeftModel.from_pretrained(
        hollow(base, dtype_of(adapters[0])), adapters[0], adapter_name=names[0], **options
    )
    for name, folder in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(folder, adapter_name=name, **options)
    method, _, density = method.partition("@")
    extra: dict[str, float] = {"svd_rank": rank} if method.endswith("svd") else {}
    if method.startswith(("ties", "dare", "magnitude")):
        extra["density"] = float(density)
    weights = [1.0] * len(names)
    model.add_weighted_adapter(names, weights, "combined", combination_type=method, **extra)
    model.save_pretrained(output, selected_adapters=["combined"], save_embedding_layers=False)


way, base, method, rank, output, *adapters = sys.argv[1:]
main(way, base, method, int(rank), output, adapters)
