"""Merge methods. One file is one method: a decorated plain function; everything else asks the
registry.
"""

from __future__ import annotations

from pemath.methods._registry import Method, Operands, Stack, method, methods, named_method
from pemath.methods._statistics import FISHER, GRAM, Needed, Statistics

__all__ = [
    "FISHER",
    "GRAM",
    "Method",
    "Needed",
    "Operands",
    "Stack",
    "Statistics",
    "method",
    "methods",
    "named_method",
]
