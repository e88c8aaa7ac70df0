"""The first save of a session that had some seconds to warm up, against the later ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks import states
from benchmarks.records import Job, Run
from benchmarks.threads import Thread
from benchmarks.training import Training

__all__ = ["measure"]


async def measure(job: Job, run: Run, directory: Path) -> None:
    """``first_…`` has one figure, ``later_…`` one for each further save."""
    worker = Thread("bench")
    state = await worker.call(states.build, states.spec(job.states[0]))
    async with Training(directory, state, max_to_keep=1) as training:
        await asyncio.sleep(job.numbers["wait_secs"])
        for _ in range(1 + job.repeats):
            await training.save()
    worker.close()
    run.values = {
        "first_stall": training.held[:1],
        "later_stall": training.held[1:],
        "first_durable": training.durable[:1],
        "later_durable": training.durable[1:],
    }
