"""How conformance checks run, what they are tried on, and how they report."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from pemath.formats.floats import FLOAT_TYPES
from pemath.formats.peft import PeftFolder
from pemath.formats.safetensors import TensorFile
from pemath.kinds import Adapter, Kind

T = TypeVar("T")

Check = Callable[[T], Iterator[str]]
"""check(subject) yields what it found wrong; the first line of its docstring says what it expects."""

_EXPERTS = "layers.0.experts"

# What one check says of one object, at most.
_FINDINGS = 3


@dataclass(frozen=True)
class Failure:
    """One check that failed: its name, what it found and what it expects."""

    check: str
    found: Sequence[str]
    expected: str

    def __str__(self) -> str:
        return "\n".join(
            [
                f"  {self.check}",
                *(f"    found {f}" for f in self.found),
                f"    expected: {self.expected}",
            ]
        )


class ConformanceError(AssertionError):
    """All that is wrong with one method or kind, check by check in `failures`."""

    def __init__(self, subject: str, failures: Sequence[Failure], count: int) -> None:
        self.failures = tuple(failures)
        lines = [f"{subject} fails {len(failures)} of {count} checks:", *map(str, failures)]
        super().__init__("\n".join(lines))


def run_checks(
    name: str, checks: Sequence[Check[T]], subject: T, known_failures: Mapping[str, str]
) -> None:
    """Run all checks. Raises ConformanceError with everything that was found.

    `known_failures` are checks that cannot hold, by name with the reason: they must fail.
    """
    names = [check.__name__ for check in checks]
    failures = [
        Failure(unknown, ["no such check"], f"one of {', '.join(names)}")
        for unknown in known_failures
        if unknown not in names
    ]
    for check in checks:
        found = list(islice(_findings(check, subject), _FINDINGS))
        expected = (check.__doc__ or "").strip().split("\n")[0]
        reason = known_failures.get(check.__name__)
        if reason is not None and not found:
            failures.append(Failure(check.__name__, ["nothing wrong"], f"a failure: {reason}"))
        elif found and reason is None:
            failures.append(Failure(check.__name__, found, expected))
    if failures:
        raise ConformanceError(name, failures, len(checks))


def _findings(check: Check[T], subject: T) -> Iterator[str]:
    try:
        yield from check(subject)
    except Exception as error:  # noqa: BLE001 - the object under test may do anything
        yield told(error)


def told(error: Exception) -> str:
    """An unexpected exception on one line, with the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(str(error).split())[:200]
    return f"{type(error).__name__} at {place.filename}:{place.lineno}: {what}"


def drawn(strategy: SearchStrategy[T], count: int) -> list[T]:
    """`count` examples of a strategy, the same ones every time."""
    found: list[T] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found


def adapter(kind: Kind, value: Any | None) -> Adapter:
    """An adapter, opened from no folder, that has `value` at its site; None for one without sites."""
    types = kind.folders.peft_types if kind.folders else ()
    config: dict[str, Any] = {"peft_type": [*types, "NONE"][0], "base_model_name_or_path": "base"}
    rank = getattr(value, "rank", None)
    if rank is not None:
        config |= {"r": max(rank, 1), "lora_alpha": max(rank, 1)}
    sites = {} if value is None else {site_of(value): value}
    if _EXPERTS in sites:
        config["target_parameters"] = [f"{_EXPERTS}.weight"]
    nothing = TensorFile(Path("nowhere"), {}, {}, 0, b"")
    return Adapter(
        PeftFolder(Path("nowhere"), config, nothing), kind, sites, {}, FLOAT_TYPES["F32"]
    )


def site_of(value: Any) -> str:
    """A site for the value. PEFT keeps apart by name what is a parameter of experts."""
    layout = getattr(getattr(value, "geometry", None), "layout", "")
    return _EXPERTS if layout == "experts" else "layers.0.q"
