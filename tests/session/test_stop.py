"""Stop requests: between steps at once, inside a step at its boundary, from anywhere; and what follows."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import MonitoredTrainingSession, SessionRunHook, SessionStopped, StepRun, StopAtStepHook
from async_ckpt.events import Event, StopDecided
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours


@pytest.mark.asyncio
async def test_a_stop_between_steps_is_known_at_once_and_the_first_reason_stays() -> None:
    async with MonitoredTrainingSession() as session:
        assert not session.should_stop()
        assert session.stop_reason is None
        session.request_stop("first")
        assert session.should_stop()
        session.request_stop("second")
        assert session.stop_reason == "first"


@pytest.mark.asyncio
async def test_a_stop_inside_a_step_is_known_at_its_boundary() -> None:
    seen = []

    class Watching(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            seen.append(("after_run", run.session.should_stop()))

    async def step() -> None:
        session.request_stop("in the step")
        seen.append(("fn", session.should_stop()))
        await asyncio.sleep(0)
        seen.append(("fn", session.should_stop()))

    async with MonitoredTrainingSession(hooks=[Watching()]) as session:
        await session.run(step)
        assert seen == [("fn", False), ("fn", False), ("after_run", False)]
        assert session.should_stop()
        assert session.global_step == 1


@pytest.mark.asyncio
async def test_a_stop_from_a_hook_of_the_boundary_is_known_at_that_boundary() -> None:
    class Stops(SessionRunHook):
        async def check(self, run: StepRun) -> None:
            run.request_stop("enough")

    async with MonitoredTrainingSession(hooks=[Stops()]) as session:
        await session.advance()
        assert session.stop_reason == "enough"


@pytest.mark.asyncio
async def test_a_stop_from_another_task_while_a_step_runs_waits_for_the_boundary() -> None:
    go = asyncio.Event()
    async with hang_guard(), MonitoredTrainingSession() as session:
        running = asyncio.create_task(session.run(go.wait))
        await asyncio.sleep(0)
        session.request_stop("outside")
        assert not session.should_stop()
        go.set()
        await running
        assert session.stop_reason == "outside"


@pytest.mark.asyncio
async def test_a_stop_may_be_asked_for_from_the_trainer_thread_and_from_a_foreign_one() -> None:
    async with MonitoredTrainingSession() as session:
        await session.run(lambda: session.request_stop("trainer"))
        assert session.stop_reason == "trainer"

    async with hang_guard(), MonitoredTrainingSession() as session:
        thread = threading.Thread(target=session.request_stop, args=("foreign",))
        thread.start()
        while not session.should_stop():
            await asyncio.sleep(0)
        thread.join()
        assert session.stop_reason == "foreign"


@pytest.mark.asyncio
async def test_a_stop_from_a_thread_with_a_loop_of_its_own_is_safe() -> None:
    async def other_loop() -> None:
        session.request_stop("other loop")

    async with hang_guard(), MonitoredTrainingSession() as session:
        thread = threading.Thread(target=lambda: asyncio.run(other_loop()))
        thread.start()
        while not session.should_stop():
            await asyncio.sleep(0)
        thread.join()
        assert session.stop_reason == "other loop"


def test_a_stop_from_a_thread_after_the_loop_has_gone_is_harmless() -> None:
    session = MonitoredTrainingSession()

    async def life() -> None:
        async with session:
            await session.advance()

    asyncio.run(life())
    session.request_stop("late")


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
@pytest.mark.parametrize("phase", ["before_save", "after_save"])
async def test_a_listener_may_ask_for_a_stop(tmp_path: Path, phase: str, plain: bool) -> None:
    class Listener:
        pass

    def ask(session: Any, step: int) -> None:
        session.request_stop(f"{phase} {step}")

    async def ask_too(session: Any, step: int) -> None:
        ask(session, step)

    listener = Listener()
    setattr(listener, phase, ask if plain else ask_too)
    hook = saver_hook(tmp_path, Weights(), save_steps=2, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.advance()
        assert not session.should_stop()
        await session.advance()
        if phase == "after_save":
            # Between steps: known as soon as the callback has said so.
            await session.drain()
        assert session.stop_reason == f"{phase} 2"


@pytest.mark.asyncio
async def test_a_stop_before_entering_is_known_when_the_block_begins(tmp_path: Path) -> None:
    session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights())])
    session.request_stop("not today")
    async with session:
        assert session.should_stop()
        with pytest.raises(SessionStopped):
            await session.advance()
    assert await saved_values(tmp_path) == {0: 0}


@pytest.mark.asyncio
async def test_a_stop_decided_on_entry_stops_before_step_one(tmp_path: Path) -> None:
    listener = RecordingListener("l", vote_at=[0])
    blocking = saver_hook(tmp_path, Weights(), listeners=[listener], blocking=True)
    async with MonitoredTrainingSession(hooks=[blocking]) as session:
        assert session.should_stop()
        assert "l voted to stop at step 0" in (session.stop_reason or "")

    async with MonitoredTrainingSession(hooks=[StopAtStepHook(last_step=0)]) as session:
        assert session.should_stop()


@pytest.mark.asyncio
async def test_a_vote_is_known_at_the_first_boundary_after_it_and_not_before(tmp_path: Path) -> None:
    listener = RecordingListener("l", vote_at=[0])
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
        assert not session.should_stop()
        await session.advance()
        assert session.should_stop()


@pytest.mark.asyncio
async def test_after_the_stop_run_and_advance_raise_before_doing_anything(tmp_path: Path) -> None:
    calls: list[str] = []

    class Watching(SessionRunHook):
        async def before_run(self, run: StepRun) -> None:
            calls.append("before_run")

    async with MonitoredTrainingSession(hooks=[Watching()]) as session:
        await session.advance()
        session.request_stop("done")
        calls.clear()
        for step in (lambda: session.run(lambda: calls.append("fn")), session.advance):
            with pytest.raises(SessionStopped) as caught:
                await step()
            assert (caught.value.reason, caught.value.step) == ("done", 1)
        assert (calls, session.global_step) == ([], 1)


@pytest.mark.asyncio
async def test_session_stopped_leaves_the_block_like_a_clean_exit_and_goes_on(tmp_path: Path) -> None:
    weights, listener = Weights(), RecordingListener("l")
    hook = saver_hook(tmp_path, weights, listeners=[listener], initial_save="never")
    stopped = None
    with pytest.raises(SessionStopped) as caught:
        async with MonitoredTrainingSession(hooks=[hook]) as session:
            for _ in range(3):
                await session.run(weights.train)
            session.request_stop("enough")
            try:
                await session.run(weights.train)
            except SessionStopped as error:
                stopped = error
                raise
    assert caught.value is stopped
    assert session.errors == ()
    assert await saved_values(tmp_path) == {3: 3}
    assert [phase for _, phase, _ in listener.log] == ["begin", "before_save", "after_save", "end"]


@pytest.mark.asyncio
async def test_a_stop_that_comes_while_a_save_is_waited_for_is_known_when_the_step_returns(
    tmp_path: Path,
) -> None:
    gate = Gate()
    listener = RecordingListener("l", gates={"before_save": gate})
    hook = saver_hook(tmp_path, Weights(), save_steps=1, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        running = asyncio.create_task(session.advance())
        await gate.reached()
        session.request_stop("during the boundary")
        assert not session.should_stop()
        gate.open()
        await running
        assert session.should_stop()


@pytest.mark.asyncio
async def test_a_stop_is_decided_once_and_observers_are_told() -> None:
    events: list[Event] = []
    async with MonitoredTrainingSession() as session:
        session.subscribe(events.append)
        await session.advance()
        session.request_stop("one")
        session.request_stop("two")
    decided = [event for event in events if isinstance(event, StopDecided)]
    assert [(event.reason, event.step) for event in decided] == [("one", 1)]


@pytest.mark.asyncio
async def test_after_the_exit_a_session_says_stop_and_a_request_is_harmless() -> None:
    async with MonitoredTrainingSession() as session:
        pass
    assert session.should_stop()
    session.request_stop("late")
