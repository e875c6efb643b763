"""Factors that follow from the tensors of a file, computed when they are read."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from pemath.formats.floats import FLOAT_TYPES, FloatType, Raw, Stored

# Computed values are kept up to about this many bytes in all, the latest always.
_KEPT_BYTES = 512 << 20


class Computed(Stored):
    """An array that `compute` makes from `sources` each time that it is needed and not kept.

    Its shape is known before. Reading it raises ValueError if `compute` gives another one.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        compute: Callable[[], Raw],
        sources: Sequence[Stored] = (),
        kind: FloatType = FLOAT_TYPES["F64"],
    ) -> None:
        # The class that it stands in for is frozen.
        for name, value in (
            ("kind", kind),
            ("_shape", shape),
            ("_compute", compute),
            ("sources", tuple(sources)),
            ("_kept", None),
        ):
            object.__setattr__(self, name, value)

    sources: tuple[Stored, ...]
    _shape: tuple[int, ...]
    _compute: Callable[[], Raw]
    _kept: Raw | None

    @property
    def raw(self) -> Raw:
        """The values."""
        values = self._kept
        if values is None:
            with np.errstate(all="ignore"):  # what overflows is found by is_finite
                values = self._compute()
            if values.shape != self._shape:
                raise ValueError(f"computed {values.shape}, announced {self._shape}")
            _SHELF.keep(self, values)
        return values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array; nothing is computed."""
        return self._shape

    def is_finite(self) -> bool:
        """Whether neither a source nor the result holds NaN or infinity."""
        return all(source.is_finite() for source in self.sources) and super().is_finite()


class _Shelf:
    """The values computed last, in order, and their size in bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._order: deque[tuple[weakref.ref[Computed], int]] = deque()
        self._size = 0

    def keep(self, owner: Computed, values: Raw) -> None:
        """Let `owner` keep its values, and the oldest others forget theirs where it gets too much."""
        with self._lock:
            object.__setattr__(owner, "_kept", values)
            self._order.append((weakref.ref(owner), values.nbytes))
            self._size += values.nbytes
            while self._size > _KEPT_BYTES and len(self._order) > 1:
                oldest, size = self._order.popleft()
                self._size -= size
                forgotten = oldest()
                if forgotten is not None and forgotten is not owner:
                    object.__setattr__(forgotten, "_kept", None)


_SHELF = _Shelf()
