"""What tests of checkpointing code need: clocks, listeners, schedules and a check for stores.

Everything here is public and kept stable like the rest of the package.
"""

from __future__ import annotations

from async_ckpt.testing.clock import FakeClock
from async_ckpt.testing.listeners import Gate, RecordingListener
from async_ckpt.testing.simloop import SimDeadlock, SimError, SimLeak, SimLivelock, SimLoop, run_sim
from async_ckpt.testing.stores import check_store

__all__ = [
    "FakeClock",
    "Gate",
    "RecordingListener",
    "SimDeadlock",
    "SimError",
    "SimLeak",
    "SimLivelock",
    "SimLoop",
    "check_store",
    "run_sim",
]
