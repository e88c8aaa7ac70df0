"""One process life of a recorded case, played on a session: hooks, listeners, disk and script."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import (
    CheckpointSaverHook,
    MonitoredTrainingSession,
    SaveError,
    Saver,
    SessionRunHook,
    StepRun,
    StopAtStepHook,
)
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.store import Pieces
from async_ckpt.testing import FakeClock

__all__ = ["World"]


class OutOfRange(Exception):  # noqa: N818 - TensorFlow's "end of sequence", by its name in the recording
    """What TensorFlow raises at the end of an input."""


class Aborted(Exception):  # noqa: N818 - as above
    """What TensorFlow raises when a worker was preempted."""


ERRORS: dict[str, type[Exception]] = {
    "RuntimeError": RuntimeError,
    "StopIteration": StopIteration,
    "OutOfRange": OutOfRange,
    "Aborted": Aborted,
}
DISK_ERRORS = {
    "DiskFull": OSError(errno.ENOSPC, "No space left on device"),
    "Unavailable": OSError(errno.ESTALE, "Stale file handle"),
}


class State:
    """What is trained: an array, and the step it belongs to, to be found again in the checkpoint."""

    def __init__(self, trace: list[str]) -> None:
        self.trace = trace
        self.weights = np.zeros(3)
        self.at = 0

    def train(self, inc: int) -> None:
        self.weights += inc
        self.at += inc

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights[...] = state["weights"]
        self.at = int(state["at"])
        self.trace.append(f"restore@{self.at}")


class Disk(LocalStore):
    """A real directory on a disk that fails when the case says so."""

    def __init__(self, directory: Path, trace: list[str], fails: list[str | None]) -> None:
        super().__init__(directory)
        self._trace = trace
        self._fails = fails
        self._saves = 0
        self._step = 0

    async def begin(self, step: int) -> str:
        self._saves += 1
        self._step = step
        return await super().begin(step)

    async def write(self, attempt: str, name: str, data: memoryview | Pieces, **hooks: Any) -> None:
        name_of_error = self._fails[self._saves - 1] if self._saves <= len(self._fails) else None
        if name_of_error is not None:
            self._trace.append(f"save@{self._step} fails {name_of_error}")
            message = f"cannot write {name}"
            raise SaveError(message, step=self._step, path=self.location) from DISK_ERRORS[name_of_error]
        await super().write(attempt, name, data, **hooks)

    async def commit(self, attempt: str, step: int) -> None:
        await super().commit(attempt, step)
        self._trace.append(f"save@{step}")


class Doings:
    """What a listener or hook of the case does when it is called: write a line, take time, raise."""

    def __init__(self, spec: dict[str, Any], trace: list[str], clock: FakeClock) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.trace = trace
        self.clock = clock
        self.calls: dict[str, int] = {}

    def happens(self, callback: str, step: int | None = None) -> int:
        """Do what the case has for this call, and return its number, from 1."""
        number = self.calls[callback] = self.calls.get(callback, 0) + 1
        if self.spec.get("trace", True):
            self.trace.append(f"{self.name}.{callback}" + ("" if step is None else f"@{step}"))
        if number > self.spec.get("takes_secs_after_call", 0):
            self.clock.advance(self.spec.get("takes_secs", {}).get(callback, 0))
        error = self.spec.get("raise", {}).get(callback, {}).get(str(number))
        if error is not None:
            self.trace.append(f"{self.name} raises {error}")
            raise ERRORS[error](f"{callback} of {self.name}")
        return number

    def vote(self, step: int) -> object:
        return self.spec.get("vote_value", True) if step in self.spec.get("vote_at", ()) else None


class CoroutineListener(Doings):
    """A listener as one writes it for asyncio."""

    async def begin(self) -> None:
        self.happens("begin")

    async def before_save(self, session: Any, step: int) -> None:
        self.happens("before_save", step)

    async def after_save(self, session: Any, step: int) -> object:
        self.happens("after_save", step)
        return self.vote(step)

    async def end(self, session: Any, step: int) -> None:
        self.happens("end", step)


class PlainListener(Doings):
    """A listener as one wrote it for TensorFlow."""

    def begin(self) -> None:
        self.happens("begin")

    def before_save(self, session: Any, global_step_value: int) -> None:
        self.happens("before_save", global_step_value)

    def after_save(self, session: Any, global_step_value: int) -> object:
        self.happens("after_save", global_step_value)
        return self.vote(global_step_value)

    def end(self, session: Any, global_step_value: int) -> None:
        self.happens("end", global_step_value)


class Hook(SessionRunHook):
    """A session hook of the case."""

    def __init__(self, doings: Doings) -> None:
        self.doings = doings

    async def begin(self) -> None:
        self.doings.happens("begin")

    async def after_create_session(self, session: Any) -> None:
        self.doings.happens("session_created")

    async def before_run(self, run: StepRun) -> None:
        self.doings.happens("before_step")

    async def after_run(self, run: StepRun) -> None:
        number = self.doings.happens("after_step")
        if number == self.doings.spec.get("request_stop_at_call"):
            self.doings.trace.append(f"{self.doings.name} requests stop")
            run.request_stop(self.doings.name)

    async def end(self, session: Any) -> None:
        self.doings.happens("end")


class World:
    """One life: build everything the phase names, play its script, write down what happened."""

    def __init__(self, phase: dict[str, Any], directory: Path, *, plain: bool) -> None:
        self.phase = phase
        self.directory = directory
        self.trace: list[str] = []
        self.clock = FakeClock(wall=0.0)
        self.state = State(self.trace)
        self.plain = plain

    async def live(self) -> tuple[list[str], list[int]]:
        """Return the trace, and the steps that can be read back afterwards."""
        disk = Disk(self.directory, self.trace, self.phase.get("save_fails", []))
        async with Saver(disk, max_to_keep=self.phase.get("max_to_keep", 5)) as saver:
            try:
                async with self._session(saver) as session:
                    self.trace.append("entered")
                    for line in self.phase["script"]:
                        if "raise" in line:
                            # Here and not below: a StopIteration cannot leave a coroutine as itself.
                            self.trace.append(f"body raises {line['raise']}")
                            raise ERRORS[line["raise"]]("the loop body")
                        await self._play(session, line)
            except Exception as error:
                self.trace.append(f"left raising {type(error).__name__}")
            else:
                self.trace.append("left")
        return self.trace, await self._on_disk()

    def _session(self, saver: Saver) -> MonitoredTrainingSession:
        phase = self.phase
        listener = PlainListener if self.plain else CoroutineListener
        hook = CheckpointSaverHook(
            saver,
            self.state,
            save_steps=phase.get("save_steps"),
            save_secs=phase.get("save_secs"),
            listeners=[listener(spec, self.trace, self.clock) for spec in phase["listeners"]],
            restore="latest" if phase.get("restore", True) else None,
            blocking=True,
            initial_save="always",
        )
        hooks: list[SessionRunHook] = [*self._hooks("hooks_before"), hook, *self._hooks("hooks_after")]
        if "stop_at_step" in phase:
            hooks.append(StopAtStepHook(last_step=phase["stop_at_step"]))
        return MonitoredTrainingSession(hooks=hooks, clock=self.clock)

    def _hooks(self, which: str) -> list[Hook]:
        return [Hook(Doings(spec, self.trace, self.clock)) for spec in self.phase.get(which, ())]

    async def _play(self, session: MonitoredTrainingSession, line: dict[str, Any]) -> None:
        match line:
            case {"step": _, "catch": _}:
                try:
                    await self._step(session, line.get("inc", 1))
                except Exception as error:
                    self.trace.append(f"caught {type(error).__name__}")
            case {"step": _}:
                await self._step(session, line.get("inc", 1))
            case {"loop": most}:
                done = 0
                while done < most and not session.should_stop():
                    await self._step(session, 1)
                    done += 1
                self.trace.append(f"loop ended after {done}")
            case {"clock": secs}:
                if secs < 0:
                    self.clock.set_wall(self.clock.wall() + secs)
                else:
                    self.clock.advance(secs)
                self.trace.append(f"clock={self.clock.wall():g}")
            case {"should_stop": _}:
                self.trace.append(f"should_stop={session.should_stop()}")
            case {"thread_error": name}:
                self.trace.append(f"thread error {name}")
                thread = threading.Thread(target=session.request_stop, args=(f"a thread met {name}",))
                thread.start()
                thread.join()
                await asyncio.sleep(0)  # what the thread asked for is the loop's next piece of work
            case {"close": _}:
                await session.aclose()
                self.trace.append("closed")
            case _:
                raise AssertionError(f"unknown line in the script: {line}")

    async def _step(self, session: MonitoredTrainingSession, inc: int) -> None:
        self.trace.append("step{")
        await session.run(self._train, inc, steps=inc)
        self.trace.append(f"}}={session.global_step}")

    async def _train(self, inc: int) -> None:
        self.state.train(inc)

    async def _on_disk(self) -> list[int]:
        if not self.directory.exists():
            return []
        steps = sorted(int(path.name.removeprefix("step-")) for path in self.directory.glob("step-*"))
        async with Saver(self.directory) as saver:
            assert [checkpoint.step for checkpoint in await saver.checkpoints()] == steps
            for step in steps:
                restored = await saver.restore(step)
                assert restored.state["at"] == step
        return steps
