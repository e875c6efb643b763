"""What AdapterHub's package `adapters` makes of LoRAs and (IA)³, on one layer of a tiny BERT.

`adapters` 1.3.0 needs transformers 4, and everything else here is tested with a newer one: its numbers
are kept in adapterhub.json. Where it is installed, this file by itself writes them again:

    python -P tests/golden/released_adapterhub.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FROZEN = Path(__file__).with_name("adapterhub.json")

OUTPUTS = INPUTS = 4
# Rank and alpha. AdapterHub multiplies by alpha / r, also after r was replaced by svd_rank.
LORAS = {"a": (2, 3), "b": (2, 3), "c": (2, 3), "same A as a": (2, 3), "other alpha": (2, 4),
         "other rank": (1, 3)}  # fmt: skip
VECTORS = ("x", "y")

LINEAR, NEGATE_B, SVD = "linear", "lora_linear_only_negate_b", "lora_delta_w_svd"
_PAIRS: list[list[float] | None] = [None, [3.0, 1.0], [1.0, -0.5], [1.0, -1.0]]


def cases() -> list[dict[str, Any]]:
    """The calls of `average_adapter` whose outcome is kept."""
    found: list[dict[str, Any]] = []

    def add(strategy: str, names: list[str], weights: list[float] | None, normalize: bool,
            svd_rank: int | None = None) -> None:  # fmt: skip
        found.append(
            {"strategy": strategy, "operands": names, "weights": weights, "normalize": normalize,
             "svd_rank": svd_rank}
        )  # fmt: skip

    for normalize in (True, False):
        for weights in _PAIRS:
            for strategy in (LINEAR, NEGATE_B):
                add(strategy, ["a", "b"], weights, normalize)
            add(SVD, ["a", "b"], weights, normalize, 4)
            add(LINEAR, ["x", "y"], weights, normalize)
            add(NEGATE_B, ["x", "y"], weights, normalize)
        for strategy, rank in ((LINEAR, None), (NEGATE_B, None), (SVD, 2), (SVD, 1)):
            add(strategy, ["a"], [-1.0], normalize, rank)
            add(strategy, ["a"], [2.0], normalize, rank)
            add(strategy, ["a", "same A as a"], [0.25, 0.75], normalize, rank)
            add(strategy, ["a", "b", "c"], [0.5, -0.25, 1.0], normalize, rank)
        add(LINEAR, ["x"], [-1.0], normalize)
    for other in ("other alpha", "other rank"):
        for strategy, rank in ((LINEAR, None), (SVD, 2)):
            add(strategy, ["a", other], None, True, rank)
    add(SVD, ["a", "b"], None, True)
    add(SVD, ["x", "y"], None, True, 1)
    return found


def operands() -> dict[str, dict[str, list[Any]]]:
    """Random float32 factors of the LoRAs, and vectors around one."""
    import numpy as np

    generator = np.random.default_rng(5)

    def noise(*shape: int) -> Any:
        return (0.5 * generator.standard_normal(shape)).astype(np.float32)

    found = {
        name: {"A": _short(noise(rank, INPUTS)), "B": _short(noise(OUTPUTS, rank))}
        for name, (rank, _) in LORAS.items()
    }
    found["same A as a"]["A"] = found["a"]["A"]
    for name in VECTORS:
        found[name] = {"l": _short(1 + noise(OUTPUTS))}
    return found


def _short(values: Any) -> list[Any]:
    """Nested lists of the shortest decimals that float32 reads back."""
    return [_short(v) if v.ndim else float(str(v)) for v in values]


def computed() -> dict[str, Any]:
    """What the installed package gives. Raises ImportError where there is none that works."""
    import adapters
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=INPUTS, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=4, vocab_size=8, max_position_embeddings=4)  # fmt: skip
    model = BertModel(config)
    adapters.init(model)
    layer = model.encoder.layer[0].attention.self.query
    given = operands()
    for name, parts in given.items():
        kind: Callable[..., Any] = adapters.LoRAConfig if "A" in parts else adapters.IA3Config
        options = dict(zip(("r", "alpha"), LORAS[name], strict=True)) if "A" in parts else {}
        model.add_adapter(name, config=kind(attn_matrices=["q"], **options))
        module = layer.loras[name]
        with torch.no_grad():
            for key in ("A", "B") if "A" in parts else ("l",):
                into = module.lora_A if key == "A" else module.lora_B
                into.copy_(torch.tensor(parts[key]).reshape(into.shape))
    outcomes = []
    for case in cases():
        try:
            model.average_adapter(
                "out", case["operands"], weights=case["weights"], combine_strategy=case["strategy"],
                normalize_weights=case["normalize"], svd_rank=case["svd_rank"],
            )  # fmt: skip
            module = layer.loras["out"]
            outcome = {"scaling": module.scaling, "B": _short(module.lora_B.detach().numpy())}
            if hasattr(module, "lora_A"):
                outcome["A"] = _short(module.lora_A.detach().numpy())
        except Exception as error:  # noqa: BLE001
            outcome = {"error": type(error).__name__}
        if "out" in model.adapters_config:
            model.delete_adapter("out")
        outcomes.append(case | outcome)
    return {"package": f"adapters {adapters.__version__}", "operands": given, "cases": outcomes}


if __name__ == "__main__":
    text = json.dumps(computed(), indent=None, separators=(", ", ": "))
    FROZEN.write_text(text.replace('{"strategy"', '\n{"strategy"') + "\n")
