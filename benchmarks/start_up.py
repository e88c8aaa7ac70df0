"""How long the command takes, from the shell's side: start, work on a directory of three checkpoints, end.

    python -m benchmarks.start_up

Prints milliseconds as median (min - max) over several runs, beside those of an interpreter that does nothing.
In a terminal tables are drawn with rich, which has to be imported.
"""

from __future__ import annotations

import asyncio
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from async_ckpt import Saver

ROUNDS = 15


async def fill(directory: Path) -> None:
    async with Saver(directory) as saver:
        for step in (1, 2, 3):
            await saver.save({"model": {"w": np.arange(1000.0)}}, step, metrics={"loss": 1 / step})


def piped(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def in_terminal(words: list[str]) -> None:
    keyboard, screen = pty.openpty()
    with subprocess.Popen(words, stdin=screen, stdout=screen, stderr=screen) as child:
        os.close(screen)
        try:
            while os.read(keyboard, 65536):
                pass
        except OSError:  # the other side is closed
            pass
    os.close(keyboard)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(fill(Path(place)))
        command = [sys.executable, "-m", "async_ckpt"]
        runs = {"python -c pass": partial(piped, [sys.executable, "-c", "pass"])}
        for words in (["--version"], ["--help"], ["ls", place], ["show", place], ["verify", place]):
            runs[words[0]] = partial(piped, [*command, *words])
            if place in words:
                runs[f"{words[0]}, terminal"] = partial(in_terminal, [*command, *words])
        took: dict[str, list[float]] = {name: [] for name in runs}
        # In turn, so that whatever else the machine does meets all of them.
        for _ in range(ROUNDS):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                took[name].append((time.perf_counter() - began) * 1e3)
    for name, each in took.items():
        print(f"{name:16} {statistics.median(each):5.0f} ms ({min(each):.0f} - {max(each):.0f})")


if __name__ == "__main__":
    main()
