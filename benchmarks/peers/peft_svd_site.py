"""PEFT's svd on one 4096 x 4096 site: prints the seconds that add_weighted_adapter takes.

Imports, model and adapters are made before the clock starts.

python peft_svd_site.py RANK
"""

import sys
import time

import torch
from peft import LoraConfig, get_peft_model

FEATURES = 4096


class OneSite(torch.nn.Module):  # type: ignore[misc]
    """The smallest model that PEFT accepts; its weight is one number broadcast to the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(FEATURES, FEATURES, bias=False, device="meta")
        number = torch.zeros(1).expand(FEATURES, FEATURES)
        self.q_proj.weight = torch.nn.Parameter(number, requires_grad=False)


def main(rank: int) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj"])
    model = get_peft_model(OneSite(), config, adapter_name="a")
    model.add_adapter("b", config)
    for adapter in ("a", "b"):
        torch.nn.init.normal_(model.base_model.model.q_proj.lora_B[adapter].weight, std=0.01)
    start = time.perf_counter()
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum", combination_type="svd", svd_rank=rank)
    print(time.perf_counter() - start)


main(int(sys.argv[1]))
