"""A corpus in a file of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pemath.errors import ConfigError, ReferenceNotFound
from pemath.lab.data.corpora import load_corpus


def test_a_text_on_each_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("the second  text\n\nthe first text\r\nthe second text\n", encoding="utf-8")
    corpus = load_corpus(str(path), None)
    assert corpus.texts == ("the second text", "the first text", "the second text")
    assert corpus.running
    assert corpus.source == "own file: mine.txt"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="cannot be read"):
        load_corpus(str(tmp_path / "none.txt"), None)
    path = tmp_path / "mine.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_corpus(str(path), None)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no text"):
        load_corpus(str(path), None)
