"""A loop of real steps, with saves that overlap them and without: how much of its time saving takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import states
from benchmarks.processor import Counted
from benchmarks.records import Job, Run
from benchmarks.states import Arrays
from benchmarks.threads import Thread
from benchmarks.training import Training

__all__ = ["measure"]

SAVE_EVERY = 10
CALIBRATIONS = 5


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


async def measure(job: Job, run: Run, directory: Path) -> None:
    """Blocks of steps, by turns without saves and with a save every ten steps.

    ``lost``: share of time, of each block that saves against the two beside it. ``same``: likewise of each
    block without saves against the one before it, which says what the machine does by itself. What ``lost``
    is made of, in the same shares: ``ran`` (the same arithmetic took longer on a processor), ``queued`` (it
    was ready and had none), ``stood`` (the arithmetic stood still for something else: the interpreter's lock,
    or the disk), ``waited`` (at ``mutating()``); the rest is the boundaries. ``call``: seconds
    from the end of the step's function to the end of the boundary that started a save. ``wait``: seconds
    ``mutating()`` waited, its largest within each block that saves. ``step``: of a step without saves.
    """
    worker = Thread("bench")
    state = await worker.call(states.build, states.spec(job.states[0]))
    count = int(job.numbers["steps"])
    names = ("lost", "same", "ran", "queued", "stood", "waited", "call", "wait", "step", "plain_call")
    values = run.values = {name: [] for name in names}
    async with Training(directory, state, max_to_keep=1, staging="overlap") as training:
        steps = Steps(training, state, job.numbers["step_secs"])
        await training.session.run(steps, mutates=False)
        await training.save()
        before = await _block(training, steps, count, values["plain_call"], save_every=None)
        for _ in range(job.repeats):
            saving = await _block(training, steps, count, values["call"], save_every=SAVE_EVERY)
            values["wait"].append(max(steps.waits))
            await training.session.drain()
            after = await _block(training, steps, count, values["plain_call"], save_every=None)
            plain = (before.wall + after.wall) / 2
            values["step"].append(plain / count)
            values["lost"].append(saving.wall / plain - 1)
            values["same"].append(after.wall / before.wall - 1)
            for name in ("ran", "queued", "stood", "waited"):
                sides = (getattr(block, name) for block in (before, after))
                values[name].append((getattr(saving, name) - sum(sides) / 2) / plain)
            before = after
    run.values["durable"] = training.durable[1:]
    worker.close()


class _Block(NamedTuple):
    wall: float
    ran: float
    queued: float
    stood: float
    waited: float


async def _block(
    training: Training, steps: Steps, count: int, calls: list[float], *, save_every: int | None
) -> _Block:
    steps.waits.clear()
    steps.computing.clear()
    began = time.perf_counter()
    for number in range(count):
        saves = save_every is not None and number % save_every == 0
        training.due = saves
        await training.session.run(steps, mutates=False)
        if saves or save_every is None:
            calls.append(time.perf_counter() - steps.ended)
    return _Block(
        time.perf_counter() - began,
        sum(each.ran for each in steps.computing),
        sum(each.queued for each in steps.computing),
        sum(each.wall - each.ran - each.queued for each in steps.computing),
        sum(steps.waits),
    )
