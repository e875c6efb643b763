"""pemath: arithmetic for parameter-efficient modules.

`adapter` names an adapter, `+ - * /` build expressions over adapters, and `compose` writes the
result as an adapter folder with a certificate. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pemath.composition.lock import rebuild, verify
    from pemath.composition.run import compose, evaluate
    from pemath.conversion.run import convert
    from pemath.diagnose.compare import compare
    from pemath.diagnose.inspect import inspect
    from pemath.errors import PemathError
    from pemath.expression.parser import parse
    from pemath.expression.tree import Expression, adapter, call

_HOMES = {
    "Expression": "pemath.expression.tree",
    "PemathError": "pemath.errors",
    "adapter": "pemath.expression.tree",
    "call": "pemath.expression.tree",
    "compare": "pemath.diagnose.compare",
    "compose": "pemath.composition.run",
    "convert": "pemath.conversion.run",
    "evaluate": "pemath.composition.run",
    "inspect": "pemath.diagnose.inspect",
    "parse": "pemath.expression.parser",
    "rebuild": "pemath.composition.lock",
    "verify": "pemath.composition.lock",
}

__all__ = [
    "Expression",
    "PemathError",
    "__version__",
    "adapter",
    "call",
    "compare",
    "compose",
    "convert",
    "evaluate",
    "inspect",
    "parse",
    "rebuild",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pemath' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
