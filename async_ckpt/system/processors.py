"""The machine's processors, as far as they are this process's."""

from __future__ import annotations

import os

__all__ = ["processors"]


def processors() -> int:
    """How many this process may use: a container or ``taskset`` may leave it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
