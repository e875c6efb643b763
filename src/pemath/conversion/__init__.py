"""Conversions. One file is one target: a decorated plain function; everything else asks the
registry.
"""

from __future__ import annotations

from pemath.conversion._registry import Outcome, Target, named_target, target, targets
from pemath.conversion._source import Source

__all__ = ["Outcome", "Source", "Target", "named_target", "target", "targets"]
