"""Texts with a label that a scorer can be judged by: toxic or not, negative or not.

Layout under the data folder: `toxicity/` with the files as published. Texts are tidied (`tidy`,
`tidy_tweet`), those of under `MIN_WORDS` words are dropped, and so is a text that the file holds
under both labels; a text that occurs twice counts once. The order is the fixed hash's.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pemath.errors import RequestError
from pemath.lab.data import folder, packages
from pemath.lab.data.files import csv_records, tsv_records
from pemath.lab.data.rows import Row, digest, order_key
from pemath.names import display

MIN_WORDS = 3
DAMAGED = "\N{REPLACEMENT CHARACTER}"

_URL = re.compile(r"(?:\bhttps?\b|www\.|\bt\.co/)\S*", re.IGNORECASE)
_OLID_URL = re.compile(r"\bURL\b")
_HANDLE = re.compile(r"@\w+")
_HANDLES = re.compile(r"@user(?:[\s:,]*@user)+")
# `RT @name:` says whose words they are, and is none of them; some are quoted or shouted at.
_RETWEET = re.compile(r"^\W*(?:@user\W*)?\bRT\b[\s:]*(?:@user[\s:]*)?")


@dataclass(frozen=True)
class Labelled:
    """Texts, and for each whether it is one of those looked for (1) or not (0)."""

    name: str
    source: str
    texts: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    digest: str


@dataclass(frozen=True)
class LabelledFile:
    """A file of texts and labels: `labels` are those that it knows, `positive` those that count."""

    file: str
    text: str
    label: str
    labels: tuple[str, ...]
    positive: frozenset[str]
    source: str
    origin: str
    tweets: bool = False
    quoted: bool = True

    def read(self, data_dir: Path) -> tuple[Row, ...]:
        """Its rows. Raises: ReferenceNotFound, ConfigError."""
        data, path = folder.read(data_dir, self.file, self.origin)
        if self.quoted:
            records = csv_records(data, path)
        else:
            # Some bytes of the file in circulation are damaged; its texts are dropped below.
            records = tsv_records(data.decode("utf-8", "replace").encode(), path)
        put = tidy_tweet if self.tweets else tidy
        return distinct(
            (
                put(text),
                int(self.labels[folder.index(label, self.labels, place, path)] in self.positive),
            )
            for place, (text, label) in folder.columns(records, (self.text, self.label), path)
        )


def tidy(text: str) -> str:
    """`text` on one line, without addresses of pages or invisible characters, and with characters
    for HTML's names of them.
    """
    text = _URL.sub(" ", html.unescape(html.unescape(text)))  # what is quoted is escaped twice
    visible = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return " ".join(visible.split())


def tidy_tweet(text: str) -> str:
    """`text` as `tidy` puts it, without the mark of a retweet, and with `@user` for one or several
    users' names.
    """
    text = _HANDLES.sub("@user", _HANDLE.sub("@user", tidy(_OLID_URL.sub(" ", text))))
    while (shorter := _RETWEET.sub("", text)) != text:
        text = shorter
    return text


def distinct(found: Iterable[tuple[str, int]]) -> tuple[Row, ...]:
    """Rows of one text each in the fixed order: no twins, none of under `MIN_WORDS` words, none
    damaged, and no text that has two labels.
    """
    first: dict[tuple[str, ...], Row] = {}
    disputed = set()
    for text, label in found:
        words = sum(word != "@user" for word in text.split())
        if words < MIN_WORDS or DAMAGED in text:
            continue
        row = Row((text,), label)
        if first.setdefault(row.identity, row).label != label:
            disputed.add(row.identity)
    kept = (row for row in first.values() if row.identity not in disputed)
    return tuple(sorted(kept, key=order_key))


FILES: Mapping[str, LabelledFile] = MappingProxyType(
    {
        "toxic/surge": LabelledFile(
            "toxicity/surge_toxicity_en.csv",
            "text",
            "is_toxic",
            ("Not Toxic", "Toxic"),
            frozenset({"Toxic"}),
            "Surge AI toxicity, 1,000 comments from social media (MIT)",
            "https://github.com/surge-ai/toxicity",
        ),
        "toxic/hatecheck": LabelledFile(
            "toxicity/hatecheck_test_suite_cases.csv",
            "test_case",
            "label_gold",
            ("non-hateful", "hateful"),
            frozenset({"hateful"}),
            "HateCheck, test cases for hate speech (Röttger et al. 2021; CC BY 4.0)",
            "https://github.com/paul-rottger/hatecheck-data",
        ),
        "toxic/davidson": LabelledFile(
            "toxicity/davidson_labeled_data.csv",
            "tweet",
            "class",
            ("0", "1", "2"),
            frozenset({"0", "1"}),
            "tweets, hateful or offensive against neither (Davidson et al. 2017; MIT)",
            "https://github.com/t-davidson/hate-speech-and-offensive-language",
            tweets=True,
        ),
        "toxic/olid": LabelledFile(
            "toxicity/olid-training-v1.0.tsv",
            "tweet",
            "subtask_a",
            ("NOT", "OFF"),
            frozenset({"OFF"}),
            "OLID 1.0 train tweets, offensive or not (Zampieri et al. 2019; for research)",
            "https://sites.google.com/site/offensevalsharedtask/olid",
            tweets=True,
            quoted=False,
        ),
    }
)

AMAZON = "packages/amazon"
LABELLED: tuple[str, ...] = (*FILES, AMAZON)


def load_labelled(name: str, data_dir: Path | None) -> Labelled:
    """The labelled texts called `name`, one of `LABELLED`.

    Raises: RequestError (unknown, or it needs a data folder), MissingExtra, ReferenceNotFound,
        ConfigError.
    """
    if name in FILES:
        known = FILES[name]
        rows = known.read(folder.needed(name, data_dir, f"{AMAZON}, which needs none"))
        return _labelled(name, known.source, rows)
    if name == AMAZON:
        parts = packages.read_package(name)
        found = ((row.texts[0], int(row.label == 0)) for row in (*parts.train, *parts.test))
        return _labelled(name, f"{parts.task.source}; 1 is negative", distinct(found))
    raise unknown("labelled set", name, LABELLED)


def unknown(what: str, name: str, known: Iterable[str]) -> RequestError:
    """The refusal of a name that is none of the `known` ones."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return RequestError(
        f"unknown {what} `{display(name)}`",
        expected=", ".join(names),
        hint=f"did you mean `{close[0]}`?" if close else None,
    )


def _labelled(name: str, source: str, rows: tuple[Row, ...]) -> Labelled:
    texts = tuple(row.texts[0] for row in rows)
    return Labelled(name, source, texts, tuple(int(row.label) for row in rows), digest(rows))
