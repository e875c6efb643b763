"""How two modules lie to each other, layer by layer, and what the paper's arithmetic makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pemath.lab.setting import Module
from pemath.lab.store import Store

_LAYER = re.compile(r"\.(?:layers?|h|block|blocks)\.(\d+)\.")


def interference(pair: Mapping[str, Module], store: Store, **facts: Any) -> list[dict[str, Any]]:
    """For every site of modules a and b: the cosine of their delta weights and, for LoRAs, the
    relative error of `paper(a, b, weights=[0.5, 0.5])` against the exact sum.
    """
    modules = {name: module.digest for name, module in pair.items()}

    def make(folder: Path, scratch: Path) -> None:
        (folder / "sites.json").write_text(json.dumps(_sites(pair)) + "\n", encoding="utf-8")

    folder = store.get("interference", {"modules": modules}, make)
    sites = json.loads((folder / "sites.json").read_text(encoding="utf-8"))
    return [{**facts, **site} for site in sites]


def _sites(pair: Mapping[str, Module]) -> list[dict[str, Any]]:
    from pemath.composition.run import evaluate
    from pemath.diagnose.compare import compare

    a, b = (str(pair[name].folder) for name in ("a", "b"))
    errors: dict[str, float] = {}
    if pair["a"].pem == "lora":
        both = {"a": a, "b": b}
        exact = dict(evaluate("0.5*a + 0.5*b", operands=both))
        for site, value in evaluate("paper(a, b, weights=[0.5, 0.5])", operands=both):
            distance, norm = value.gap(exact[site])
            errors[site] = distance / norm if norm else 0.0
    return [
        {
            "site": site,
            "layer": int(found[1]) if (found := _LAYER.search(f".{site}.")) else None,
            "cosine": compared.delta.cosine,
            "paper_error": errors.get(site),
        }
        for site, compared in compare(a, b).sites.items()
    ]
