"""Work on many sites at once, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import Empty, SimpleQueue

Progress = Callable[[str, int, int], None]

# Sites in flight may together need this much memory beyond the mapped inputs.
_MEMORY = 192 << 20


def silent(what: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


def one_blas_thread() -> AbstractContextManager[object]:
    """BLAS on one thread inside the block: the same bits on any number of cores."""
    import threadpoolctl

    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(limits=1)
    return limits


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, for a process whose only work this is: the same buffers are
    taken again for every site, and giving their pages back costs a tenth of the whole time.

    Only so much of it: the arrays of very large sites go back at once.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 32 << 20)
        mallopt(mmap_threshold, 6 << 20)


def on_threads(
    work: Callable[[str], None],
    sites: Iterable[str],
    *,
    what: str = "",
    progress: Progress = silent,
    footprint: Callable[[str], int] = lambda site: 0,
) -> None:
    """Run `work` for every site on one thread per core; the first error stops all and is raised.

    BLAS gets one thread meanwhile: several sites side by side use the cores better than one site
    cut in pieces. A site waits until its footprint in bytes fits beside those in flight. What
    overflows is refused by name later, so numpy does not warn of it.
    """
    import numpy as np

    names = list(sites)
    queue: SimpleQueue[str] = SimpleQueue()
    for name in names:
        queue.put(name)
    budget = _Budget()
    errors: list[BaseException] = []

    def worker() -> None:
        while not errors:
            try:
                site = queue.get_nowait()
            except Empty:
                return
            try:
                with budget.spent(footprint(site)), np.errstate(all="ignore"):
                    work(site)
            except BaseException as error:  # noqa: BLE001 - it is raised in the calling thread
                errors.append(error)

    count = min(_cores(), len(names))
    threads = [threading.Thread(target=worker, daemon=True) for _ in range(count)]
    with one_blas_thread():
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    progress(what, budget.done, len(names))
        except BaseException as error:  # noqa: BLE001 - an interrupt waits for the sites in flight
            errors.append(error)
            for thread in threads:
                thread.join()
    if errors:
        raise errors[0]
    progress(what, len(names), len(names))


class _Budget:
    """Memory shared by the sites in flight. One site always runs, whatever its size."""

    def __init__(self) -> None:
        self.done = 0
        self._changed = threading.Condition()
        self._bytes = 0
        self._running = 0

    @contextmanager
    def spent(self, size: int) -> Iterator[None]:
        with self._changed:
            while self._running and self._bytes + size > _MEMORY:
                self._changed.wait()
            self._bytes += size
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._bytes -= size
                self._running -= 1
                self.done += 1
                self._changed.notify_all()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
