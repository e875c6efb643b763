"""How large models are, known without loading them: what an estimate counts with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pemath.errors import PemathError
from pemath.formats.safetensors import TensorFile
from pemath.limits import LIMITS
from pemath.names import display

Shape = tuple[int, int, int]  # inputs, outputs, how many layers have it


@dataclass(frozen=True)
class ModelSize:
    """A model in numbers.

    `working` parameters are multiplied for every token of the input: all but the embeddings and, of
    a sequence-to-sequence model, the decoder, which sees a word or two. `writing` ones are for every
    token that is written, or whose likelihood is asked for: with the map to the vocabulary, and of
    a `two_sided` model, one that has a decoder, that alone. `linears` are the adapted or adaptable
    maps by the end of their names; `default` what PEFT adapts unless told.
    """

    source: str
    parameters: int
    working: int
    linears: Mapping[str, Shape] = field(repr=False)
    default: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    writing: int = 0  # 0: it writes nothing
    two_sided: bool = False
    head: int = 0  # width of the head's input, where there is one
    dense_head: bool = False  # the head has a square map before the last one

    def adapter(
        self, targets: Sequence[str] | None, kind: str, rank: int, feedforward: Sequence[str] | None
    ) -> int | None:
        """Parameters of a LoRA or an (IA)³, without the head; None where it is not known."""
        targets = targets if targets is not None else self.default.get(kind)
        inner = feedforward if feedforward is not None else self.default.get("feedforward", ())
        chosen = [(name, shape) for name, shape in self.linears.items() if _among(name, targets)]
        if not chosen:
            return None
        if kind == "lora":
            return sum(rank * (i + o) * count for _, (i, o, count) in chosen)
        return sum((i if _among(n, inner) else o) * count for n, (i, o, count) in chosen)

    def grams(self, targets: Sequence[str] | None, kind: str, vectors: int | None) -> int | None:
        """Numbers in the Gram matrices of a module; of an (IA)³ only diagonals, as many numbers as
        it has itself.
        """
        if kind == "ia3":
            return vectors
        if kind == "lora":
            targets = targets if targets is not None else self.default.get(kind, ())
        sites = [s for n, s in self.linears.items() if kind == "full" or _among(n, targets)]
        return sum(inputs * inputs * count for inputs, _, count in sites) if sites else None

    def head_parameters(self, outputs: int) -> int:
        """Parameters of a classification head that gives `outputs` numbers."""
        dense = self.head * (self.head + 1) if self.dense_head else 0
        return dense + (self.head + 1) * outputs if self.head else 0


def _bert(hidden: int, layers: int, prefix: str, names: Sequence[str]) -> dict[str, Shape]:
    """The maps of an encoder of BERT's kind."""
    square, wide = (hidden, hidden, layers), (hidden, 4 * hidden, layers)
    attention = {f"{prefix}.{name}": square for name in names}
    last = {} if "o" in names else {"attention.output.dense": square}
    return {
        **attention,
        **last,
        "intermediate.dense": wide,
        "output.dense": (4 * hidden, hidden, layers),
    }


def _llama(hidden: int, keys: int, wide: int, layers: int) -> dict[str, Shape]:
    """The maps of a decoder of Llama's kind; `keys` is the width of all its keys together."""
    return {
        "self_attn.q_proj": (hidden, hidden, layers),
        "self_attn.k_proj": (hidden, keys, layers),
        "self_attn.v_proj": (hidden, keys, layers),
        "self_attn.o_proj": (hidden, hidden, layers),
        "mlp.gate_proj": (hidden, wide, layers),
        "mlp.up_proj": (hidden, wide, layers),
        "mlp.down_proj": (wide, hidden, layers),
    }


_BERT_DEFAULT = {
    "lora": ("query", "value"),
    "ia3": ("key", "value", "output.dense"),
    "feedforward": ("output.dense",),
}
_T5_DEFAULT = {"lora": ("q", "v"), "ia3": ("k", "v", "wo"), "feedforward": ("wo",)}
_LLAMA_DEFAULT = {
    "lora": ("q_proj", "v_proj"),
    "ia3": ("k_proj", "v_proj", "down_proj"),
    "feedforward": ("down_proj",),
}
_GPT2_DEFAULT = {
    "lora": ("c_attn",),
    "ia3": ("c_attn", "mlp.c_proj"),
    "feedforward": ("mlp.c_proj",),
}
_DEFAULTS = {
    "bert": _BERT_DEFAULT,
    "roberta": _BERT_DEFAULT,
    "t5": _T5_DEFAULT,
    "gpt2": _GPT2_DEFAULT,
    "llama": _LLAMA_DEFAULT,
}
_SELF = ("query", "key", "value")

