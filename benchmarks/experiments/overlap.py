"""A loop of real steps, with saves that overlap them and without: how much of its time saving takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import states
from benchmarks.processor import Counted
from benchmarks.records import Job, Run
from benchmarks.states import Arrays
from benchmarks.systems.raw import CopyTo, DirectWrite
from benchmarks.threads import Thread
from benchmarks.training import Training

__all__ = ["measure"]

SAVE_EVERY = 10
CALIBRATIONS = 5
LOSS = ("lost", "ran", "queued", "stood", "waited")
OTHERS = ("same", "call", "wait", "step", "plain_call")


class Steps:
    """Steps of a fixed amount of arithmetic that does not hold the interpreter; then the state changes."""

    def __init__(self, training: Training, state: Arrays, secs: float) -> None:
        self._training = training
        self._arrays = [array for names in state.values() for array in names.values()]
        self._row = np.linspace(0.1, 1.0, 32768, dtype=np.float32)
        self._count = self._calibrate(secs)
        self.waits: list[float] = []
        self.computing: list[Counted] = []
        self.ended = 0.0

    def _calibrate(self, secs: float) -> int:
        # From 20 ms alone a step came out at two thirds of its length once.
        self._count = 200
        for _ in range(CALIBRATIONS):
            began = time.perf_counter()
            self._compute()
            self._count = max(1, int(secs / (time.perf_counter() - began) * self._count))
        return self._count

    def _compute(self) -> None:
        for _ in range(self._count):
            np.sin(self._row, out=self._row)

    def __call__(self) -> None:
        """One step, for the session's trainer thread."""
        began = Counted.now()
        self._compute()
        self.computing.append(Counted.now().since(began))
        asked = time.perf_counter()
        with self._training.session.mutating():
            self.waits.append(time.perf_counter() - asked)
            for array in self._arrays:
                array.reshape(-1)[0] += 1.0
        self.ended = time.perf_counter()


class _Bare:
    """About the least that a save could do beside the steps: a thread copies everything, then one writes it.

    At the usual priority, where ours gives way, and with one thread however many processors there are.
    """

    def __init__(self, directory: Path, state: Arrays) -> None:
        self._directory = directory
        self._copy, self._write = CopyTo(), DirectWrite()
        self._systems = (self._copy, self._write)
        self._worker = Thread("unlink")
        for system in self._systems:
            system.adopt(state)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        self._directory.mkdir()
        for system in self._systems:
            await system.open(self._directory)

    def start(self) -> None:
        self._tasks.append(asyncio.create_task(self._save(len(self._tasks)), name="bare"))

    async def _save(self, number: int) -> None:
        await self._copy.save(number)
        await self._write.save(number)
        await self._worker.call((self._directory / f"{number}.bin").unlink)

    async def drain(self) -> None:
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for system in self._systems:
            await system.close()
        self._worker.close()


async def measure(job: Job, run: Run, directory: Path) -> None:
    """Blocks of steps, by turns without saves, with a save every ten steps, without, and with a bare one.

    ``lost``: share of time, of each block that saves against the two beside it. ``same``: likewise of each
    block without saves against the one before it, which says what the machine does by itself. What ``lost``
    is made of, in the same shares: ``ran`` (the same arithmetic took longer on a processor), ``queued`` (it
    was ready and had none), ``stood`` (the arithmetic stood still for something else: the interpreter's lock,
    or the disk), ``waited`` (at ``mutating()``); the rest is the boundaries. ``bare_lost``, ``bare_ran`` and
    so on: the same where the save is nothing but a bare copy and a bare loop of writes. ``call``: seconds
    from the end of the step's function to the end of the boundary that started a save. ``wait``: seconds
    ``mutating()`` waited, its largest within each block that saves. ``step``: of a step without saves.
    """
    worker = Thread("bench")
    state = await worker.call(states.build, states.spec(job.states[0]))
    bare = await worker.call(_Bare, directory / "bare", state)
    count = int(job.numbers["steps"])
    values = run.values = {name: [] for name in (*LOSS, *(f"bare_{name}" for name in LOSS), *OTHERS)}
    where = directory / "saves"
    async with Training(where, state, max_to_keep=1, staging="overlap") as training:
        await bare.open()
        steps = Steps(training, state, job.numbers["step_secs"])
        await training.session.run(steps, mutates=False)
        await training.save()

        def save() -> None:
            training.due = True

        async def plain() -> _Block:
            return await _block(training, steps, count, values["plain_call"])

        async def against(before: _Block, start: Callable[[], None], prefix: str) -> _Block:
            """One block with saves and one without; notes what the saves cost."""
            calls = values["call"] if start is save else []
            with_saves = await _block(training, steps, count, calls, start)
            if start is save:
                values["wait"].append(max(steps.waits))
            await training.session.drain()
            await bare.drain()
            after = await plain()
            values["step"].append((before.wall + after.wall) / 2 / count)
            values["same"].append(after.wall / before.wall - 1)
            for name, share in with_saves.beyond(before, after).items():
                values[prefix + name].append(share)
            return after

        before = await plain()
        for _ in range(job.repeats):
            before = await against(before, save, "")
            before = await against(before, bare.start, "bare_")
    await bare.close()
    run.values["durable"] = training.durable[1:]
    worker.close()


class _Block(NamedTuple):
    wall: float
    ran: float
    queued: float
    stood: float
    waited: float

    def beyond(self, before: _Block, after: _Block) -> dict[str, float]:
        """By what share it took longer than the mean of the two beside it, and where."""
        plain = (before.wall + after.wall) / 2
        return {
            "lost" if name == "wall" else name: (mine - (one + other) / 2) / plain
            for name, mine, one, other in zip(self._fields, self, before, after, strict=True)
        }


async def _block(
    training: Training,
    steps: Steps,
    count: int,
    calls: list[float],
    start: Callable[[], None] | None = None,
) -> _Block:
    steps.waits.clear()
    steps.computing.clear()
    began = time.perf_counter()
    for number in range(count):
        starts = start is not None and number % SAVE_EVERY == 0
        if start is not None and starts:
            start()
        await training.session.run(steps, mutates=False)
        if starts or start is None:
            calls.append(time.perf_counter() - steps.ended)
    return _Block(
        time.perf_counter() - began,
        sum(each.ran for each in steps.computing),
        sum(each.queued for each in steps.computing),
        sum(each.wall - each.ran - each.queued for each in steps.computing),
        sum(steps.waits),
    )
