"""Parameter-efficient modules on a base model: their start, and the folder that they end in.

All modules of an experiment begin with one initialisation, kept in a folder and read again: equal
seeds alone would tie the result to the order in which a library draws random numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pemath.errors import ConfigError, LayoutError
from pemath.formats.peft import PREFIX
from pemath.lab.models import Base
from pemath.names import display, listing
from pemath.references import CONFIG, WEIGHTS

PEMS = ("lora", "ia3", "full")
_TASK_TYPES = {"encoder": "SEQ_CLS", "causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


def initialise(base: Base, pem: str, settings: dict[str, Any], seed: int, folder: Path) -> None:
    """Draw a new module of type `pem` (lora, ia3) from `seed` and write it into `folder`.

    `settings` are rank, alpha, dropout and target_modules of a LoRA, target_modules and
    feedforward_modules of an (IA)³; what is absent or None is PEFT's choice for the architecture.
    The head is the base's. Full fine-tuning starts from the base itself and needs no such folder.
    Raises ConfigError where PEFT knows no target modules.
    """
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), _without_deprecations():
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base.model, _config(base, pem, settings))
        except ValueError as error:
            raise ConfigError(
                f"PEFT cannot put this module on `{display(base.name)}`",
                where=display(error, 200),
                hint="name its target_modules",
            ) from None
    save(model, base, folder)


def attach(base: Base, pem: str, folder: Path, *, trainable: bool = False) -> Any:
    """The module in `folder` on `base.model`, which is changed; for full fine-tuning the deltas in
    the folder are added to the base weights. Raises LayoutError where the two do not fit.
    """
    if pem == "full":
        _add_deltas(base, folder)
        return base.model.requires_grad_(trainable)
    from peft import PeftModel

    with _without_deprecations():
        try:
            return PeftModel.from_pretrained(base.model, str(folder), is_trainable=trainable)
        except (RuntimeError, ValueError, KeyError) as error:
            raise LayoutError(
                f"the adapter does not fit `{display(base.name)}`",
                where=display(folder),
                found=display(" ".join(str(error).split()), 200),
                hint="load it into the model that it was trained on",
            ) from None


def save(model: Any, base: Base, folder: Path, start: dict[str, Any] | None = None) -> None:
    """Write the module of `model` into `folder`, the same bytes for the same weights.

    `start` holds the parameters before full fine-tuning; the folder then holds the deltas.
    """
    if start is not None:
        changed = {n: p.detach().float().cpu() - start[n] for n, p in model.named_parameters()}
        _write_full(folder, base, changed)
        return
    config = model.active_peft_config
    config.base_model_name_or_path = base.name
    config.inference_mode = True
    for field in ("target_modules", "feedforward_modules"):
        names = getattr(config, field, None)
        if names is not None and not isinstance(names, str):
            setattr(config, field, sorted(names))
    heads = sorted(_head_modules(base.model))
    config.modules_to_save = heads or None  # PEFT lists every name that a head may have
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / WEIGHTS).chmod(0o644)
    (folder / "README.md").unlink(missing_ok=True)


def parameters_of(base: Base) -> dict[str, Any]:
    """A copy of all parameters, in float32 on the CPU."""
    return {n: p.detach().float().cpu().clone() for n, p in base.model.named_parameters()}


def read_tensors(folder: Path) -> dict[str, Any]:
    """The tensors of a module's folder by name, as torch tensors."""
    from safetensors.torch import load_file

    return dict(load_file(str(folder / WEIGHTS)))


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """peft asks transformers for an attribute that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _config(base: Base, pem: str, settings: dict[str, Any]) -> Any:
    from peft import IA3Config, LoraConfig

    task_type = _TASK_TYPES[base.family]
    given = {name: value for name, value in settings.items() if value is not None}
    if pem == "ia3":
        return IA3Config(
            task_type=task_type,
            target_modules=given.get("target_modules"),
            feedforward_modules=given.get("feedforward_modules"),
        )
    return LoraConfig(
        task_type=task_type,
        r=given.get("rank", 8),
        lora_alpha=given.get("alpha", 8),
        lora_dropout=given.get("dropout", 0.0),
        target_modules=given.get("target_modules"),
    )


def _head_modules(model: Any) -> list[str]:
    """The modules of a classification head: those that the base model proper does not have."""
    inner = getattr(model, "base_model_prefix", "")
    heads = ("classifier", "score")
    return [name for name, _ in model.named_children() if name in heads and name != inner]


def _write_full(folder: Path, base: Base, tensors: dict[str, Any]) -> None:
    import json

    from safetensors.numpy import save_file

    arrays = {
        PREFIX + name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()
    }
    save_file(arrays, str(folder / WEIGHTS), {"format": "pt"})
    config = {
        "base_model_name_or_path": base.name,
        "peft_type": "FULL",
        "task_type": _TASK_TYPES[base.family],
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / WEIGHTS).chmod(0o644)


def _add_deltas(base: Base, folder: Path) -> None:
    import torch

    own = dict(base.model.named_parameters())
    unknown = []
    with torch.no_grad():
        for name, delta in read_tensors(folder).items():
            parameter = own.get(name.removeprefix(PREFIX))
            if parameter is None or parameter.shape != delta.shape:
                unknown.append(name)
                continue
            parameter.add_(delta.to(parameter))
    if unknown:
        raise LayoutError(
            f"the base has no parameters for {listing(unknown)}",
            where=display(folder),
            expected=f"deltas of `{display(base.name)}`",
        )
