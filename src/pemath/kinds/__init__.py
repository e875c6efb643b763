"""PEM types. One file defines one kind and registers it; everything else asks the registry."""

from __future__ import annotations

from pemath.kinds._contract import (
    Adapter,
    Compiled,
    FolderFormat,
    Head,
    Kind,
    StoredSite,
    Value,
    refuse_non_finite,
)
from pemath.kinds._registry import (
    compiled_kinds,
    kinds,
    open_adapter,
    register,
    register_compiled,
)

__all__ = [
    "Adapter",
    "Compiled",
    "FolderFormat",
    "Head",
    "Kind",
    "StoredSite",
    "Value",
    "compiled_kinds",
    "kinds",
    "open_adapter",
    "refuse_non_finite",
    "register",
    "register_compiled",
]
