"""Which changed parameters of a whole model become a LoRA, and which are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pemath.conversion._deltas import Delta
from pemath.errors import RequestError, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint
from pemath.kinds._geometry import Geometry
from pemath.names import display, listing

# Models whose layers store [in, out], and those layers' names.
_TURNED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
_TURNED = ("c_attn", "q_attn", "c_proj", "c_fc")
_EMBEDDING = re.compile(r"(.*\.)?(\w*embed(dings?|_tokens|_positions)?|wte|wpe|shared)")
_HEAD = re.compile(
    r"(.*\.)?(lm_head|embed_out|output_layer|score|classifier|qa_outputs|prediction_head)(\..*)?|"
    r"(.*\.)?cls\..*"
)


def selected(
    changes: Mapping[str, Delta], target_modules: Sequence[str]
) -> tuple[dict[str, Delta], dict[str, Delta]]:
    """The changes that become a LoRA by module, each with its geometry, and the others by parameter.

    Without `target_modules` these are all matrices but embeddings and heads; with it, whatever ends
    in one of the names. Raises: RequestError, UnsupportedFeature.
    """
    chosen: dict[str, Delta] = {}
    others: dict[str, Delta] = {}
    unused = dict.fromkeys(target_modules)
    for parameter, delta in changes.items():
        module, _, leaf = parameter.rpartition(".")
        named = [n for n in target_modules if module == n or module.endswith(f".{n}")]
        for name in named:
            unused.pop(name, None)
        embedding = is_embedding(module)
        usual = len(delta.shape) == 2 and not embedding and not _HEAD.fullmatch(module)
        if leaf != "weight" or not (named if target_modules else usual):
            others[parameter] = delta
            continue
        if len(delta.shape) not in (2, 4, 5):
            raise UnsupportedFeature(
                f"the change of `{display(parameter)}` has no form as a LoRA",
                found=f"{len(delta.shape)} dimensions",
                expected="a matrix, or the kernel of a convolution",
            )
        chosen[module] = _with_geometry(delta, embedding=embedding)
    if unused:
        raise RequestError(
            f"no changed weight ends in {listing(list(unused))}",
            found=f"changed are {listing(list(changes))}",
        )
    if not chosen:
        raise RequestError(
            "nothing that could become a LoRA has changed",
            found=f"changed are {listing(list(changes))}",
            hint="name modules with --target-modules",
        )
    return chosen, others


def is_embedding(module: str) -> bool:
    """Whether a module of this name is an embedding."""
    return _EMBEDDING.fullmatch(module) is not None


def turned(changes: Mapping[str, Delta], *models: Checkpoint | None) -> dict[str, Delta]:
    """The changes, marked where the models' configs say that a layer stores [in, out].

    Raises: RequestError where only a model could say it, and none is given.
    """
    known = [model for model in models if model is not None]
    doubtful = [n for n in changes if n.removesuffix(".weight").rpartition(".")[2] in _TURNED]
    if doubtful and not known:
        raise RequestError(
            f"whether {listing(doubtful, 3)} are stored [out, in] or [in, out] depends on the model",
            hint="add --base-weights FOLDER, whose config.json says it",
        )
    if not {str(model.config.get("model_type")) for model in known} & set(_TURNED_MODELS):
        return dict(changes)
    return {n: replace(d, transposed=n in doubtful) for n, d in changes.items()}


def _with_geometry(delta: Delta, *, embedding: bool) -> Delta:
    if len(delta.shape) > 2:
        return replace(delta, geometry=Geometry("conv", delta.shape[0], delta.shape[1:]))
    flipped = embedding or delta.transposed
    outputs, inputs = delta.shape[::-1] if flipped else delta.shape
    geometry = Geometry("embedding" if embedding else "linear", outputs, (inputs,))
    return replace(delta, geometry=geometry, transposed=flipped)
