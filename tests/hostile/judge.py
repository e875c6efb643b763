"""What every refusal must be: on purpose, in time, safe to print, and without traces."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unicodedata import category

from pemath.errors import PemathError

# Control, format and direction characters, lone surrogates, separators of lines.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class TooSlow(BaseException):
    """No `except Exception` may take it for an ordinary failure."""


@contextmanager
def within(seconds: float, waiting: float = 60.0) -> Iterator[None]:
    """Stop the block with TooSlow after so many seconds of work (also inside a regular expression),
    or of waiting: a busy machine is no failure.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"not done after {seconds} s of work or {waiting} s")

    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, stop) for number in timers}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, waiting)
    try:
        yield
    finally:
        for number, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def outcome(
    call: Callable[[], Any], seconds: float = 5.0, waiting: float = 60.0
) -> PemathError | None:
    """The error of pemath that `call` raises, or None if it succeeds. Anything else is passed on.

    Nothing but the error may be told: no warning either.
    """
    found = None
    with warnings.catch_warnings(record=True) as told, within(seconds, waiting):
        warnings.simplefilter("always")
        try:
            call()
        except PemathError as error:
            found = error
    assert not told, f"warned: {told[0].message}"
    if found is not None:
        check_message(found)
    return found


def check_message(error: PemathError) -> None:
    """Printing it can do nothing to a terminal, and does not fill it."""
    text = str(error)
    check_printable(text)
    assert len(text) < 3000, f"a message of {len(text)} characters"
    assert len(text.split("\n")) <= 5, f"a stranger's line break in {text!r}"


def check_printable(text: str) -> None:
    """Line ends aside, there is nothing in it that is not seen."""
    unseen = sorted({c for c in text if c != "\n" and category(c) in UNSEEN})
    assert not unseen, f"characters {unseen} in {text!r}"


def check_refused(error: PemathError | None, expected: type[PemathError] | None) -> None:
    """`error` is what an attack expects; with None, accepting it is right too."""
    if expected is None:
        return
    assert error is not None, f"accepted; {expected.__name__} was expected"
    assert isinstance(error, expected), f"{type(error).__name__}: {error}"


def leftovers(folder: Path, *known: str) -> list[str]:
    """Names in `folder`, hidden ones included, that should not be there."""
    return sorted(path.name for path in folder.iterdir() if path.name not in known)
