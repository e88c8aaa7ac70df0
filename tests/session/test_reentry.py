"""Calls that would wait for themselves raise ``ProtocolError``; tasks left behind are free."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import Checkpoint, MonitoredTrainingSession, ProtocolError, SessionRunHook, StepRun
from async_ckpt.testing import Gate
from tests.session.disk import Weights, hang_guard, saver_hook

pytestmark = pytest.mark.loop_flavours


async def _nothing() -> None:
    return None


FORBIDDEN: dict[str, Callable[[MonitoredTrainingSession], Awaitable[Any]]] = {
    "run": lambda session: session.run(_nothing),
    "advance": lambda session: session.advance(),
    "save": lambda session: session.save(),
    "drain": lambda session: session.drain(),
    "aclose": lambda session: session.aclose(),
}


class Probe:
    """Tries everything that is forbidden, and what is allowed, wherever it is called."""

    def __init__(self) -> None:
        self.refused: dict[str, list[str]] = {}
        self.read: list[int] = []

    async def __call__(self, where: str, session: MonitoredTrainingSession) -> None:
        refused = []
        for name, call in FORBIDDEN.items():
            try:
                await call(session)
            except ProtocolError:
                refused.append(name)
        self.refused[where] = refused
        self.read.append(session.global_step)
        assert session.stop_reason is None
        assert not session.should_stop()
        assert session.votes == ()
        assert isinstance(session.metrics, dict)

    def check(self, *places: str) -> None:
        assert self.refused == {place: list(FORBIDDEN) for place in places}


@pytest.mark.asyncio
async def test_inside_every_callback_of_a_listener(tmp_path: Path) -> None:
    probe = Probe()

    class Listener:
        async def begin(self) -> None:
            await probe("begin", session)

        async def before_save(self, session: MonitoredTrainingSession, step: int) -> None:
            await probe("before_save", session)

        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            await probe("after_save", session)

        async def end(self, session: MonitoredTrainingSession, step: int) -> None:
            # It is closing, so it says stop; everything else is as in the other callbacks.
            session.should_stop = lambda: False  # type: ignore[method-assign]
            await probe("end", session)

    async with hang_guard():
        session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights(), listeners=[Listener()])])
        async with session:
            await session.drain()
    probe.check("begin", "before_save", "after_save", "end")


@pytest.mark.asyncio
async def test_inside_every_method_of_a_hook() -> None:
    probe = Probe()

    class Hook(SessionRunHook):
        async def begin(self) -> None:
            await probe("begin", session)

        async def after_create_session(self, session: MonitoredTrainingSession) -> None:
            await probe("after_create_session", session)

        async def before_run(self, run: StepRun) -> None:
            await probe("before_run", run.session)

        async def check(self, run: StepRun) -> None:
            await probe("check", run.session)

        async def after_run(self, run: StepRun) -> None:
            await probe("after_run", run.session)

        async def end(self, session: MonitoredTrainingSession) -> None:
            session.should_stop = lambda: False  # type: ignore[method-assign]
            await probe("end", session)

    async with hang_guard():
        session = MonitoredTrainingSession(hooks=[Hook()])
        async with session:
            await session.advance()
    probe.check("begin", "after_create_session", "before_run", "check", "after_run", "end")


@pytest.mark.asyncio
async def test_inside_a_step_function_of_either_kind() -> None:
    probe = Probe()
    async with hang_guard(), MonitoredTrainingSession() as session:
        loop = asyncio.get_running_loop()

        def in_the_trainer_thread() -> None:
            asyncio.run_coroutine_threadsafe(probe("plain", session), loop).result(30)

        await session.run(probe, "coroutine", session)
        await session.run(in_the_trainer_thread)
        await session.run(lambda: probe("awaitable", session))
        assert session.global_step == 3
    probe.check("coroutine", "plain", "awaitable")


@pytest.mark.asyncio
async def test_inside_load_and_the_state_dicts_of_listeners(tmp_path: Path) -> None:
    probe = Probe()
    loop = asyncio.get_running_loop()
    held: list[MonitoredTrainingSession] = []

    class Stateful:
        name = "stateful"

        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            return None

        def state_dict(self) -> dict[str, Any]:
            asyncio.run_coroutine_threadsafe(probe("state_dict", held[-1]), loop).result(30)
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            asyncio.run_coroutine_threadsafe(probe("load_state_dict", held[-1]), loop).result(30)

    async def load(state: Any) -> None:
        await probe("load", held[-1])

    async with hang_guard():
        for _ in range(2):
            hook = saver_hook(tmp_path, Weights(), listeners=[Stateful()], load=load)
            held.append(MonitoredTrainingSession(hooks=[hook], final_save="never"))
            async with held[-1] as session:
                await session.drain()
    probe.check("state_dict", "load", "load_state_dict")


@pytest.mark.asyncio
async def test_a_task_the_callback_waits_for_is_inside_it(tmp_path: Path) -> None:
    probe = Probe()

    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            await asyncio.create_task(probe("task", session))

    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
    probe.check("task")


@pytest.mark.asyncio
async def test_a_task_left_behind_by_a_callback_is_free(tmp_path: Path) -> None:
    go, tasks = asyncio.Event(), []

    async def later(session: MonitoredTrainingSession) -> Any:
        await go.wait()
        await session.drain()
        return await session.save()

    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            if step == 0:
                tasks.append(asyncio.create_task(later(session)))

    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
        await session.run(_nothing)
        go.set()
        checkpoint = await tasks[0]
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1


@pytest.mark.asyncio
async def test_tasks_left_behind_by_hooks_and_step_functions_are_free() -> None:
    gates: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]
    tasks: list[asyncio.Task[int]] = []

    async def later(session: MonitoredTrainingSession, gate: asyncio.Event) -> int:
        await gate.wait()
        await session.run(_nothing)
        await session.advance()
        return session.global_step

    class Hook(SessionRunHook):
        async def after_create_session(self, session: MonitoredTrainingSession) -> None:
            tasks.append(asyncio.create_task(later(session, gates[0])))

    async def step(session: MonitoredTrainingSession) -> None:
        tasks.append(asyncio.create_task(later(session, gates[1])))

    async with hang_guard(), MonitoredTrainingSession(hooks=[Hook()]) as session:
        await session.run(step, session)
        gates[0].set()
        assert await tasks[0] == 3
        gates[1].set()
        assert await tasks[1] == 5


@pytest.mark.asyncio
async def test_other_tasks_are_free_while_a_callback_runs(tmp_path: Path) -> None:
    gate = Gate()

    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            await gate()

    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await gate.reached()
        await session.run(_nothing)
        await session.advance()
        draining = asyncio.create_task(session.drain())
        await asyncio.sleep(0)
        gate.open()
        await draining


@pytest.mark.asyncio
async def test_a_refused_call_changes_nothing(tmp_path: Path) -> None:
    class Hook(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            with pytest.raises(ProtocolError):
                await run.session.save()
            with pytest.raises(ProtocolError):
                await run.session.advance()

    hook = saver_hook(tmp_path, Weights(), initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook, Hook()], final_save="never") as session:
        await session.advance()
        assert session.global_step == 1
        await session.advance()
    assert not list(tmp_path.glob("step-*"))


@pytest.mark.asyncio
async def test_inside_a_callback_another_session_may_be_used(tmp_path: Path) -> None:
    """Nothing there would wait for itself: an evaluation may well be a session of its own."""

    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            async with MonitoredTrainingSession() as inner:
                await inner.run(deeper, session)
                await inner.advance()
                await inner.drain()
                done.append(inner.global_step)

    async def deeper(outer: MonitoredTrainingSession) -> None:
        # What would wait for itself still does, however deep.
        with pytest.raises(ProtocolError):
            await outer.drain()
        assert (await outer.saved_state())["at"] == [0]

    done: list[int] = []
    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
    assert done == [2]
    assert session.errors == ()
