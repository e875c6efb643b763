"""The numbers in an uncompressed joblib file, read without running any of it.

Loading such a file is running it: a pickle may call anything. What it holds can be had without
that, by following its opcodes: classes and functions stay names, objects are their name with their
state, and arrays are the bytes that joblib writes between the opcodes.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY = "joblib.numpy_pickle NumpyArrayWrapper"
_SCALARS = ("numpy._core.multiarray scalar", "numpy.core.multiarray scalar")

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FRAMING = {"PROTO", "FRAME", "STOP"}


@dataclass(eq=False)
class Thing:
    """An object that was not made: the name of what would make it, from what, and its state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __getitem__(self, attribute: str) -> Any:
        """An attribute out of the state. Raises KeyError."""
        return self.state[attribute]


def read_data(data: bytes) -> Any:
    """What the file with the content `data` holds: numbers, texts, containers, arrays, `Thing`s.

    Raises: ValueError (an opcode or an array of another kind, or not a pickle).
    """
    stream = io.BytesIO(data)
    machine = _Machine(stream)
    # The generator reads on from wherever the stream stands, so arrays may be read in between.
    for opcode, argument, position in pickletools.genops(stream):
        try:
            machine.step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the pickle is malformed at byte {position}") from error
    if len(machine.stack) != 1:
        raise ValueError("the pickle holds nothing, or leaves something over")
    return machine.stack[0]


class _Machine:
    """The stack, the marks and the memo of a pickle that is being followed."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one opcode."""
        if opcode in _FRAMING:
            return
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            self.stack[-_TUPLES[opcode] :] = [tuple(self.stack[-_TUPLES[opcode] :])]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            step = getattr(self, f"_{opcode.lower()}", None)
            if step is None:
                raise ValueError(f"the pickle has an opcode that plain data has not: {opcode}")
            step()

    def _memoize(self) -> None:
        self.memo.append(self.stack[-1])

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _marked(self) -> list[Any]:
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def _tuple(self) -> None:
        self.stack.append(tuple(self._marked()))

    def _empty_list(self) -> None:
        self.stack.append([])

    def _empty_dict(self) -> None:
        self.stack.append({})

    def _append(self) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def _appends(self) -> None:
        items = self._marked()
        self.stack[-1].extend(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][key] = value

    def _setitems(self) -> None:
        items = self._marked()
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Thing(f"{module} {name}"))

    def _newobj(self) -> None:
        arguments, made_by = self.stack.pop(), self.stack.pop()
        self.stack.append(Thing(made_by.name, arguments))

    def _reduce(self) -> None:
        self._newobj()
        thing = self.stack[-1]
        if thing.name in _SCALARS:
            kind, content = thing.arguments
            self.stack[-1] = np.frombuffer(content, _dtype(kind))[0].item()

    def _build(self) -> None:
        state = self.stack.pop()
        thing = self.stack[-1]
        thing.state = state
        if thing.name == _ARRAY:
            self.stack[-1] = self._array(thing)

    def _array(self, wrapper: Thing) -> NDArray[Any]:
        if wrapper["numpy_array_alignment_bytes"] is not None:
            [padding] = self.stream.read(1)
            self.stream.read(padding)
        dtype, shape = _dtype(wrapper["dtype"]), wrapper["shape"]
        content = self.stream.read(dtype.itemsize * math.prod(shape))
        return np.frombuffer(content, dtype).reshape(shape, order=wrapper["order"])


def _dtype(thing: Thing) -> np.dtype[Any]:
    """The dtype that a `numpy.dtype(code)` with its byte order stands for; numbers only."""
    code, order = thing.arguments[0], thing.state[1]
    if thing.name != "numpy dtype" or code[0] not in "iufb":
        raise ValueError(f"the pickle holds an array of {thing.name} {code}, not of numbers")
    dtype: np.dtype[Any] = np.dtype(code).newbyteorder(order)
    return dtype
