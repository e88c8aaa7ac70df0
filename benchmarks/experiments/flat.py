"""Memory over many saves: how much more than the state, and whether it grows."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from benchmarks import states
from benchmarks.measure import clear, tidy
from benchmarks.records import Job, Run
from benchmarks.systems import make
from benchmarks.threads import Thread

__all__ = ["measure"]

_SIZES = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


async def measure(job: Job, run: Run, directory: Path) -> None:
    """``resident``: bytes only memory can hold, after each save, less those before the first."""
    worker = Thread("bench")
    system = make(job.system)
    await worker.call(lambda: system.adopt(states.build(states.spec(job.states[0]))))
    await worker.call(tidy)
    before = resident()
    run.marks["base"] = time.perf_counter()
    run.values = {"resident": [], "durable": []}
    await system.open(directory)
    for number in range(job.repeats):
        times = await system.save(number + 1)
        run.values["durable"].append((times.durable or times.began) - times.began)
        run.values["resident"].append(float(resident() - before))
        run.marks["end"] = time.perf_counter()
        await worker.call(clear, directory)
    await system.close()
    worker.close()


def resident() -> int:
    """Bytes of this process that only memory can hold: anonymous and shared pages."""
    status = Path(f"/proc/{os.getpid()}/status").read_bytes()
    return sum(1024 * int(size) for size in _SIZES.findall(status))
