"""What the kernel counts of one thread: how long it ran, and how long it was ready and had to wait."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Counted"]


class Counted(NamedTuple):
    """Seconds of the calling thread since it began.

    Attributes:
        wall: By the clock.
        ran: On a processor.
        queued: Ready to run, and none was free. 0 where the kernel does not count it.
    """

    wall: float
    ran: float
    queued: float

    @classmethod
    def now(cls) -> Counted:
        """Look; Documentation/scheduler/sched-stats.rst of the kernel says what the numbers are."""
        wall = time.perf_counter()
        try:
            ran, queued, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
        except OSError:
            return cls(wall, time.thread_time(), 0.0)
        return cls(wall, int(ran) / 1e9, int(queued) / 1e9)

    def since(self, before: Counted) -> Counted:
        """What came to it after ``before``."""
        return Counted(*(now - then for now, then in zip(self, before, strict=True)))
