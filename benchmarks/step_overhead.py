"""What a step costs at which nothing is due, and what one listener call costs.

    python -m benchmarks.step_overhead

Prints microseconds as median (min - max) over several rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession
from async_ckpt.runtime.lane import Inside, Lane

__all__ = ["ROUNDS", "figures"]

ROUNDS, CALLS = 15, 5000


async def nothing() -> None:
    """A step that costs nothing itself."""


class Silent(CheckpointSaverListener):
    async def after_save(self, session: MonitoredTrainingSession, global_step_value: int) -> None:
        """Called and does nothing."""


async def figures(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of one call, by what is called, one figure for each round of 5000 calls.

    ``yield`` is a bare ``asyncio.sleep(0)``, which ``advance`` contains.
    """
    found: dict[str, list[float]] = {}

    async def timed(what: str, call: Callable[[], Awaitable[object]]) -> None:
        found[what] = []
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(CALLS):
                await call()
            found[what].append((time.perf_counter() - began) / CALLS)

    async def yielding() -> None:
        await asyncio.sleep(0)

    await timed("yield", yielding)
    hook = CheckpointSaverHook(directory / "run", {"w": np.zeros(4)}, save_steps=10**9)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await timed("advance", session.advance)
        await timed("run coroutine", lambda: session.run(nothing))
        await timed("run function", lambda: session.run(int))
    lane, silent = Lane(), Silent()
    await timed(
        "listener", lambda: lane.call(silent.after_save, None, 1, inside=Inside("after_save", silent))
    )
    return found


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(figures(Path(directory), ROUNDS))
    for what, seconds in found.items():
        rounds = [secs * 1e6 for secs in seconds]
        print(f"{what}: {statistics.median(rounds):.2f} us ({min(rounds):.2f} - {max(rounds):.2f})")


if __name__ == "__main__":
    main()
