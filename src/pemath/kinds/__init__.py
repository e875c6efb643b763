"""PEM types. One file defines one kind and registers it; everything else asks the registry."""

from __future__ import annotations

from pemath.kinds._contract import (
    Adapter,
    FolderFormat,
    Head,
    Kind,
    StoredSite,
    Value,
    refuse_non_finite,
)
from pemath.kinds._registry import kinds, open_adapter, register

__all__ = [
    "Adapter",
    "FolderFormat",
    "Head",
    "Kind",
    "StoredSite",
    "Value",
    "kinds",
    "open_adapter",
    "refuse_non_finite",
    "register",
]
