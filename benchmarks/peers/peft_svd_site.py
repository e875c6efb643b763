"""PEFT's svd types on one square site: prints the seconds that add_weighted_adapter takes, of the
clock and of the processor.

Imports, model and adapters are made before the clock starts.

python peft_svd_site.py RANK [METHOD DENSITY [SIDE]]
"""

import sys
import time

import torch
from peft import LoraConfig, get_peft_model


class OneSite(torch.nn.Module):  # type: ignore[misc]
    """The smallest model that PEFT accepts; its weight is one number broadcast to the shape."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(side, side, bias=False, device="meta")
        number = torch.zeros(1).expand(side, side)
        self.q_proj.weight = torch.nn.Parameter(number, requires_grad=False)


def main(rank: int, method: str = "svd", density: float = 0.0, side: int = 4096) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj"])
    model = get_peft_model(OneSite(side), config, adapter_name="a")
    model.add_adapter("b", config)
    for adapter in ("a", "b"):
        torch.nn.init.normal_(model.base_model.model.q_proj.lora_B[adapter].weight, std=0.01)
    extra = {} if method == "svd" else {"density": density}
    start, used = time.perf_counter(), time.process_time()
    model.add_weighted_adapter(
        ["a", "b"], [1.0, 1.0], "sum", combination_type=method, svd_rank=rank, **extra
    )
    print(time.perf_counter() - start, time.process_time() - used)


rank, *rest = sys.argv[1:]
method, density, side = [*rest, *("svd", "0", "4096")[len(rest) :]]
main(int(rank), method, float(density), int(side))
