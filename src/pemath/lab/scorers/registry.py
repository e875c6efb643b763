"""Scorers by name: those of pemath, and those that packages register."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pemath import plugins
from pemath.errors import ConfigError, RequestError
from pemath.lab.scorers.contract import Scorer
from pemath.lab.scorers.detoxify import load_detoxify
from pemath.lab.scorers.profanity import load_profanity
from pemath.lab.scorers.tfidf import load_tfidf
from pemath.lab.scorers.vader import load_vader
from pemath.names import display, listing

GROUP = "pemath.scorers"
DEFAULT = "profanity"

SCORERS: Mapping[str, Callable[[Path | None], Scorer]] = MappingProxyType(
    {
        "profanity": load_profanity,
        "tfidf": load_tfidf,
        "detoxify": partial(load_detoxify, variant="unbiased"),
        "detoxify-original": partial(load_detoxify, variant="original"),
        "vader": load_vader,
    }
)


def scorer_names() -> tuple[str, ...]:
    """All names that `load_scorer` knows: those of pemath first."""
    return (*SCORERS, *(name for name in plugins.names(GROUP) if name not in SCORERS))


def load_scorer(name: str, data_dir: Path | None = None) -> Scorer:
    """The scorer called `name`, ready to score. One of pemath's own goes before a plug-in's.

    Args:
        name: one of `scorer_names()`.
        data_dir: the folder with the data sets that cannot be fetched.

    Raises: RequestError (no such scorer, or it needs a data folder), MissingExtra,
        ReferenceNotFound (with what to install), VerificationFailed, ConfigError.
    """
    make = SCORERS.get(name) or plugins.named(GROUP, name)
    if make is None:
        names = scorer_names()
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        raise RequestError(
            "there is no such scorer",
            found=display(name),
            expected=listing(list(names)),
            hint=f"did you mean `{close[0]}`?"
            if close
            else f"a package adds one under the entry-point group `{GROUP}`",
        )
    scorer = make(data_dir) if callable(make) else make
    if not isinstance(scorer, Scorer):
        raise ConfigError(
            f"`{display(name)}` is no scorer",
            where=f"entry points `{GROUP}`",
            found=type(scorer).__name__,
            expected="`name`, `title`, `version`, `unseen` and `score(texts)`",
        )
    return scorer
