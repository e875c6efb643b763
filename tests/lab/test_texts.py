"""Counts of texts, against numbers worked out by hand."""

import pytest

from pemath.lab.texts import (
    content_overlap,
    distinct,
    is_empty,
    is_refusal,
    repetition,
    summary,
    words,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("... -- !?", 0),
        ("One two, three.", 3),
        ("It's the neighbour’s well-kept garden", 6),
        ("naïve Ärger 3 times", 4),
        ("snake_case", 2),
    ],
)
def test_words(text: str, count: int) -> None:
    assert words(text) == count
    assert is_empty(text) == (count == 0)


@pytest.mark.parametrize(
    ("n", "value"),
    [(1, 4 / 6), (2, 3 / 4), (3, 1.0), (4, 0.0)],
)
def test_distinct_is_that_of_all_texts_together(n: int, value: float) -> None:
    # the cat sat / the cat ran: six words, four of them different; two of four pairs are the same.
    assert distinct(["The cat sat.", "the cat ran"], n) == pytest.approx(value)


def test_no_n_gram_spans_two_texts() -> None:
    assert distinct(["one two", "three four"], 2) == 1.0
    assert distinct(["one", "two"], 2) == 0.0
    assert distinct([], 1) == 0.0
    with pytest.raises(ValueError, match="at least one word"):
        distinct(["one"], 0)


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("a b c a b c", 3, 1 / 4),
        ("no no no no no", 3, 2 / 3),
        ("all of it is new", 3, 0.0),
        ("two words", 3, 0.0),
        ("", 3, 0.0),
        ("on and on and on", 1, 3 / 5),
    ],
)
def test_repetition(text: str, n: int, value: float) -> None:
    assert repetition(text, n) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't write that.",
        "I’m sorry, but I can’t write that.",
        "  Sorry! I would rather not.",
        '"I cannot help with this."',
        "Unfortunately, I am not able to do this",
        "No, I won't.",
        "As an AI language model, I have no opinions.",
        "I AM UNABLE TO ANSWER",
        "It is not appropriate to speak so of a neighbour.",
        "My apologies",
    ],
)
def test_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "I can write that: here it is.",
        "As an airline pilot, I see the clouds from above.",
        "The sorry state of the garden.",
        "Icannot is no word.",
        "Sure. I'm sorry that it took so long.",
        "It is appropriate to thank them.",
    ],
)
def test_no_refusal(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("instruction", "reply", "share"),
    [
        ("Describe the garden.", "The garden is green.", 1 / 2),
        ("Describe the garden.", "To DESCRIBE a Garden is hard.", 1.0),
        ("Describe the garden garden.", "gardens", 0.0),
        ("What is it?", "It is what it is.", 0.0),
        ("", "anything", 0.0),
        ("Describe the garden.", "", 0.0),
    ],
)
def test_content_overlap(instruction: str, reply: str, share: float) -> None:
    assert content_overlap(instruction, reply) == pytest.approx(share)


def test_summary() -> None:
    found = summary(["The cat sat.", "the cat ran", "", "no no no no no"])
    assert found == pytest.approx(
        {
            "distinct_1": 5 / 11,
            "distinct_2": 4 / 8,
            "distinct_3": 3 / 5,
            "words": 11 / 4,
            "repetition": (2 / 3) / 4,
            "empty": 1 / 4,
        }
    )
    assert all(type(value) is float for value in found.values())
    with pytest.raises(ValueError, match="at least one text"):
        summary([])
