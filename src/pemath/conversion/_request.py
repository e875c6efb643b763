"""What `convert` is asked for, checked before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pemath.conversion._registry import Target
from pemath.errors import RequestError
from pemath.formats.floats import BY_NAME
from pemath.names import display, listing


def checked_options(target: Target, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given (neither None nor empty). Raises RequestError for one that the
    target does not have, or with a bad value.
    """
    options = {name: value for name, value in given.items() if value not in (None, ())}
    for name in options:
        if name not in target.options:
            known = [_flag(option) for option in target.options]
            raise RequestError(
                f"`--to {target.name}` has no option {_flag(name)}",
                expected=f"options of it: {listing(known, 12)}" if known else "no option",
            )
    rank, max_error, dtype = (options.get(name) for name in ("rank", "max_error", "dtype"))
    if rank is not None and max_error is not None:
        raise RequestError(
            "--rank and --max-error exclude each other",
            hint="give the rank, or the error that the rank must keep to",
        )
    if rank is not None and not (_is_whole(rank) and 1 <= rank <= 1 << 20):
        raise RequestError("the rank must be a whole number of at least 1", found=display(rank, 40))
    if max_error is not None and not (_is_number(max_error) and 0 <= max_error < 1):
        raise RequestError(
            "the largest error must be at least 0 % and under 100 %",
            found=display(max_error, 40),
            expected="for example 1%",
        )
    if dtype is not None and dtype not in BY_NAME:
        raise RequestError(f"unknown dtype `{display(dtype)}`", expected=", ".join(BY_NAME))
    return options


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
