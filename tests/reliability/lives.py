"""Lives that end in the middle: saves of rising steps, saves over others, reports, retention.

Every promise is written to a pipe, outside of what ends: ``try STEP CODE`` before a save, ``done STEP
CODE`` once it was called durable. The code is what the state is full of.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointError, Saver

__all__ = ["KEEP", "LONGEST_SECS", "Places", "Promises", "begin", "check", "killed", "said", "work"]

KEEP = (1, 2, None)
LONGEST_SECS = 0.12
"""Of a life: some ten saves."""

CHECKPOINTS = 12
"""In a directory that keeps all of them, after which another one is begun."""

SIZES = (10, 3_000, 160_000)
"""Values of the array: a small file, a larger one, and one that goes past the page cache."""


def state_of(code: int, size: int) -> dict[str, Any]:
    return {"changing": {"code": np.full(size, code, np.int64)}, "frozen": {"table": np.arange(2000)}}


async def work(
    directory: Path,
    keep: int | None,
    first: int,
    seed: int,
    say: Callable[[str], object],
    saves: int | None = None,
) -> None:
    """Save so many times; without a number until it fails, or the process is killed."""
    rng = random.Random(seed)
    step, code = first, first * 1000
    async with Saver(directory, max_to_keep=keep, reuse_unchanged=rng.random() < 0.5) as saver:
        while saves is None or code < first * 1000 + saves:
            code += 1
            over = step > first and rng.random() < 0.2
            step += not over
            say(f"try {step} {code}\n")
            await saver.save(state_of(code, rng.choice(SIZES)), step)
            say(f"done {step} {code}\n")
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

    def hear(self, text: str, *, binding: bool = True) -> int:
        """Take in what came through the pipe, half lines aside; return how many were acknowledged.

        What is not ``binding`` may be there, and need not.
        """
        count = 0
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            word, step, code = line.split()
            if word == "try" or not binding:
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


def begin(directory: Path, keep: int | None, promises: Promises, seed: int) -> tuple[int, int]:
    """Begin a life in a forked child; gives its process, and the end of the pipe where it is heard."""
    listening, pipe = os.pipe()
    first = max(promises.tried, default=0)
    child = os.fork()
    if child == 0:
        os.close(listening)
        try:
            with contextlib.suppress(CheckpointError, OSError):
                asyncio.run(work(directory, keep, first, seed, lambda text: os.write(pipe, text.encode())))
        finally:
            os._exit(0)
    os.close(pipe)
    return child, listening


def said(listening: int) -> str:
    """What a life has said until now, without waiting for more; each line was written in one piece."""
    os.set_blocking(listening, False)
    text = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(listening, 2**16):
            text += piece
    os.set_blocking(listening, True)
    return text.decode()


def killed(child: int, listening: int, promises: Promises, *, binding: bool = True) -> int:
    """End a life, and hear what it said; gives how many saves it called durable."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(listening, "rb") as heard:
        return promises.hear(heard.read().decode(), binding=binding)


class Places:
    """A directory for each way to keep checkpoints, and what was promised of it.

    Args:
        root: Where they lie.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[int | None, tuple[str, Promises]] = {}

    def of(self, keep: int | None, number: int) -> tuple[Path, Promises]:
        """The directory of this way; a new one where the old one is full. ``number`` tells new ones apart."""
        name, promises = self._open.get(keep, ("", Promises()))
        if not name or len(promises.acknowledged) > CHECKPOINTS:
            if name:
                shutil.rmtree(self._root / name)
            # A new name: what is deleted here may come back with the next cut.
            name, promises = self._open[keep] = f"keep-{keep}-{number}", Promises()
        return self._root / name, promises

    def judge(self, keep: int | None) -> tuple[int, ...]:
        """Look at what is there, and go on from it; gives what tells one state from another."""
        name, promises = self._open[keep]
        found = asyncio.run(check(self._root / name, keep))
        promises.judge(found, keep)
        # What was saved by the look itself is what the next life starts from.
        last = max(found, default=0) + 1
        promises.hear(f"try {last} {last * 1000}\ndone {last} {last * 1000}\n")
        return KEEP.index(keep), *(step - last for step in found)
