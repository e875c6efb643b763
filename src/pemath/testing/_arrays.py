"""The arrays inside values: copied, locked, sealed, changed and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from pemath.formats.floats import Array, Raw


def with_arrays(value: Any, change: Callable[[Raw], Raw]) -> Any:
    """The value with `change` applied to every array in it; what is shared stays shared.

    It looks into dataclasses, tuples, lists and dicts.
    """
    done: dict[int, Any] = {}

    def walk(item: Any) -> Any:
        if id(item) not in done:
            done[id(item)] = _rebuilt(item, walk, change)
        return done[id(item)]

    return walk(value)


def _rebuilt(item: Any, walk: Callable[[Any], Any], change: Callable[[Raw], Raw]) -> Any:
    if isinstance(item, np.ndarray):
        return change(item)
    if isinstance(item, tuple | list):
        made = [walk(each) for each in item]
        return item if all(x is y for x, y in zip(made, item, strict=True)) else type(item)(made)
    if isinstance(item, dict):
        return {key: walk(each) for key, each in item.items()}
    if is_dataclass(item) and not isinstance(item, type):
        old = {field.name: getattr(item, field.name) for field in fields(item) if field.init}
        new = {name: walk(each) for name, each in old.items()}
        return item if all(new[name] is old[name] for name in old) else replace(item, **new)
    return item


def arrays_of(value: Any) -> list[Raw]:
    """Every array in a value."""
    found: list[Raw] = []

    def keep(array: Raw) -> Raw:
        found.append(array)
        return array

    with_arrays(value, keep)
    return found


def copied(value: Any) -> Any:
    """The value with arrays of its own."""
    return with_arrays(value, np.copy)


def locked(value: Any) -> Any:
    """The value with arrays that cannot be written to."""

    def lock(array: Raw) -> Raw:
        view = array.view()
        view.flags.writeable = False
        return view

    return with_arrays(value, lock)


def sealed(value: Any) -> Any:
    """The value with arrays that know their shape and raise TensorRead when they are read."""
    return with_arrays(value, lambda array: array.view(_Sealed))


class TensorRead(Exception):
    """A sealed tensor was read."""


class _Sealed(np.ndarray[Any, Any]):
    def __array_ufunc__(self, *arguments: Any, **options: Any) -> Any:
        raise TensorRead("a tensor is read")

    def __array_function__(self, *arguments: Any, **options: Any) -> Any:
        raise TensorRead("a tensor is read")


def _refuse(self: _Sealed, *arguments: Any, **options: Any) -> Any:
    raise TensorRead("a tensor is read")


for _name in ("astype", "copy", "tobytes", "tolist", "item", "sum", "any", "all", "min", "max", "dot",
              "__bool__", "__float__"):  # fmt: skip
    setattr(_Sealed, _name, _refuse)


# --------------------------------------------------------------------------------------- numbers


def same_bytes(x: Array, y: Array) -> bool:
    """Whether two arrays are equal to the last bit."""
    return x.shape == y.shape and x.tobytes() == y.tobytes()


def off(found: Array, wanted: Array, size: float, tolerance: float) -> str | None:
    """What is wrong where two arrays differ by more than `tolerance` of `size`; else None."""
    if found.shape != wanted.shape:
        return f"shape {found.shape} for {wanted.shape}"
    with np.errstate(all="ignore"):
        distance = float(np.linalg.norm(found - wanted))
    if distance <= tolerance * size:
        return None
    return f"a distance of {distance:.3g}, where the operands have norm {size:.3g}"
