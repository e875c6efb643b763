"""Numbers as the report writes them. Metrics are in points: hundredths; scores of texts and
perplexities stand as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pemath.lab.report.blocks import MISSING
from pemath.lab.report.measure import Difference, Measured, band


def points(value: float, digits: int = 1) -> str:
    """0.8312 as 83.1."""
    return _minus(f"{100 * value:.{digits}f}")


def signed(value: float, digits: int = 1) -> str:
    """0.012 as +1.2; what rounds to nothing has no sign."""
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else _minus(text)


def spread(one: Measured | None) -> str:
    """Mean ± standard deviation over seeds, in points; the mean alone for one seed."""
    if one is None:
        return MISSING
    deviation = one.deviation
    return points(one.mean) + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def bounded(apart: Difference | None) -> str:
    """A difference with its interval, in points."""
    if apart is None:
        return MISSING
    return f"{signed(apart.value)} [{points(apart.low)}, {points(apart.high)}]"


def share(value: float | None, digits: int = 0) -> str:
    """0.031 as 3 %."""
    return MISSING if value is None else _minus(f"{100 * value:.{digits}f} %")


def plain(value: float | None, digits: int = 2) -> str:
    """A number that is no metric."""
    return MISSING if value is None else _minus(f"{value:.{digits}f}")


def level(one: Measured | None, digits: int = 3) -> str:
    """A mean over seeds with its interval, as it is."""
    if one is None:
        return MISSING
    low, high = band(one)
    return f"{plain(one.mean, digits)} [{plain(low, digits)}, {plain(high, digits)}]"


def change(apart: Difference | None, digits: int = 3) -> str:
    """A difference with its interval, as it is."""
    if apart is None:
        return MISSING
    text = f"{apart.value:+.{digits}f}"
    text = text[1:] if float(text) == 0 else _minus(text)
    return f"{text} [{plain(apart.low, digits)}, {plain(apart.high, digits)}]"


def growth(after: float, before: float) -> str:
    """From 40 to 42 as +5.0 %."""
    return signed(after / before - 1) + " %"


def weights(values: Sequence[float]) -> str:
    """Weights by seed; once if they are all the same."""
    kept = values[:1] if len(set(values)) == 1 else values
    return ", ".join(map(weight, kept)) or MISSING


def weight(value: float) -> str:
    """A weight without needless digits."""
    return _minus(f"{value:g}")


def duration(seconds: float) -> str:
    """Seconds in units that read well."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def _minus(text: str) -> str:
    zero = text.startswith("-") and not any(digit in text for digit in "123456789")
    return text[1:] if zero else text.replace("-", "−")
