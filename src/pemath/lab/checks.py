"""Instructions whose fulfilment a function can verify, so that helpfulness is measured without a judge.

The idea is IFEval's (Zhou et al. 2023, arXiv 2311.07911); the instructions are pemath's own, short
enough that a model of 135 M parameters fulfils some of them, and that 40 tokens hold a good reply.
A verdict is about the letter of the instruction, not about how good the reply is, and a lenient one:
a reply that names the right word passes, whatever it says of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pemath.lab.texts import is_refusal

Passes = Callable[[str], bool]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE = re.compile(r"[.!?…]+[\"'”’)*\]]*(?:\s+|$)")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])(?:\s+|$)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


@dataclass(frozen=True)
class Check:
    """One instruction, and whether a reply fulfils it. A reply without words never does, nor a
    refusal, nor one that begins with the instruction itself.
    """

    instruction: str
    passes: Passes


# ------------------------------------------------------------------------ what can be required


def mentions(*alternatives: str) -> Passes:
    """At least one of these words, or its plural in s."""
    wanted = {form for word in alternatives for form in (word, f"{word}s")}
    return lambda reply: bool(wanted.intersection(_words(reply)))


def mentions_first(word: str, other: str) -> Passes:
    """`word`, and `other` not before it."""

    def passes(reply: str) -> bool:
        found = [each for each in _words(reply) if each in (word, other)]
        return found[:1] == [word]

    return passes


def word_count(least: int, most: int) -> Passes:
    """So many words."""
    return lambda reply: least <= len(_words(reply)) <= most


def sentence_count(number: int) -> Passes:
    """Exactly so many sentences; one that breaks off counts."""
    return lambda reply: len(_sentences(reply)) == number


def begins(*alternatives: str) -> Passes:
    """One of these words as the first word."""
    return lambda reply: "".join(_words(reply)[:1]) in alternatives


def begins_with_letter(letter: str) -> Passes:
    """A first word that begins with `letter`."""
    return lambda reply: "".join(_words(reply)[:1]).startswith(letter)


def finishes(word: str) -> Passes:
    """`word` as the last word."""
    return lambda reply: _words(reply)[-1:] == [word]


def closes(mark: str) -> Passes:
    """Some words with `mark` after the last of them."""
    return lambda reply: bool(_words(reply)) and _bare(reply).endswith(mark)


def leaves_open(marks: str) -> Passes:
    """Some words with none of `marks` at the end."""
    return lambda reply: bool(_words(reply)) and not _bare(reply).endswith(tuple(marks))


def lacks(letter: str) -> Passes:
    """Some words, and `letter` nowhere."""
    return lambda reply: bool(_words(reply)) and letter not in reply.lower()


def has(pattern: str) -> Passes:
    """A place that the regular expression matches; capitals matter."""
    compiled = re.compile(pattern)
    return lambda reply: compiled.search(reply) is not None


def numbers(*wanted: int) -> Passes:
    """These numbers, in this order, and no others."""
    digits = re.compile(r"\d+")
    return lambda reply: [int(n) for n in digits.findall(reply)] == list(wanted)


def repeats(word: str, times: int) -> Passes:
    """`word` exactly so often, and no other word."""
    return lambda reply: _words(reply) == [word] * times


def items(number: int, least: int = 1, most: int = 3) -> Passes:
    """So many things between commas (or "and"), each of `least` to `most` words."""
    comma = re.compile(r",\s*(?:and\s+)?|\s+and\s+")

    def passes(reply: str) -> bool:
        parts = [len(_words(part)) for part in comma.split(_bare(reply))]
        return len(parts) == number and all(least <= count <= most for count in parts)

    return passes


def lines(number: int, bullet: str = "") -> Passes:
    """So many lines with a word in each, every one beginning with `bullet`."""

    def passes(reply: str) -> bool:
        found = [line.strip() for line in reply.strip().splitlines() if line.strip()]
        return len(found) == number and all(
            line.startswith(bullet) and _words(_BULLET.sub("", line)) for line in found
        )

    return passes


def letters(wanted: str) -> Passes:
    """Single letters in this order, and nothing else but what separates them."""
    return lambda reply: (
        "".join(_words(reply)).replace("-", "") == wanted
        and len(re.findall(r"[^\W_]+", reply)) == len(wanted)
    )


def quoted(reply: str) -> bool:
    """Whether all of it stands in quotation marks."""
    whole = reply.strip().rstrip(".")
    return len(whole) > 2 and whole[-1] == _QUOTES.get(whole[0]) and bool(_words(whole))


def lower_case(reply: str) -> bool:
    """Whether it has letters, and no capital among them."""
    return reply.islower()


def capitals(reply: str) -> bool:
    """Whether it has letters, and none but capitals."""
    return reply.isupper()


def _check(instruction: str, *rules: Passes) -> Check:
    """The check that all of `rules` make, of replies that are neither echo nor refusal."""
    echo = _words(instruction)

    def passes(reply: str) -> bool:
        found = _words(reply)
        if not found or found[: len(echo)] == echo or is_refusal(reply):
            return False
        return all(rule(reply) for rule in rules)

    return Check(instruction, passes)


def _words(text: str) -> list[str]:
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE.split(text.strip()) if _words(part)]


def _bare(text: str) -> str:
    """`text` without blanks, emphasis and quotation marks around it."""
    return text.strip().strip("\"'“”‘’*_ \n")


# -------------------------------------------------------------------------- the instructions

CHECKS: tuple[Check, ...] = (
    # An answer that can be looked up.
    _check("What is the capital of France?", mentions("paris")),
    _check("What is 2 plus 3?", mentions("5", "five")),
    _check("What is the opposite of hot?", mentions("cold")),
    _check("What is the plural of mouse?", mentions("mice")),
    _check("Which day comes after Monday?", mentions("tuesday")),
    _check("What is the first month of the year?", mentions("january")),
    _check("How do you say thank you in French?", mentions("merci")),
    _check("Which animal barks?", mentions("dog")),
    _check("Which is bigger, an elephant or a mouse?", mentions_first("elephant", "mouse")),
    _check("What colour do you get when you mix blue and yellow?", mentions("green")),
    # A form that the answer must have.
    _check(
        "Answer with one word only: what colour is grass?",
        word_count(1, 1),
        mentions("green"),
    ),
    _check(
        "Answer with a number only: how many days has a week?",
        word_count(1, 2),
        mentions("7", "seven"),
    ),
    _check(
        "Begin your answer with yes or no: is ice cold?",
        begins("yes", "no"),
    ),
    _check(
        "Name an animal that begins with the letter B. Answer with one word.",
        word_count(1, 1),
        begins_with_letter("b"),
    ),
    _check("Describe a tree in at most ten words.", word_count(1, 10)),
    _check("Write a sentence of exactly five words.", word_count(5, 5), sentence_count(1)),
    _check(
        "Write one sentence about the sea.",
        sentence_count(1),
        word_count(3, 60),
        mentions("sea", "ocean"),
    ),
    _check("Write two sentences about dogs.", sentence_count(2), mentions("dog")),
    _check("Write a question about the weather.", closes("?"), word_count(2, 40)),
    _check("Write a short greeting that ends with an exclamation mark.", closes("!")),
    _check(
        "Write a title for a story about a dog, without a full stop at the end.",
        leaves_open("."),
        word_count(1, 15),
    ),
    _check("Write a short sentence without the letter z.", lacks("z"), word_count(2, 40)),
    _check("Say good morning in small letters only.", lower_case, mentions("morning")),
    _check("Write the word hello in capital letters.", has(r"\bHELLO\b")),
    _check(
        "Write a short sentence about rain in capital letters only.",
        capitals,
        word_count(2, 40),
    ),
    _check("Name a city. Put your whole answer in quotation marks.", quoted),
    # Words that must be there.
    _check("Write a sentence with the word garden.", mentions("garden"), word_count(3, 60)),
    _check(
        "Write a sentence with the words cat and window.",
        mentions("cat"),
        mentions("window"),
    ),
    _check(
        "Use the word because in a sentence about rain.",
        mentions("because"),
        mentions("rain"),
    ),
    _check("Begin a sentence with the word Today.", begins("today"), word_count(3, 60)),
    _check("Write a short farewell that ends with the word goodbye.", finishes("goodbye")),
    _check("Write the word apple three times and nothing else.", repeats("apple", 3)),
    # Lists, numbers and patterns.
    _check("Name three animals, separated by commas.", items(3)),
    _check("Name two fruits, each on a line of its own.", lines(2)),
    _check("List three colours. Begin each line with a hyphen.", lines(3, "-")),
    _check("Count from 1 to 5.", numbers(1, 2, 3, 4, 5)),
    _check("Sort these numbers from small to large: 3, 1, 2.", numbers(1, 2, 3)),
    _check("Write the first five letters of the alphabet, separated by commas.", letters("abcde")),
    _check(
        "Write any date in the form YYYY-MM-DD.",
        has(r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b"),
    ),
    _check("Make up an e-mail address.", has(r"[\w.+-]+@[\w-]+\.\w+")),
)
