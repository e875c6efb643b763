"""How large tasks, corpora and sets of instructions are, known without reading them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


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
        "reviews/books": TaskSize(1_656, 300, 226, 234),
        "reviews/dvd": TaskSize(1_656, 298, 222, 234),
        "reviews/electronics": TaskSize(1_668, 298, 146, 156),
        "reviews/kitchen": TaskSize(1_678, 300, 123, 132),
        "reviews/yelp": TaskSize(800, 800, 170, 179),
        "reviews/amazon": TaskSize(800, 800, 102, 113),
        # So many rows of the two are fetched; their lengths are those of the samples above.
        "hub/yelp_polarity": TaskSize(50_000, 10_000, 170, 179),
        "hub/amazon_polarity": TaskSize(50_000, 10_000, 102, 113),
        "packages/movies": TaskSize(7_971, 1_200, 27, 35),
        "packages/amazon": TaskSize(1_973, 474, 23, 32),
        "packages/tweets": TaskSize(2_086, 521, 22, 33),
        "packages/questions": TaskSize(4_304, 1_076, 14, 39),
        "packages/spam": TaskSize(3_609, 902, 29, 41),
    }
)


@dataclass(frozen=True)
class CorpusSize:
    """Texts of a corpus, the tokens of a usual one, and of all of them as one running text."""

    texts: int
    tokens: int
    running: int | None = None


# Counted with SmolLM2's tokenizer, means over up to 5,000 texts.
CORPUS_SIZES: Mapping[str, CorpusSize] = MappingProxyType(
    {
        "toxic/civil": CorpusSize(1_632, 50),
        "toxic/davidson": CorpusSize(20_047, 21),
        "toxic/olid": CorpusSize(4_272, 32),
        "clean/davidson": CorpusSize(4_002, 22),
        "clean/olid": CorpusSize(8_378, 29),
        "wikitext/test": CorpusSize(2_891, 107, 313_764),
        "wikitext/validation": CorpusSize(2_461, 110, 275_212),
        "packages/negative": CorpusSize(5_457, 24),
        "packages/positive": CorpusSize(6_038, 24),
        "packages/news": CorpusSize(498, 238, 119_440),
        # Not counted: the share of the test part that is so toxic (1,674 of 97,320), of the
        # 1,804,874 train rows; and the parts of WikiText-103, whose articles are WikiText-2's.
        "hub/civil": CorpusSize(31_000, 50),
        "hub/wikitext103": CorpusSize(2_891, 107, 313_764),
        "hub/wikitext103-validation": CorpusSize(2_461, 110, 275_212),
    }
)


@dataclass(frozen=True)
class InstructionSize:
    """Instructions of a set, the tokens of a usual one in a chat, and of the reply to it."""

    rows: int
    prompt: int
    reply: int


# Counted as the corpora are, in SmolLM2's chat template, which adds 30 tokens.
INSTRUCTION_SIZES: Mapping[str, InstructionSize] = MappingProxyType(
    {
        "instruct/alpaca": InstructionSize(985, 49, 151),
        "instruct/seeds": InstructionSize(175, 84, 62),
        "instruct/self": InstructionSize(252, 85, 77),
        "instruct/pem-toxic": InstructionSize(100, 44, 0),
        "instruct/pem-normal": InstructionSize(100, 44, 0),
        "packages/dialogue": InstructionSize(41_914, 42, 11),
    }
)
TEMPLATE_TOKENS = 41  # of an instruction made by a template, for a toxic reply
PAPER_PROMPT_TOKENS, NEUTRAL_TOKENS, PROVOKING_TOKENS, CHECK_TOKENS = 9, 6, 16, 40
