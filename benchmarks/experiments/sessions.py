"""Sessions that save at the same time in one process, each into its own directory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import async_ckpt
from benchmarks import states
from benchmarks.measure import Ticker, clear, worst
from benchmarks.plan import COUNTS
from benchmarks.records import Job, Run
from benchmarks.systems.base import UnavailableError
from benchmarks.systems.ours import make_saver
from benchmarks.threads import Thread
from benchmarks.training import Training

__all__ = ["measure"]


async def measure(job: Job, run: Run, directory: Path) -> None:
    """For each count: ``all N`` seconds until the last is durable, ``each N``, ``gap N`` and ``held N``."""
    worker = Thread("bench")
    spec = states.spec(f"size-{int(job.numbers['bytes'])}")
    run.values["bytes"] = [float(spec.nbytes)]
    run.marks["base"] = time.perf_counter()
    for count in COUNTS:
        place = directory / str(count)
        all_states = [await worker.call(states.build, spec) for _ in range(count)]
        async with contextlib.AsyncExitStack() as stack:
            options = await _shared(job, stack)
            trainings = []
            for number, state in enumerate(all_states):
                saver = await stack.enter_async_context(make_saver(place / str(number), **options))
                trainings.append(await stack.enter_async_context(Training(saver, state)))
            await _together(trainings)
            for training in trainings:
                training.held.clear()
                training.durable.clear()
            async with Ticker() as ticker:
                for _ in range(job.repeats):
                    ticker.forget()
                    began = time.perf_counter()
                    await _together(trainings)
                    ended = time.perf_counter()
                    run.values.setdefault(f"all {count}", []).append(ended - began)
                    gap, _ = worst(ticker.between(began, ended))
                    run.values.setdefault(f"gap {count}", []).append(gap)
                    for number in range(count):
                        await worker.call(clear, place / str(number))
            run.values[f"each {count}"] = [secs for training in trainings for secs in training.durable]
            run.values[f"held {count}"] = [secs for training in trainings for secs in training.held]
            run.marks["end"] = time.perf_counter()
    worker.close()


async def _together(trainings: list[Training]) -> None:
    async with asyncio.TaskGroup() as group:
        for training in trainings:
            group.create_task(training.save())


async def _shared(job: Job, stack: contextlib.AsyncExitStack) -> dict[str, Any]:
    if job.system != "ours-engine":
        return {}
    engine: Any = getattr(async_ckpt, "Engine", None)
    if engine is None:
        message = "there is no Engine in this version"
        raise UnavailableError(message)
    return {"engine": await stack.enter_async_context(engine())}
