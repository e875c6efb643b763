"""The system calls by which a result comes into being, each a place to fail at."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Module, function, and which calls of it count: those that make or change something.
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _always(*_: Any, **__: Any) -> bool:
    return True


def _opens_to_write(path: object, flags: int = 0, *_: Any, **__: Any) -> bool:
    return bool(flags & WRITING)


def _mode_writes(path: object, mode: str = "r", *_: Any, **__: Any) -> bool:
    return mode[:1] in "wxa"


CALLS: list[tuple[Any, str, Callable[..., bool]]] = [
    (os, "mkdir", _always),
    (os, "open", _opens_to_write),
    (os, "pwrite", _always),
    (os, "pwritev", _always),
    (os, "posix_fallocate", _always),
    (os, "ftruncate", _always),
    (os, "fsync", _always),
    (os, "rename", _always),
    (os, "replace", _always),
    (io, "open", _mode_writes),
]


@contextmanager
def intercepted(at_step: Callable[[int, str], None]) -> Iterator[None]:
    """Call `at_step(number, name)` before every such call inside the block, from any thread."""
    lock = threading.Lock()
    count = 0
    real = [(module, name, getattr(module, name, None), counts) for module, name, counts in CALLS]

    def watched(name: str, function: Callable[..., Any], counts: Callable[..., bool]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if counts(*arguments, **options):
                with lock:
                    number, count = count, count + 1
                at_step(number, name)
            return function(*arguments, **options)

        return call

    try:
        for module, name, function, counts in real:
            if function is not None:
                setattr(module, name, watched(name, function, counts))
        yield
    finally:
        for module, name, function, _ in real:
            if function is not None:
                setattr(module, name, function)


def names(run: Callable[[], object]) -> list[str]:
    """The steps of `run`, which must succeed."""
    found: list[tuple[int, str]] = []
    with intercepted(lambda number, name: found.append((number, name))):
        run()
    return [name for _, name in sorted(found)]
