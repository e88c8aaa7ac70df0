"""Cancellation at every place where a session waits, sentence by sentence of the contract."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Literal

import pytest

from async_ckpt import MonitoredTrainingSession, SessionRunHook, StepRun
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Disk, Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Wait for ``task`` to end, which has to be by its cancellation."""
    await asyncio.wait([task])
    assert task.cancelled()


def rounds(listener: RecordingListener) -> list[tuple[str, int | None]]:
    return [(phase, step) for _, phase, step in listener.log if phase in ("before_save", "after_save")]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["run", "advance"])
async def test_while_waiting_for_a_slot_no_save_and_no_callback(tmp_path: Path, how: str) -> None:
    disk, weights, listener = Disk(tmp_path), Weights(), RecordingListener("l")
    gate = disk.hold("commit")
    hook = saver_hook(disk, weights, save_steps=2, listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:

        async def step() -> None:
            weights.train()
            await (session.run(_nothing) if how == "run" else session.advance())

        await step()
        waiting = asyncio.create_task(step())
        await gate.reached()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        await cancelled(waiting)
        # The step itself is done and counted; only its save was not taken.
        assert session.global_step == 2
        gate.open()
        await session.drain()
        assert rounds(listener) == [("before_save", 0), ("after_save", 0)]
        # It is still due.
        await step()
        await session.drain()
        assert rounds(listener)[2:] == [("before_save", 3), ("after_save", 3)]


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
async def test_in_before_save_the_running_callback_finishes_the_rest_are_skipped_no_save(
    tmp_path: Path, plain: bool
) -> None:
    log: list[tuple[str, str, int | None]] = []
    loop, gate, go = asyncio.get_running_loop(), Gate(), threading.Event()

    class Plain:
        def before_save(self, session: Any, step: int) -> None:
            log.append(("first", "before_save", step))
            asyncio.run_coroutine_threadsafe(gate(), loop)
            assert go.wait(30)
            log.append(("first", "/before_save", step))

        def end(self, session: Any, step: int) -> None:
            log.append(("first", "end", step))

    first = Plain() if plain else RecordingListener("first", log, gates={"before_save": gate}, log_exits=True)
    second = RecordingListener("second", log)
    hook = saver_hook(tmp_path, Weights(), save_steps=1, listeners=[first, second], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        log.clear()
        stepping = asyncio.create_task(session.advance())
        await gate.reached()
        stepping.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        # A callback is never cut short by what happens to the step.
        assert not stepping.done()
        go.set()
        gate.open()
        await cancelled(stepping)
        assert log == [("first", "before_save", 1), ("first", "/before_save", 1)]
        await session.drain()
        assert session.errors == ()
    assert await saved_values(tmp_path) == {}


@pytest.mark.asyncio
async def test_in_the_state_dict_of_a_listener_which_ends_before_save_no_save(tmp_path: Path) -> None:
    loop, gate, go = asyncio.get_running_loop(), Gate(), threading.Event()

    class Stateful:
        name = "stateful"

        async def before_save(self, session: Any, step: int) -> None:
            return None

        def state_dict(self) -> dict[str, Any]:
            asyncio.run_coroutine_threadsafe(gate(), loop)
            assert go.wait(30)
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError

    hook = saver_hook(tmp_path, Weights(), save_steps=1, listeners=[Stateful()], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        stepping = asyncio.create_task(session.advance())
        await gate.reached()
        stepping.cancel()
        await asyncio.sleep(0)
        go.set()
        gate.open()
        await cancelled(stepping)
    assert await saved_values(tmp_path) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("operation", ["begin", "write", "manifest", "commit", "add"])
async def test_from_staging_on_the_save_completes(tmp_path: Path, operation: str) -> None:
    disk, weights, listener = Disk(tmp_path), Weights(), RecordingListener("l")
    gate = disk.hold(operation)
    hook = saver_hook(disk, weights, save_steps=1, listeners=[listener], initial_save="never", blocking=True)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        weights.train()
        stepping = asyncio.create_task(session.advance())
        await gate.reached()
        stepping.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        gate.open()
        await cancelled(stepping)
        await session.drain()
        assert rounds(listener) == [("before_save", 1), ("after_save", 1)]
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_while_the_state_is_copied_the_save_completes(tmp_path: Path) -> None:
    """A callable state is read in the trainer thread, where it can be held."""
    weights, listener = Weights(), RecordingListener("l")
    loop, gate, go = asyncio.get_running_loop(), Gate(), threading.Event()

    def state() -> Any:
        asyncio.run_coroutine_threadsafe(gate(), loop)
        assert go.wait(30)
        return weights.tree

    hook = saver_hook(tmp_path, state, save_steps=1, listeners=[listener], initial_save="never")
    async with hang_guard():
        with pytest.raises(asyncio.CancelledError):
            async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
                stepping = asyncio.create_task(session.run(weights.train))
                await gate.reached()
                stepping.cancel()
                await asyncio.sleep(0)
                go.set()
                gate.open()
                await stepping
    assert rounds(listener) == [("before_save", 1), ("after_save", 1)]
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
@pytest.mark.parametrize("final_save", ["clean", "always"])
async def test_a_plain_step_is_joined_and_counted(
    tmp_path: Path, final_save: Literal["clean", "always"]
) -> None:
    weights, came, go = Weights(), Gate(), threading.Event()
    loop, log = asyncio.get_running_loop(), []

    def step() -> None:
        asyncio.run_coroutine_threadsafe(came(), loop)
        assert go.wait(30)
        weights.train()
        log.append("the step is over")

    async def life() -> None:
        try:
            async with MonitoredTrainingSession(hooks=[hook], final_save=final_save) as session:
                sessions.append(session)
                await session.run(step)
        finally:
            log.append("the session is over")

    sessions: list[MonitoredTrainingSession] = []
    hook = saver_hook(tmp_path, weights, initial_save="never")
    async with hang_guard():
        living = asyncio.create_task(life())
        await came.reached()
        living.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not living.done()
        go.set()
        came.open()
        await cancelled(living)
    assert log == ["the step is over", "the session is over"]
    assert sessions[0].global_step == 1
    # It is at a boundary, so "always" saves it.
    assert await saved_values(tmp_path) == ({1: 1} if final_save == "always" else {})


@pytest.mark.asyncio
async def test_a_plain_step_that_fails_while_it_is_cancelled_is_not_counted_and_told_in_a_note() -> None:
    came, go, loop = Gate(), threading.Event(), asyncio.get_running_loop()
    error = ValueError("of the step")

    def step() -> None:
        asyncio.run_coroutine_threadsafe(came(), loop)
        assert go.wait(30)
        raise error

    async with hang_guard(), MonitoredTrainingSession() as session:
        running = asyncio.create_task(session.run(step))
        await came.reached()
        running.cancel()
        go.set()
        came.open()
        with pytest.raises(asyncio.CancelledError) as caught:
            await running
        assert session.global_step == 0
        assert session.errors == (error,)
        del caught


@pytest.mark.asyncio
@pytest.mark.parametrize("final_save", ["clean", "always"])
async def test_a_coroutine_step_is_not_counted_and_not_at_a_boundary(
    tmp_path: Path, final_save: Literal["clean", "always"]
) -> None:
    weights, gate = Weights(), Gate()

    async def step() -> None:
        weights.train()
        await gate()

    async def life() -> None:
        async with MonitoredTrainingSession(hooks=[hook], final_save=final_save) as session:
            sessions.append(session)
            await session.run(weights.atrain)
            await session.run(step)

    sessions: list[MonitoredTrainingSession] = []
    hook = saver_hook(tmp_path, weights, initial_save="never")
    async with hang_guard():
        living = asyncio.create_task(life())
        await gate.reached()
        living.cancel()
        await cancelled(living)
    assert sessions[0].global_step == 1
    assert await saved_values(tmp_path) == {}


@pytest.mark.asyncio
async def test_an_awaitable_of_a_plain_step_that_is_cancelled_is_not_counted(tmp_path: Path) -> None:
    gate = Gate()
    async with hang_guard(), MonitoredTrainingSession() as session:
        running = asyncio.create_task(session.run(lambda: gate()))
        await gate.reached()
        running.cancel()
        await cancelled(running)
        assert session.global_step == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["check", "after_run"])
async def test_in_a_hook_of_the_boundary_the_step_stays_counted(tmp_path: Path, where: str) -> None:
    gate, weights = Gate(), Weights()

    class Waiting(SessionRunHook):
        pass

    async def wait(run: StepRun) -> None:
        await gate()

    hook = Waiting()
    setattr(hook, where, wait)

    async def life() -> None:
        saver = saver_hook(tmp_path, weights, initial_save="never")
        async with MonitoredTrainingSession(hooks=[hook, saver], final_save="always") as session:
            sessions.append(session)
            await session.run(weights.train)

    sessions: list[MonitoredTrainingSession] = []
    async with hang_guard():
        living = asyncio.create_task(life())
        await gate.reached()
        living.cancel()
        await cancelled(living)
    assert sessions[0].global_step == 1
    # What a check has not passed is not saved.
    assert await saved_values(tmp_path) == ({} if where == "check" else {1: 1})


@pytest.mark.asyncio
async def test_in_end_the_remaining_ones_still_run_and_the_cancellation_leaves(tmp_path: Path) -> None:
    gate = Gate()
    log: list[tuple[str, str, int | None]] = []
    listeners = [
        RecordingListener("a", log, gates={"end": gate}, log_exits=True),
        RecordingListener("b", log, log_exits=True),
    ]

    class Last(SessionRunHook):
        async def end(self, session: MonitoredTrainingSession) -> None:
            log.append(("hook", "end", None))

    async def life() -> None:
        hook = saver_hook(tmp_path, Weights(), listeners=listeners)
        async with MonitoredTrainingSession(hooks=[hook, Last()]):
            pass

    async with hang_guard():
        living = asyncio.create_task(life())
        await gate.reached()
        log.clear()
        for _ in range(3):
            living.cancel()
            await asyncio.sleep(0)
        gate.open()
        await cancelled(living)
    assert log == [("a", "/end", 0), ("b", "end", 0), ("b", "/end", 0), ("hook", "end", None)]
    assert await saved_values(tmp_path) == {0: 0}


@pytest.mark.asyncio
async def test_a_cancelled_block_completes_the_round_in_flight_and_ends_everybody(tmp_path: Path) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    gate = disk.hold("write")
    started = asyncio.Event()

    async def life() -> None:
        hook = saver_hook(disk, Weights(), listeners=[listener])
        async with MonitoredTrainingSession(hooks=[hook]):
            started.set()
            await asyncio.Event().wait()

    async with hang_guard():
        living = asyncio.create_task(life())
        await started.wait()
        await gate.reached()
        living.cancel("enough")
        for _ in range(5):
            await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await living
    assert [phase for _, phase, _ in listener.log] == ["begin", "before_save", "after_save", "end"]


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["first begin", "second begin", "hook begin", "after_create_session"])
async def test_in_aenter_those_begun_get_end(tmp_path: Path, where: str) -> None:
    gate = Gate()
    log: list[str] = []

    def recording(name: str, waits_in: str) -> RecordingListener:
        return RecordingListener(name, gates={"begin": gate} if where == waits_in else None)

    class Hook(SessionRunHook):
        async def begin(self) -> None:
            log.append("hook begin")
            if where == "hook begin":
                await gate()

        async def after_create_session(self, session: MonitoredTrainingSession) -> None:
            if where == "after_create_session":
                await gate()

        async def end(self, session: MonitoredTrainingSession) -> None:
            log.append("hook end")

    first, second = recording("first", "first begin"), recording("second", "second begin")
    saver = saver_hook(tmp_path, Weights(), listeners=[first, second])

    async def life() -> None:
        async with MonitoredTrainingSession(hooks=[saver, Hook()]):
            raise AssertionError

    async with hang_guard():
        entering = asyncio.create_task(life())
        await gate.reached()
        entering.cancel()
        await asyncio.sleep(0)
        gate.open()
        await cancelled(entering)
    phases = {entry.name: [phase for _, phase, _ in entry.log] for entry in (first, second)}
    # The begin that runs finishes, like every callback, and counts as begun.
    assert phases["first"] == ["begin", "end"]
    assert phases["second"] == ["begin", "end"] or (where == "first begin" and phases["second"] == [])
    assert (
        log
        == {
            "first begin": [],
            "second begin": [],
            # A hook's method runs in the entering task; cancelled, it did not return.
            "hook begin": ["hook begin"],
            "after_create_session": ["hook begin", "hook end"],
        }[where]
    )
    assert not list(tmp_path.glob("step-*"))


@pytest.mark.asyncio
async def test_in_the_entry_boundary_a_save_that_is_staged_completes(tmp_path: Path) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    gate = disk.hold("write")

    async def life() -> None:
        hook = saver_hook(disk, Weights(), listeners=[listener], blocking=True)
        async with MonitoredTrainingSession(hooks=[hook]):
            raise AssertionError

    async with hang_guard():
        entering = asyncio.create_task(life())
        await gate.reached()
        entering.cancel()
        await asyncio.sleep(0)
        gate.open()
        await cancelled(entering)
    assert [phase for _, phase, _ in listener.log] == ["begin", "before_save", "after_save", "end"]
    assert await saved_values(tmp_path) == {0: 0}


@pytest.mark.asyncio
async def test_a_timeout_around_a_step_works_as_with_any_coroutine(tmp_path: Path) -> None:
    gate = Gate()
    async with MonitoredTrainingSession() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await session.run(gate)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        await session.advance()
        assert session.global_step == 1


@pytest.mark.asyncio
async def test_advance_cancelled_at_its_yield_has_counted(tmp_path: Path) -> None:
    async with MonitoredTrainingSession() as session:
        stepping = asyncio.create_task(session.advance())
        while session.global_step == 0:
            await asyncio.sleep(0)
        stepping.cancel()
        await cancelled(stepping)
        assert session.global_step == 1


async def _nothing() -> None:
    return None
