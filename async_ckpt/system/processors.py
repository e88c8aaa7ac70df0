"""The machine's processors, as far as they are this process's."""

from __future__ import annotations

import os

__all__ = ["processors"]


def processors() -> int:
    """How many this process may run on: ``taskset`` or a set of processors may leave it fewer than there are.

    A quota of their time, as containers have it, does not count: they may all be used, for a moment.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
