"""How long the command takes, from the shell's side: start, work on a directory of three checkpoints, end.

    python -m benchmarks.start_up

Prints milliseconds as median (min - max) over several runs, beside those of an interpreter that does nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from async_ckpt import Saver

ROUNDS = 15


async def fill(directory: Path) -> None:
    async with Saver(directory) as saver:
        for step in (1, 2, 3):
            await saver.save({"model": {"w": np.arange(1000.0)}}, step, metrics={"loss": 1 / step})


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(fill(Path(place)))
        command = [sys.executable, "-m", "async_ckpt"]
        runs = {"python -c pass": [sys.executable, "-c", "pass"]}
        for words in (["--version"], ["--help"], ["ls", place], ["show", place], ["verify", place]):
            runs[words[0]] = [*command, *words]
        took: dict[str, list[float]] = {name: [] for name in runs}
        # In turn, so that whatever else the machine does meets all of them.
        for _ in range(ROUNDS):
            for name, words in runs.items():
                began = time.perf_counter()
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                took[name].append((time.perf_counter() - began) * 1e3)
    for name, each in took.items():
        print(f"{name:15} {statistics.median(each):5.0f} ms ({min(each):.0f} - {max(each):.0f})")


if __name__ == "__main__":
    main()
