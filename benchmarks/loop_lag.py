"""How long the event loop is held while a large state is saved in the background.

    python benchmarks/loop_lag.py --gib 1.4 --rounds 5

A session trains with steps of 50 ms and saves every 20 steps; a ticker on the same loop asks to be woken
every millisecond and notes how late it was. Prints the largest gap per save, the gaps' distribution,
the time each save held the step, and the time until the checkpoint was durable, each as
median (min - max) over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Self

import numpy as np

from async_ckpt import CheckpointSaverHook, LatestN, MonitoredTrainingSession, events

TICK = 0.001


class Ticker:
    """Notes how late the loop wakes it."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick(), name="ticker")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK)
            self.late.append(time.perf_counter() - began - TICK)

    def take(self) -> list[float]:
        late, self.late = self.late, []
        return late


def make_state(nbytes: int, tensors: int) -> dict[str, dict[str, np.ndarray]]:
    each = nbytes // 3 // tensors // 4
    return {
        group: {f"layer{i}": np.full(each, i, np.float32) for i in range(tensors)}
        for group in ("model", "first_moment", "second_moment")
    }


def step() -> None:
    """Fifty milliseconds of computing that holds neither the loop nor, in a thread, the state."""
    time.sleep(0.05)


async def measure(directory: Path, nbytes: int, tensors: int, rounds: int) -> None:
    state = make_state(nbytes, tensors)
    hook = CheckpointSaverHook(
        directory, state, save_steps=20, initial_save="never", keep=[LatestN(1)], restore=None
    )
    staged: list[float] = []
    durable: list[float] = []
    largest: list[float] = []
    every: list[float] = []
    async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        session.subscribe(lambda e: staged.append(e.seconds) if isinstance(e, events.SaveStaged) else None)
        session.subscribe(
            lambda e: durable.append(e.seconds) if isinstance(e, events.SaveCommitted) else None
        )
        async with Ticker() as ticker:
            for _ in range(20):
                await session.run(step)
            await session.drain()
            for _ in range(rounds):
                ticker.take()
                for _ in range(20):
                    await session.run(step)
                await session.drain()
                late = ticker.take()
                largest.append(max(late))
                every += late
            idle_from = len(ticker.late)
            await asyncio.sleep(1.0)
            idle = ticker.late[idle_from:]
    size = sum(a.nbytes for group in state.values() for a in group.values())
    print(f"{platform.platform()}, Python {platform.python_version()}")
    print(f"state: {size / 2**30:.2f} GiB in {3 * tensors} tensors")
    print(f"first save (cold): staged {staged[0]:.3f} s, durable {durable[0]:.3f} s")
    show("largest gap of a 1 ms ticker, ms", [x * 1e3 for x in largest])
    show("99.9th percentile of all gaps, ms", [float(np.percentile(every, 99.9)) * 1e3])
    show("the same, nothing saving, ms", [float(np.percentile(idle, 99.9)) * 1e3])
    show("step held by a save, s", staged[1:])
    show("durable after, s", durable[1:])


def show(what: str, values: list[float]) -> None:
    print(f"{what}: {statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})")


def main() -> None:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("--gib", type=float, default=1.4)
    parser.add_argument("--tensors", type=int, default=148)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None, help="default: a temporary one")
    options = parser.parse_args()
    directory = options.dir or Path(tempfile.mkdtemp(prefix="async_ckpt-lag-"))
    try:
        asyncio.run(measure(directory, int(options.gib * 2**30), options.tensors, options.rounds))
    finally:
        if options.dir is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
