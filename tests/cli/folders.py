"""Tiny adapter folders in PEFT's layout, written and read back with numpy alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OUT, IN = 10, 12
QUERY, VALUE = (f"encoder.layer.0.attention.self.{name}" for name in ("query", "value"))
PREFIX = "base_model.model."

Arrays = Mapping[str, Any]


def lora(
    folder: Path,
    seed: int,
    *,
    rank: int = 3,
    scale: float = 2.0,
    start: int | None = None,
    sites: Sequence[str] = (QUERY, VALUE),
    head: int = 0,
    **config: Any,
) -> Path:
    """A LoRA with random factors. `start` seeds A, so that adapters can share it; `head` is the
    number of labels of a classifier in modules_to_save.
    """
    rng, shared = (
        np.random.default_rng(seed),
        np.random.default_rng(seed if start is None else start),
    )
    tensors = {}
    for site in sites:
        tensors[f"{PREFIX}{site}.lora_A.weight"] = shared.standard_normal((rank, IN)).astype("f4")
        tensors[f"{PREFIX}{site}.lora_B.weight"] = rng.standard_normal((OUT, rank)).astype("f4")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "task_type": "SEQ_CLS"}
    if head:
        settings["modules_to_save"] = ["classifier"]
        tensors[f"{PREFIX}classifier.weight"] = rng.standard_normal((head, IN)).astype("f4")
        tensors[f"{PREFIX}classifier.bias"] = rng.standard_normal(head).astype("f4")
    return written(folder, settings | config, tensors)


def ia3(folder: Path, seed: int) -> Path:
    """An (IA)³ on the outputs of both sites."""
    rng = np.random.default_rng(seed)
    vectors = {site: 1 + 0.1 * rng.standard_normal((OUT, 1)) for site in (QUERY, VALUE)}
    tensors = {f"{PREFIX}{site}.ia3_l": vector.astype("f4") for site, vector in vectors.items()}
    return written(folder, {"peft_type": "IA3", "feedforward_modules": []}, tensors)


def written(folder: Path, config: Mapping[str, Any], tensors: Arrays) -> Path:
    """A folder with this config and these tensors."""
    common = {"base_model_name_or_path": "tests/base", "target_modules": ["query", "value"]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(common | dict(config)), encoding="utf-8")
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """The adapter's config."""
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def tensors_of(folder: Path) -> dict[str, Any]:
    """The adapter's tensors by name, without PEFT's prefix, in float64."""
    tensors = load_file(folder / WEIGHTS)
    return {name.removeprefix(PREFIX): t.astype(np.float64) for name, t in tensors.items()}


def deltas(folder: Path) -> dict[str, Any]:
    """The dense delta weight of each site of a LoRA, in float64."""
    config, tensors = config_of(folder), tensors_of(folder)
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    sites = [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]
    return {
        site: alphas.get(site, config["lora_alpha"])
        / ranks.get(site, config["r"])
        * (tensors[f"{site}.lora_B.weight"] @ tensors[f"{site}.lora_A.weight"])
        for site in sites
    }


def relative_error(found: Arrays, wanted: Arrays) -> float:
    """Relative Frobenius error over all sites; a site that one side lacks is zero there."""
    zero = np.zeros((OUT, IN))
    sites = found.keys() | wanted.keys()
    pairs = [(found.get(site, zero), wanted.get(site, zero)) for site in sites]
    off = sum(np.linalg.norm(x - y) ** 2 for x, y in pairs)
    return float(np.sqrt(off / sum(np.linalg.norm(y) ** 2 for _, y in pairs)))


def weighted(*terms: tuple[float, Path]) -> dict[str, Any]:
    """The dense weighted sum of LoRAs."""
    total: dict[str, Any] = {}
    for weight, folder in terms:
        for site, delta in deltas(folder).items():
            total[site] = total.get(site, 0) + weight * delta
    return total
