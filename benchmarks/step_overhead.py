"""What a step costs at which nothing is due, and what one listener call costs.

    python benchmarks/step_overhead.py

Prints microseconds as median (min - max) over several rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable

import numpy as np

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession
from async_ckpt.runtime.lane import Inside, Lane

ROUNDS, CALLS = 15, 5000


async def nothing() -> None:
    """A step that costs nothing itself."""


class Silent(CheckpointSaverListener):
    async def after_save(self, session: MonitoredTrainingSession, global_step_value: int) -> None:
        """Called and does nothing."""


async def timed(what: str, call: Callable[[], Awaitable[object]]) -> None:
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            await call()
        rounds.append((time.perf_counter() - began) / CALLS * 1e6)
    print(f"{what}: {statistics.median(rounds):.2f} us ({min(rounds):.2f} - {max(rounds):.2f})")


async def main() -> None:
    async def yielding() -> None:
        await asyncio.sleep(0)

    await timed("a bare asyncio.sleep(0), which advance() contains", yielding)
    with tempfile.TemporaryDirectory() as directory:
        hook = CheckpointSaverHook(directory, {"w": np.zeros(4)}, save_steps=10**9)
        async with MonitoredTrainingSession(hooks=[hook]) as session:
            await timed("advance() with one saver hook, nothing due", session.advance)
            await timed("run(coroutine function), nothing due", lambda: session.run(nothing))
            await timed("run(plain function), nothing due", lambda: session.run(int))
    lane, silent = Lane(), Silent()
    await timed(
        "one coroutine listener call on the lane",
        lambda: lane.call(silent.after_save, None, 1, inside=Inside("after_save", silent)),
    )


if __name__ == "__main__":
    asyncio.run(main())
