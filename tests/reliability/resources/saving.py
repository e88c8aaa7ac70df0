"""Saves under a limit in a process of its own; what :func:`nursery.ask` calls."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointError, Saver
from tests.reliability.resources.limits import LIMITS, Limit
from tests.reliability.tracing.nursery import desk, say

__all__ = ["main"]

LARGE, SMALL = 3_000_000, 1000
PATIENCE_SECS = 60.0


def main(text: str) -> None:
    """Save under the limit that the question names; answer with what came of it, or die of what did not."""
    question: dict[str, Any] = json.loads(text)
    limit = LIMITS[question["limit"]]
    with desk(question["place"] if question["in_memory"] else None) as place:
        base = place._base / "limited"
        base.mkdir()
        say(asyncio.run(_tried(limit, base)))


def _state(step: int, size: int) -> dict[str, Any]:
    return {"model": {"w": np.full(size, step, np.float64)}, "step": step}


async def _tried(limit: Limit, base: Path) -> dict[str, Any]:
    ticks = 0

    async def train() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    with limit.make(base) as limited:
        training = asyncio.get_running_loop().create_task(train(), name="training")
        error: BaseException | None = None
        async with Saver(limited.root, max_to_keep=None, **limited.saver) as saver:
            await saver.save(_state(1, SMALL), 1)
            limited.apply()
            before = ticks
            try:
                async with asyncio.timeout(PATIENCE_SECS):
                    await saver.save(_state(2, LARGE if limited.large else SMALL), 2)
            except (CheckpointError, MemoryError) as caught:
                error = caught
            held = ticks - before
            if limit.name != "a file system turned read-only":
                limited.lift()
                await saver.save(_state(3, SMALL), 3)
        if limit.name == "a file system turned read-only":
            # Only a new start brings it back.
            limited.lift()
            async with Saver(limited.root, max_to_keep=None) as saver:
                await saver.save(_state(3, SMALL), 3)
        training.cancel()
        async with Saver(limited.root) as reader:
            await reader.open()  # sweeps what could not be removed without, say, a file descriptor
            found = await reader._store.steps()
            for step in found:
                await reader.verify(step)
                values = (await reader.restore(step)).state["model"]["w"]
                assert (values == step).all(), step
        left = [path.name for path in limited.root.iterdir() if path.name.startswith(".tmp-")]
    assert not left, left
    assert {1, 3} <= set(found), found
    assert (2 in found) == (error is None), (found, error)
    return {"error": None if error is None else f"{type(error).__name__}: {error}", "ticks": held}
