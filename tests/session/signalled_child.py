"""A training process for ``test_signals.py``: says where it is, and how it ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from async_ckpt import MonitoredTrainingSession
from async_ckpt.events import SignalReceived, StopDecided
from tests.session.disk import Weights, saver_hook


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def train(directory: Path, *, hangs: bool) -> None:
    weights = Weights()
    hook = saver_hook(directory, weights, initial_save="never")
    session = MonitoredTrainingSession(hooks=[hook], handle_signals=(signal.SIGTERM, signal.SIGINT))
    session.subscribe(lambda event: say(event.signal) if isinstance(event, SignalReceived) else None)
    try:
        async with session:
            await session.run(weights.train)
            say("training")
            if hangs:
                await session.run(asyncio.Event().wait)
            # A loop with nothing to do but wait: the signal alone has to wake it.
            stopped = asyncio.Event()
            session.subscribe(lambda event: stopped.set() if isinstance(event, StopDecided) else None)
            await stopped.wait()
            while not session.should_stop():
                await asyncio.sleep(0)
        say(f"stopped by {session.stop_reason}")
    except asyncio.CancelledError:
        say(f"cancelled after {session.stop_reason}")
        raise


def main() -> None:
    directory, hangs, loop = Path(sys.argv[1]), sys.argv[2] == "hangs", sys.argv[3]
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(train(directory, hangs=hangs))
        except asyncio.CancelledError:
            sys.exit(75)


if __name__ == "__main__":
    main()
