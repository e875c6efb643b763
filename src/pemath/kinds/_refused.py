"""PEFT's kinds that have no delta weight to be had from their files, each with the reason.

One table serves the message and the documentation: `peft_type` → (reason, what to do).
"""

from __future__ import annotations

AS_LORA = (
    "where the base model is at hand, PEFT can save a LoRA that comes near it: "
    "`peft.save_as_lora(FOLDER, model, rank=RANK)`"
)
MERGE = (
    "merge it into the base with PEFT's merge_and_unload, save that, and take the difference: "
    "`pemath convert MERGED --to lora --base-weights BASE --rank RANK`"
)
DENSE = (
    "merge it into the base with PEFT's merge_and_unload, save that, and take the difference as it is: "
    "`pemath convert MERGED --to full --base-weights BASE`"
)
_PROMPT = "ensemble the outputs, or train a LoRA on the same data"

_SOFT_PROMPT = (
    "a soft prompt is an input to the model and no change of its weights, so the sum of two prompts "
    "does not do what both prompts do"
)

REFUSED: dict[str, tuple[str, str | None]] = {
    # Inputs and caches in place of weights.
    "PROMPT_TUNING": (_SOFT_PROMPT, _PROMPT),
    "MULTITASK_PROMPT_TUNING": (
        f"{_SOFT_PROMPT}; the task's part multiplies the shared prompt besides",
        _PROMPT,
    ),
    "P_TUNING": (f"{_SOFT_PROMPT}; here a small network makes the prompt", _PROMPT),
    "PREFIX_TUNING": (
        "a prefix adds keys and values that every token attends to, and attention is not linear in "
        "them, so the sum of two prefixes does not do what both do",
        _PROMPT,
    ),
    "CPT": (
        "context-aware prompt tuning learns changes of the embeddings of its own context examples; "
        "the contexts of two modules are different inputs",
        _PROMPT,
    ),
    "CARTRIDGE": (
        "a cartridge is a cache of keys and values of one text, which attention does not add up",
        _PROMPT,
    ),
    "ADAPTION_PROMPT": (
        "its prompts go through an attention of their own with a gate, so its effect depends on the "
        "input and is no change of a weight",
        _PROMPT,
    ),
    # Mixtures and networks beside the weights.
    "XLORA": ("it mixes LoRAs by weights that depend on the input", "compose the LoRAs themselves"),
    "POLY": ("it routes between skills by task, so there is one update for each task id", None),
    "LILY": ("its router mixes the factors B anew for every input", None),
    "SHADOW": ("it runs a second network beside the model: no weight of the base changes", None),
    # Changes that depend on the base weights, or stand in their place.
    "BOFT": ("it multiplies the base weights by an orthogonal matrix", MERGE),
    "OFT": ("it multiplies the base weights by an orthogonal matrix", MERGE),
    "HRA": ("it multiplies the base weights by Householder reflections", MERGE),
    "ROAD": (
        "it rotates and scales the layer's outputs, so its change is a multiple of them",
        MERGE,
    ),
    "PSOFT": (
        "it rotates the principal part of the base weights, which the file does not hold",
        AS_LORA,
    ),
    "HIRA": ("its update is multiplied elementwise by the base weights", MERGE),
    "GLORA": (
        "it scales and shifts the base weights and biases, also by products with them",
        MERGE,
    ),
    "PEANUT": ("a small network computes its update from the base weights", MERGE),
    "DEFT": ("it first projects a part out of the base weights", MERGE),
    "FROD": ("it replaces the base weights by a factorisation of its own", MERGE),
    "OSF": (
        "it stores singular vectors that replace those of the base weights, so the change needs the "
        "base's decomposition",
        MERGE,
    ),
    "ADAMSS": (
        "which rows its blocks change was found by clustering the base weights, and is not saved",
        MERGE,
    ),
    "LN_TUNING": (
        "it stores the normalisation layers as they are after training, so the change needs the base's",
        DENSE,
    ),
    "TRAINABLE_TOKENS": (
        "it stores rows of the embedding as they are after training, so the change needs the base's",
        DENSE,
    ),
    # The file leaves open where, or on how wide a layer, the update lies.
    "MISS": (
        "the file does not say how wide the layers are that it repeats its block over, and with "
        "`init_weights` `bat` it multiplies the base weights",
        AS_LORA,
    ),
    "BONE": (
        "it is the older name of MISS, and PEFT has removed it",
        f"with a release of PEFT that has it, {MERGE}",
    ),
    "FOURIERFT": (
        "the file holds neither the shape of the layers nor where its frequencies lie: torch's "
        "generator draws them when the base model is loaded",
        AS_LORA,
    ),
    "WAVEFT": (
        "the file holds neither the shape of the layers nor where its coefficients lie: torch's "
        "generator draws them when the base model is loaded",
        AS_LORA,
    ),
}
