"""Saves of one system, one after the other: stall, durable, loop lag."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import states
from benchmarks.measure import Ticker, binned, clear, fsync_tree, tidy, worst
from benchmarks.records import Job, Run, Save
from benchmarks.systems import make
from benchmarks.systems.base import System, Times
from benchmarks.threads import Thread

__all__ = ["measure"]

LONGEST_SECS = 30.0
"""A state is left out when the one before it says that a save takes longer."""


async def measure(job: Job, run: Run, directory: Path) -> None:
    """Save every state of the job as often as told, or as the budget allows, at least once."""
    worker = Thread("bench")
    last: tuple[float, float] | None = None
    for number, name in enumerate(job.states):
        spec = states.spec(name)
        size = float(spec.nbytes if name.startswith("size") else spec.tensors)
        if last is not None and (expected := last[0] * size / last[1]) > LONGEST_SECS:
            run.notes.append(f"{name} left out: it would take about {expected:.0f} s a save")
            break
        place = directory / f"state-{number}"
        place.mkdir()
        system = make(job.system)
        await worker.call(lambda system=system, spec=spec: system.adopt(states.build(spec)))
        await worker.call(tidy)
        run.marks.setdefault("base", time.perf_counter())
        await system.open(place)
        try:
            saves = await _saves(job, run, system, spec, place, worker)
        finally:
            await system.close()
        del system
        await worker.call(clear, place)
        last = (min(save.durable or save.stall or 0.0 for save in saves), size)
    worker.close()


async def _saves(
    job: Job, run: Run, system: System, spec: states.Spec, place: Path, worker: Thread
) -> list[Save]:
    saves: list[Save] = []
    spent = 0.0
    async with Ticker() as ticker:
        for repeat in range(job.repeats):
            if spent > job.budget_secs:
                run.notes.append(f"{spec.name}: {repeat} of {job.repeats} saves, for want of time")
                break
            ticker.forget()
            times = await system.save(repeat + 1)
            ticks = ticker.between(times.began, times.ended)
            synced = time.perf_counter()
            await worker.call(fsync_tree, place)
            unsynced = time.perf_counter() - synced
            saves.append(_record(spec, times, ticks, unsynced))
            run.saves.append(saves[-1])
            spent += times.ended - times.began
            run.marks["end"] = time.perf_counter()
            await worker.call(clear, place)
            if job.timeline:
                for save in run.saves:
                    save.timeline = []
                saves[-1].timeline = binned(ticks, times.began)
    return saves


def _record(spec: states.Spec, times: Times, ticks: list[tuple[float, float]], unsynced: float) -> Save:
    gap, gap_p999 = worst(ticks)
    return Save(
        state=spec.name,
        bytes=spec.nbytes,
        stall=times.stall,
        durable=None if times.durable is None else times.durable - times.began,
        unsynced=None if times.durable is None else unsynced,
        gap=gap,
        gap_p999=gap_p999,
        parts=times.parts,
    )
