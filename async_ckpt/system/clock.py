"""The real clock, and what any clock has to offer."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "RealClock"]


class Clock(Protocol):
    """Where triggers and timestamps take the time from; both readings are in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back. Intervals use this one."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, as the operator's watch says. Only ever shown, never compared."""
        ...


class RealClock:
    """The operating system's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
