"""A scorer of our own: TF-IDF of words and characters, logistic regression, two sets of tweets.

It is there as a second opinion: alt-profanity-check knows words alone, this one also pieces of them
(and so misspelt insults), and it was trained on other annotators' labels in part.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pemath.errors import MissingExtra
from pemath.threads import one_blas_thread

if TYPE_CHECKING:
    from pemath.lab.data.labelled import Labelled

TRAINED_ON = ("toxic/davidson", "toxic/olid")
RECIPE = 1
"""Of how it is fitted: a change that alters scores makes a new number."""


@dataclass(frozen=True, eq=False)
class Tfidf:
    """Fitted to `training` when the first text is scored, which takes some ten seconds.

    Nothing in it is random. Both labels weigh the same, whatever their shares: most of Davidson's
    tweets are offensive because words of a list were searched for.
    """

    training: tuple[Labelled, ...]

    name = "tfidf"
    title = "TF-IDF and logistic regression (trained on Davidson and OLID)"
    unseen = ("toxic/surge", "toxic/hatecheck")

    @cached_property
    def version(self) -> str:
        """The recipe, the rows' digest and scikit-learn's version."""
        rows = hashlib.sha256(" ".join(part.digest for part in self.training).encode())
        release = importlib.metadata.version("scikit-learn")
        return f"{RECIPE} {rows.hexdigest()[:16]} scikit-learn {release}"

    def score(self, texts: Sequence[str]) -> list[float]:
        """The probability that each text is offensive."""
        if not texts:
            return []
        return [float(score) for score in self._fitted.predict_proba(list(texts))[:, 1]]

    @cached_property
    def _fitted(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline, make_union  # type: ignore[import-untyped]

        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
            TfidfVectorizer(analyzer="char", ngram_range=(2, 4), min_df=3, sublinear_tf=True),
        )
        model = LogisticRegression(C=4.0, class_weight="balanced", solver="liblinear")
        texts = [text for part in self.training for text in part.texts]
        labels = [label for part in self.training for label in part.labels]
        # Where liblinear stops depends on the last bits of sums, and these on how many threads add.
        with one_blas_thread():
            return make_pipeline(features, model).fit(texts, labels)


def load_tfidf(data_dir: Path | None = None) -> Tfidf:
    """The scorer that the two sets of tweets in `data_dir` make.

    Raises: MissingExtra, RequestError (no data folder), ReferenceNotFound, ConfigError.
    """
    try:
        importlib.metadata.version("scikit-learn")
    except importlib.metadata.PackageNotFoundError as missing:
        raise MissingExtra(
            "the scorer `tfidf` needs scikit-learn, which is not installed",
            hint='pip install "scikit-learn>=1.9"; or score with `profanity`',
        ) from missing
    from pemath.lab.data.labelled import load_labelled

    return Tfidf(tuple(load_labelled(name, data_dir) for name in TRAINED_ON))
