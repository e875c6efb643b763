"""What lies beside the weights: the config, the model card and the lock file."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pemath.composition.certificate import Certificate, percent
from pemath.composition.plan import Plan
from pemath.names import display, escape_markdown
from pemath.references import LOCK, WEIGHTS

CARD = "README.md"
LOCK_VERSION = 1

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")


def config_of(plan: Plan, ranks: Mapping[str, int]) -> dict[str, Any]:
    """The content of `adapter_config.json`; `ranks` are those written at each site."""
    adapters = list(plan.adapters.values())
    config = plan.folders.config(adapters, plan.exact, ranks)
    heads = {head.config_name for head in plan.heads}
    names = sorted(name for name in heads if name)
    config["modules_to_save"] = names or None
    if None in heads:
        config["bias"] = next(
            (b for a in adapters if (b := a.folder.config.get("bias")) not in (None, "none")),
            "none",
        )
    loads = plan.folders.loading is None
    if loads and not names and config.get("task_type") in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        # PEFT would look for a head that is not there.
        config["task_type"] = None
    config["base_model_name_or_path"] = plan.base_model
    return config


def lock_of(
    plan: Plan,
    certificate: Certificate,
    sources: Mapping[str, Mapping[str, Any]],
    outputs: Mapping[str, str],
    version: str,
) -> dict[str, Any]:
    """The content of `pemath.lock.json`: all that is needed to make the same bytes again."""
    return {
        "lock_version": LOCK_VERSION,
        "pemath": version,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "request": plan.request.as_dict(),
        "kind": plan.kind.name,
        "dtype": plan.dtype.name,
        "base_model": plan.base_model,
        "sources": {name: dict(source) for name, source in sources.items()},
        "base_weights": plan.base_digests(),
        "outputs": dict(outputs),
        "notes": list(plan.notes),
        "certificate": certificate.as_dict(),
    }


def card_of(plan: Plan, certificate: Certificate, sources: Mapping[str, Mapping[str, Any]]) -> str:
    """The model card: YAML front matter for the hub, then the recipe and the certificate."""
    expression = str(plan.request.expression)
    ranks = sorted({site.rank for site in certificate.sites.values()})
    lines = [
        "---",
        *_front_matter(plan),
        "---",
        "",
        "# A composed adapter",
        "",
        f"Expression: {_code(expression)}",
        "",
        "| operand | reference | revision | sha256 of the weights |",
        "|---|---|---|---|",
    ]
    for name, source in sources.items():
        revision = escape_markdown(source["revision"] or "")
        files = source["files"]
        digest = f"`{files[WEIGHTS]}`" if WEIGHTS in files else f"{len(files)} files, in `{LOCK}`"
        lines.append(
            f"| {escape_markdown(name)} | {escape_markdown(source['reference'])} | {revision} "
            f"| {digest} |"
        )
    lines += [
        "",
        f"- arithmetic: {_code(plan.request.arithmetic)}, kind: {plan.kind.name}, "
        f"dtype: {plan.dtype.name}, profile: {plan.request.profile}",
        f"- sites: {len(certificate.sites)}"
        + (
            f", rank: {ranks[0] if len(ranks) == 1 else f'{ranks[0]} to {ranks[-1]}'}"
            if ranks[-1]
            else ""
        ),
        *(f"- {escape_markdown(note, 400)}" for note in plan.notes),
        "",
        *(["## Loading", "", plan.folders.loading, ""] if plan.folders.loading else []),
        "## Certificate",
        "",
        _certified(certificate),
        "",
        "Made with pemath. `pemath verify` checks this folder, `pemath rebuild` makes it again.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(plan: Plan) -> list[str]:
    lines = []
    if plan.base_model and _HUB_NAME.fullmatch(plan.base_model):
        # Without a slash YAML could take the name for a number, a date or null.
        plain = re.match(r"[A-Za-z][\w.-]*/", plan.base_model)
        name = plan.base_model if plain else json.dumps(plan.base_model)
        lines += [f"base_model: {name}", "base_model_relation: adapter"]
    if plan.folders.loading is None:
        lines.append("library_name: peft")
    return [*lines, "tags:", f"- {plan.kind.name}", "- pemath", "- merge"]


def _code(text: str) -> str:
    shown = display(text, 400).replace("`", "'")
    return f"`{shown}`"


def _certified(certificate: Certificate) -> str:
    where = "Every site is in `pemath.lock.json`."
    error = percent(certificate.error)
    if error == "exact":
        return f"The stored weights are the exact sum. {where}"
    worst = percent(certificate.sites[certificate.worst].error)
    return (
        f"Relative Frobenius error against the exact sum: **{error}** in total, {worst} at the "
        f"worst site ({_code(certificate.worst)}). It is computed from the factors, rounding "
        f"included.{_left_out(certificate)} {where}"
    )


def _left_out(certificate: Certificate) -> str:
    share = certificate.left_out
    text = f" By estimate, {percent(share)} (in norm) of what the method made has no room at this rank."
    return text if share else ""
