"""One short life of a session with two listeners, two saves and a vote, seen by an observer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession, Stop, events
from async_ckpt.testing import FakeClock

__all__ = ["Evaluator", "at", "live"]


class Evaluator(CheckpointSaverListener):
    """Takes a second to begin a save, two to judge it, and has enough of the last one."""

    name = "evaluator"

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    async def before_save(self, session: Any, global_step_value: int) -> None:
        self.clock.advance(1)

    async def after_save(self, session: Any, global_step_value: int) -> Stop | None:
        self.clock.advance(2)
        session.report({"accuracy": global_step_value / 10})
        return Stop("enough") if global_step_value == 4 else None


def live(directory: Path, *observers: Any, error: Exception | None = None) -> None:
    """Steps 1 to 4 of ten seconds each, a save at every second one."""

    async def run() -> None:
        clock = FakeClock(100.0)
        state = {"w": np.zeros(1000)}
        hook = CheckpointSaverHook(
            directory,
            state,
            save_steps=2,
            initial_save="never",
            blocking=True,
            max_to_keep=1,
            listeners=[Evaluator(clock)],
        )
        session = MonitoredTrainingSession(hooks=[hook], clock=clock)
        for observer in observers:
            session.subscribe(observer)
        async with session:
            session.metrics["loss"] = 0.5

            async def step() -> None:
                clock.advance(10)

            for _ in range(4):
                await session.run(step)
            if error is not None:
                raise error

    asyncio.run(run())


def at(kind: type[events.Event], when: float = 0.0, **fields: Any) -> events.Event:
    """An event made by hand."""
    return kind(at=when, wall=1e9 + when, **fields)
