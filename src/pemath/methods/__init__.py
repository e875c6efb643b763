"""Merge methods. One file is one method: a decorated plain function; everything else asks the
registry.
"""

from __future__ import annotations

from pemath.methods._registry import Method, Operands, Stack, method, methods, named_method

__all__ = ["Method", "Operands", "Stack", "method", "methods", "named_method"]
