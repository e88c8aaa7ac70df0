"""What runs until the power is cut: saves of rising steps, saves over others, reports, retention.

Every promise is written to a pipe, outside of what is cut: ``try STEP CODE`` before a save, ``done STEP
CODE`` once it was called durable. The code is what the state is full of.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointError, Saver

__all__ = ["Promises", "check", "work"]

SIZES = (10, 3_000, 160_000)
"""Values of the array: a small file, a larger one, and one that goes past the page cache."""


def state_of(code: int, size: int) -> dict[str, Any]:
    return {"changing": {"code": np.full(size, code, np.int64)}, "frozen": {"table": np.arange(2000)}}


async def work(directory: Path, keep: int | None, first: int, seed: int, pipe: int) -> None:
    """Save until it fails; the power was cut then."""
    rng = random.Random(seed)
    step, code = first, first * 1000
    async with Saver(directory, max_to_keep=keep, reuse_unchanged=rng.random() < 0.5) as saver:
        while True:
            code += 1
            over = step > first and rng.random() < 0.2
            step += not over
            os.write(pipe, f"try {step} {code}\n".encode())
            await saver.save(state_of(code, rng.choice(SIZES)), step)
            os.write(pipe, f"done {step} {code}\n".encode())
            if rng.random() < 0.3:
                await saver._add_report(step, votes=[{"listener": "l", "step": step, "reason": None}])


class Promises:
    """What was promised, out of the lines of the pipe and of earlier lives.

    Attributes:
        acknowledged: By step, the code that was last called durable.
        tried: By step, the codes of saves that began and may or may not have got through.
    """

    def __init__(self) -> None:
        self.acknowledged: dict[int, int] = {}
        self.tried: dict[int, set[int]] = {}

    def hear(self, text: str) -> int:
        """Take in what came through the pipe, half lines aside; return how many were acknowledged."""
        count = 0
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            word, step, code = line.split()
            if word == "try":
                self.tried.setdefault(int(step), set()).add(int(code))
            else:
                self.acknowledged[int(step)] = int(code)
                self.tried[int(step)] = {int(code)}
                count += 1
        return count

    def judge(self, found: dict[int, int], keep: int | None) -> None:
        """Compare with what is there: by step, the code that every value of it is."""
        for step, code in found.items():
            assert code in self.tried.get(step, set()), f"step {step} holds {code}, which nobody saved there"
        # A save that was tried may have got through without being heard of, and retention with it.
        newest = sorted(self.tried, reverse=True)[:keep]
        owed = {step for step in self.acknowledged if step in newest}
        lost = owed - found.keys()
        assert not lost, f"acknowledged and gone: {sorted(lost)}; there: {sorted(found)}"
        if self.acknowledged:
            last = max(self.acknowledged)
            assert any(step >= last for step in found), (
                f"step {last} was acknowledged; there: {sorted(found)}"
            )
        self.acknowledged = dict(found)
        self.tried = {step: {code} for step, code in found.items()}


async def check(directory: Path, keep: int | None) -> dict[int, int]:
    """Read every byte of what is listed, give each step's code, and save once more."""
    found: dict[int, int] = {}
    if directory.exists():
        async with Saver(directory) as reader:
            listed = await reader._store.steps()
            for step in listed:
                await reader.verify(step)
                state = (await reader.restore(step)).state
                values = np.unique(state["changing"]["code"])
                assert len(values) == 1, f"step {step} is a mixture of {values.tolist()}"
                assert (state["frozen"]["table"] == np.arange(2000)).all()
                found[step] = int(values[0])
    async with Saver(directory, max_to_keep=keep) as saver:
        step = max(found, default=0) + 1
        await saver.save(state_of(step * 1000, 10), step)
        await saver.verify(step)
        left = [path.name for path in directory.iterdir() if path.name.startswith(".tmp-")]
        assert not left, f"left behind: {left}"
    return found


def run(directory: Path, keep: int | None, first: int, seed: int, pipe: int) -> None:
    """:func:`work` in this process, which somebody kills when the power was cut; it ends only then."""
    try:
        asyncio.run(work(directory, keep, first, seed, pipe))
    except (CheckpointError, OSError):
        return