MODEL_SIZES: Mapping[str, ModelSize] = MappingProxyType(
    {
        "pip:minilm": ModelSize(
            source="known: all-MiniLM-L6-v2",
            parameters=22_713_216,
            working=10_616_832,
            linears=_bert(384, 6, "attention.self", _SELF),
            default=_BERT_DEFAULT,
            head=384,
        ),
        "pip:mpnet": ModelSize(
            source="known: all-mpnet-base-v2",
            parameters=109_486_464,
            working=84_934_656,
            linears=_bert(768, 12, "attention.attn", ("q", "k", "v", "o")),
            head=768,
            dense_head=True,
        ),
        "pip:smollm2": ModelSize(
            source="known: SmolLM2-135M-Instruct",
            parameters=134_515_008,
            working=106_168_320,
            writing=134_479_872,
            linears=_llama(576, 192, 1536, 30),
            default=_LLAMA_DEFAULT,
        ),
        "FacebookAI/roberta-base": ModelSize(
            source="known: RoBERTa-base",
            parameters=124_055_040,
            working=84_934_656,
            linears=_bert(768, 12, "attention.self", _SELF),
            default=_BERT_DEFAULT,
            head=768,
            dense_head=True,
        ),
        "google-t5/t5-base": ModelSize(
            source="known: T5-base",
            parameters=222_903_552,
            # The encoder, and the keys and values that the decoder makes of every input token.
            working=99_090_432,
            # The decoder without those, and the vocabulary of 32,128.
            writing=123_764_736,
            two_sided=True,
            # Attention in the encoder and twice in the decoder; feed-forward in both.
            linears=dict.fromkeys(("q", "k", "v", "o"), (768, 768, 36))
            | {"wi": (768, 3072, 24), "wo": (3072, 768, 24)},
            default=_T5_DEFAULT,
        ),
        "openai-community/gpt2-large": ModelSize(
            source="known: GPT-2 large",
            parameters=774_030_080,
            working=707_788_800,
            writing=772_117_760,
            linears={
                "attn.c_attn": (1280, 3840, 36),
                "attn.c_proj": (1280, 1280, 36),
                "mlp.c_fc": (1280, 5120, 36),
                "mlp.c_proj": (5120, 1280, 36),
            },
            default=_GPT2_DEFAULT,
        ),
        "huggyllama/llama-7b": ModelSize(
            source="known: LLaMA-7B",
            parameters=6_738_415_616,
            working=6_476_005_376,
            writing=6_607_077_376,
            linears=_llama(4096, 4096, 11_008, 32),
            default=_LLAMA_DEFAULT,
        ),
    }
)
_SAME = {
    "roberta-base": "FacebookAI/roberta-base",
    "t5-base": "google-t5/t5-base",
    "gpt2-large": "openai-community/gpt2-large",
    "sentence-transformers/all-MiniLM-L6-v2": "pip:minilm",
    "sentence-transformers/all-mpnet-base-v2": "pip:mpnet",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "pip:smollm2",
}


def size_of(model: str) -> ModelSize | None:
    """The size of a model that is known, or of one that lies in a folder; else None."""
    known = MODEL_SIZES.get(_SAME.get(model, model))
    if known is not None:
        return known
    folder = Path(model)
    if not folder.is_dir():
        return None
    try:
        return _measured(folder)
    except (OSError, ValueError, TypeError, AttributeError, PemathError):
        return None  # loading it will say what is wrong


def _measured(folder: Path) -> ModelSize | None:
    """The size by the headers of the folder's safetensors files."""
    with open(folder / "config.json", "rb") as file:
        config = json.loads(file.read(LIMITS.request_bytes))
    shapes = {
        name: entry.shape
        for path in sorted(folder.glob("model*.safetensors"))
        for name, entry in TensorFile.open(path).entries.items()
    }
    if not shapes:
        return None
    two_sided = bool(config.get("is_encoder_decoder"))
    working, written, vocabulary, maps = 0, 0, 0, {}
    for name, shape in shapes.items():
        if len(shape) != 2:
            continue
        if _embeds(name):  # the map to the vocabulary is one of these, or has the shape of one
            vocabulary = max(vocabulary, shape[0] * shape[1])
            continue
        if _reads_input(name, two_sided=two_sided):
            working += shape[0] * shape[1]
        else:
            written += shape[0] * shape[1]
        maps[name.removesuffix(".weight")] = (shape[1], shape[0], 1)
    architectures = [str(name) for name in config.get("architectures") or ()]
    generates = two_sided or any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in architectures)
    written = (written if two_sided else working) + vocabulary
    return ModelSize(
        source=f"the files in {display(folder)}",
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        working=working,
        writing=written if generates else 0,
        two_sided=two_sided,
        linears=maps,
        default=_DEFAULTS.get(str(config.get("model_type")), {}),
        head=0 if generates else int(config.get("hidden_size", 0)),
        dense_head=config.get("model_type") in {"roberta", "mpnet"},
    )


def _among(name: str, targets: Sequence[str] | None) -> bool:
    """Whether PEFT would adapt the map: a target is the end of its name, from a dot on."""
    return any(f".{name}".endswith(f".{target}") for target in targets or ())


def _reads_input(name: str, *, two_sided: bool) -> bool:
    """Whether a map is applied to every token of the input."""
    if "pooler." in name:
        return False
    if not two_sided or "encoder." in name.replace("decoder.", ""):
        return True
    return "EncDecAttention.k." in name or "EncDecAttention.v." in name


def _embeds(name: str) -> bool:
    return any(part in name for part in ("embed", "shared.", "wte.", "wpe.", "lm_head."))
