"""A process that wants to write: ``contender.py DIRECTORY own`` or ``contender.py DIRECTORY ROUNDS``.

``own``: becomes the writer, then saves a step for each line it is given, and answers each. ROUNDS: becomes
the writer as often as it can in so many tries, and makes sure that nobody else is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import numpy as np

from async_ckpt.errors import DirectoryLockedError
from async_ckpt.saver import Saver
from async_ckpt.storage.local import LocalStore
from tests.reliability.inline import run_inline


async def own(directory: str) -> None:
    async with Saver(directory) as saver:
        await saver.open()
        print("open", flush=True)
        while step := sys.stdin.readline().strip():
            await saver.save({"w": np.full(9, float(step))}, int(step))
            print("saved", flush=True)


async def contend(directory: str, rounds: int) -> None:
    told = {"won": 0, "lost": 0, "together": 0, "unnamed": 0}
    marker = Path(directory, "in-here")
    for _ in range(rounds):
        store = LocalStore(directory)
        try:
            await store.open()
        except DirectoryLockedError as error:
            told["lost"] += 1
            told["unnamed"] += error.owner is None
        else:
            told["won"] += 1
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                told["together"] += 1
            os.sched_yield()
            marker.unlink(missing_ok=True)
        await store.aclose()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    if sys.argv[2] == "own":
        asyncio.run(own(sys.argv[1]))
    else:
        run_inline(contend(sys.argv[1], int(sys.argv[2])))
