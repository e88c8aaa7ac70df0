"""Numbers in words: sizes, ages and rates, as people read them. Pure."""

from __future__ import annotations

import math

__all__ = ["age", "count", "metric", "metrics", "size"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_AGES = ((60.0, "s"), (60.0, "min"), (24.0, "h"), (math.inf, "d"))


def size(nbytes: float) -> str:
    """Bytes in decimal units, three figures: ``1.49 GB``."""
    value, at = float(nbytes), 0
    while value >= 999.5 and at < len(_UNITS) - 1:
        value, at = value / 1000, at + 1
    if at == 0:
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[at]}"


def age(secs: float) -> str:
    """Seconds in the largest unit of which there is one: ``3 min``; a time to come is ``0 s``."""
    value = max(0.0, secs)
    for many, unit in _AGES:
        if value < many:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "s" else f"{value:.1f} {unit}"
        value /= many
    raise AssertionError(secs)


def count(number: int, what: str) -> str:
    """So many of them: ``1 file``, ``2 files``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def metric(value: float) -> str:
    """A metric with six figures at most."""
    return f"{value:.6g}"


def metrics(values: dict[str, float]) -> str:
    """All of them on one line."""
    return ", ".join(f"{name}={metric(value)}" for name, value in values.items())
