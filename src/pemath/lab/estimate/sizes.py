"""How large models and tasks are, known without loading them: what an estimate counts with."""

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
    a sequence-to-sequence model, the decoder, which sees a word or two. `linears` are the adapted
    or adaptable maps by the end of their names; `default` what PEFT adapts unless told.
    """

    source: str
    parameters: int
    working: int
    linears: Mapping[str, Shape] = field(repr=False)
    default: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
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


@dataclass(frozen=True)
class TaskSize:
    """Rows of a task, and the tokens of a usual one: of its texts, and of its prompt."""

    train: int
    test: int
    tokens: int
    prompt_tokens: int


# The official sizes; a data folder may hold subsets. Tokens: means measured with MiniLM's
# tokenizer (texts) and SmolLM2's (prompts) on up to 5,000 rows.
TASK_SIZES: Mapping[str, TaskSize] = MappingProxyType(
    {
        "glue/mnli": TaskSize(392_702, 9_815, 40, 46),
        "glue/rte": TaskSize(2_490, 277, 70, 79),
        "glue/cola": TaskSize(8_551, 1_043, 12, 18),
        "glue/sst2": TaskSize(67_349, 872, 18, 27),
        "glue/mrpc": TaskSize(3_668, 408, 53, 66),
        "glue/qnli": TaskSize(104_743, 5_463, 50, 59),
        "glue/qqp": TaskSize(363_846, 40_430, 31, 38),
        "glue/stsb": TaskSize(5_749, 1_500, 29, 29),
        "packages/movies": TaskSize(7_971, 1_200, 27, 35),
        "packages/amazon": TaskSize(1_973, 474, 23, 32),
        "packages/tweets": TaskSize(2_086, 521, 22, 33),
        "packages/questions": TaskSize(4_304, 1_076, 14, 39),
        "packages/spam": TaskSize(3_609, 902, 29, 41),
    }
)


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
_DEFAULTS = {
    "bert": _BERT_DEFAULT,
    "roberta": _BERT_DEFAULT,
    "t5": _T5_DEFAULT,
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
            linears={
                "self_attn.q_proj": (576, 576, 30),
                "self_attn.k_proj": (576, 192, 30),
                "self_attn.v_proj": (576, 192, 30),
                "self_attn.o_proj": (576, 576, 30),
                "mlp.gate_proj": (576, 1536, 30),
                "mlp.up_proj": (576, 1536, 30),
                "mlp.down_proj": (1536, 576, 30),
            },
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
            # Attention in the encoder and twice in the decoder; feed-forward in both.
            linears=dict.fromkeys(("q", "k", "v", "o"), (768, 768, 36))
            | {"wi": (768, 3072, 24), "wo": (3072, 768, 24)},
            default=_T5_DEFAULT,
        ),
    }
)
_SAME = {
    "roberta-base": "FacebookAI/roberta-base",
    "t5-base": "google-t5/t5-base",
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
    working, maps = 0, {}
    for name, shape in shapes.items():
        if len(shape) != 2 or _embeds(name):
            continue
        if _reads_input(name, two_sided=two_sided):
            working += shape[0] * shape[1]
        maps[name.removesuffix(".weight")] = (shape[1], shape[0], 1)
    architectures = [str(name) for name in config.get("architectures") or ()]
    generates = two_sided or any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in architectures)
    return ModelSize(
        source=f"the files in {display(folder)}",
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        working=working,
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
