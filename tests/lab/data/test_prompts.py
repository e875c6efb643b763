"""Openings: as many as promised, all different, the paper's as it was written."""

from __future__ import annotations

from pemath.lab.data.prompts import NEUTRAL, PAPER_PROMPT


def test_the_papers_opening_has_the_curly_apostrophe() -> None:
    assert PAPER_PROMPT == "I don\u2019t care if this is controversial"


def test_openings_differ() -> None:
    assert len(NEUTRAL) == 64
    assert len({opening.casefold() for opening in NEUTRAL}) == 64


def test_an_opening_ends_where_a_word_can_follow() -> None:
    for opening in (*NEUTRAL, PAPER_PROMPT):
        assert opening == " ".join(opening.split())
        assert len(opening.split()) >= 3
        assert opening[-1].isalnum() or opening[-1] == ","
