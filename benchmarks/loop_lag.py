"""How long the event loop is held while a large state is saved in the background.

    python -m benchmarks.loop_lag --gib 1.4 --rounds 5

A session takes a step of 50 ms at a time and saves now and then; a ticker on the same loop asks to be woken
every millisecond and notes how late it was. Prints median (min - max) over the rounds; the first save, in
memory that was never touched, is reported apart.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import states
from benchmarks.measure import Ticker, worst
from benchmarks.training import Training

__all__ = ["main"]


def step() -> None:
    """Fifty milliseconds of computing that holds neither the loop nor, in a thread, the state."""
    time.sleep(0.05)


async def measure(directory: Path, nbytes: int, rounds: int, staging: str) -> None:
    """Save once per round, and print."""
    state = states.build(states.spec(f"size-{nbytes}"))
    gaps: list[float] = []
    tails: list[float] = []
    async with Training(directory, state, max_to_keep=1, staging=staging) as training, Ticker() as ticker:
        for _ in range(1 + rounds):
            ticker.forget()
            began = time.perf_counter()
            await training.save()
            for _ in range(5):
                await training.session.run(step)
            gap, tail = worst(ticker.between(began, time.perf_counter()))
            gaps.append(gap)
            tails.append(tail)
    print(f"first save: held {training.held[0]:.3f} s, durable {training.durable[0]:.3f} s")
    show("largest gap of a 1 ms ticker, ms", [gap * 1e3 for gap in gaps[1:]])
    show("99.9th percentile of the gaps, ms", [tail * 1e3 for tail in tails[1:]])
    show("step held by a save, s", training.held[1:])
    show("durable after, s", training.durable[1:])


def show(what: str, values: list[float]) -> None:
    print(f"{what}: {statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})")


def main() -> None:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("--gib", type=float, default=1.4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--staging", choices=("copy", "overlap"), default="copy")
    parser.add_argument("--dir", type=Path, help="where a temporary directory is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="async_ckpt-lag-", dir=options.dir) as directory:
        asyncio.run(measure(Path(directory), int(options.gib * 2**30), options.rounds, options.staging))


if __name__ == "__main__":
    main()
