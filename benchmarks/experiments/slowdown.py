"""How much a training loop in pure Python slows down while a save runs in the background."""

from __future__ import annotations

import asyncio
import bisect
import threading
import time
from pathlib import Path

from benchmarks import states
from benchmarks.measure import clear, tidy
from benchmarks.records import Job, Run
from benchmarks.systems import make
from benchmarks.threads import Thread

__all__ = ["measure"]

IDLE_SECS = 1.5


class PythonLoop:
    """A thread that never lets go of the interpreter by itself, and notes when each unit of work ended."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="pure-python")
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            total = 0
            for number in range(10_000):
                total += number * number
            self._ends.append(time.perf_counter())

    def rate(self, began: float, ended: float) -> float:
        """Units of work per second."""
        count = bisect.bisect(self._ends, ended) - bisect.bisect(self._ends, began)
        return count / max(ended - began, 1e-9)

    def beside(self, began: float, ended: float) -> float:
        """The same before and after."""
        return (self.rate(began - IDLE_SECS, began) + self.rate(ended, ended + IDLE_SECS)) / 2

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()


async def measure(job: Job, run: Run, directory: Path) -> None:
    """``lost``: share of the loop's speed between the end of the stall and the end of the save.

    ``whole``: the same from the call on. Each against the loop's speed before and after that save. ``same``:
    what the same sum gives for as long a time without a save, which says what the machine does by itself.
    """
    worker = Thread("bench")
    system = make(job.system)
    await worker.call(lambda: system.adopt(states.build(states.spec(job.states[0]))))
    await worker.call(tidy)
    await system.open(directory)
    await system.save(1)
    await worker.call(clear, directory)
    run.values = {"lost": [], "whole": [], "same": [], "seconds": [], "idle_rate": []}
    spent = 0.0
    for number in range(job.repeats):
        if spent > job.budget_secs:
            break
        loop = PythonLoop()
        await asyncio.sleep(IDLE_SECS)
        times = await system.save(number + 2)
        await asyncio.sleep(IDLE_SECS)
        assert times.durable is not None
        quiet = time.perf_counter()
        await asyncio.sleep(times.durable - times.began)
        ended = time.perf_counter()
        await asyncio.sleep(IDLE_SECS)
        loop.stop()
        released = times.released or times.began
        idle = loop.beside(times.began, times.durable)
        run.values["lost"].append(1 - loop.rate(released, times.durable) / idle)
        run.values["whole"].append(1 - loop.rate(times.began, times.durable) / idle)
        run.values["same"].append(1 - loop.rate(quiet, ended) / loop.beside(quiet, ended))
        run.values["seconds"].append(times.durable - times.began)
        run.values["idle_rate"].append(idle)
        spent += times.durable - times.began
        await worker.call(clear, directory)
    await system.close()
    worker.close()
