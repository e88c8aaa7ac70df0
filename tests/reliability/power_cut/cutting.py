"""Cuts the power again and again under a saver, in a bare process; what :func:`nursery.ask` calls."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.reliability.power_cut.device import Device
from tests.reliability.power_cut.work import Promises, check, run
from tests.reliability.tracing.nursery import desk, say

__all__ = ["main"]

KEEP = (1, 2, None)
LONGEST_SECS = 0.12
"""Of a life before the cut: some ten saves."""

CHECKPOINTS = 12
"""In a directory that keeps all of them, after which another one is begun."""


def main(text: str) -> None:
    """Cut as often as the question says; answer with what was counted, or die with what went wrong."""
    question: dict[str, Any] = json.loads(text)
    with desk(question["place"]) as place:
        base = place._base / "device"
        base.mkdir()
        with Device(question["kind"], base) as device:
            say(
                _cut(device, range(question["first"], question["first"] + question["cuts"]), question["seed"])
            )


def _cut(device: Device, numbers: range, seed: int) -> dict[str, Any]:
    acknowledged = 0
    states: set[tuple[int, ...]] = set()
    promises: dict[int | None, Promises] = {keep: Promises() for keep in KEEP}
    names = {keep: f"keep-{keep}" for keep in KEEP}
    for number in numbers:
        rng = random.Random(f"{seed} {number}")
        keep = rng.choice(KEEP)
        mine = promises[keep]
        if len(mine.acknowledged) > CHECKPOINTS:
            # A new name: what is deleted here may come back with the next cut.
            shutil.rmtree(device.root / names[keep])
            names[keep] = f"keep-{keep}-{number}"
            mine = promises[keep] = Promises()
        directory = device.root / names[keep]
        try:
            acknowledged += _live_and_die(device, directory, keep, mine, rng)
            device.restart()
            found = asyncio.run(check(directory, keep))
            mine.judge(found, keep)
            states.add((KEEP.index(keep), *(step - max(found) for step in found)))
            # What was saved by the look itself is what the next life starts from.
            last = max(found, default=0) + 1
            mine.hear(f"try {last} {last * 1000}\ndone {last} {last * 1000}\n")
        except BaseException as error:
            error.add_note(f"cut {number} of seed {seed}, keep {keep}")
            raise
    return {"acknowledged": acknowledged, "distinct": len(states)}


def _live_and_die(
    device: Device, directory: Path, keep: int | None, promises: Promises, rng: random.Random
) -> int:
    listening, pipe = os.pipe()
    first, seed = max(promises.tried, default=0), rng.randrange(2**32)
    child = os.fork()
    if child == 0:
        os.close(listening)
        try:
            run(directory, keep, first, seed, pipe)
        finally:
            os._exit(0)
    os.close(pipe)
    try:
        time.sleep(rng.random() * LONGEST_SECS)
        device.cut()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(listening, "rb") as heard:
        return promises.hear(heard.read().decode())
