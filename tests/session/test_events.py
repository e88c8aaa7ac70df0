"""What observers see: which events, in which order, and what happens to an observer that fails."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    CheckpointSaverListener,
    MonitoredTrainingSession,
    SaveError,
    Saver,
    Stop,
    events,
)
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.storage.store import Pieces
from async_ckpt.testing import FakeClock, Gate, RecordingListener
from tests.session.lives import Log, new_state, train
from tests.session.support import SlowStore, soon

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


def on(store: Any, state: Any, **more: Any) -> tuple[Saver, CheckpointSaverHook]:
    saver = Saver(store, max_to_keep=more.pop("max_to_keep", 5), staging=more.pop("staging", "copy"))
    more = {"save_steps": 1, "initial_save": "never", **more}
    return saver, CheckpointSaverHook(saver, state, **more)


async def test_the_events_of_one_save_come_in_the_order_in_which_things_happen(tmp_path: Path) -> None:
    state, log, clock = new_state(), Log(), FakeClock(100.0)

    class Votes(CheckpointSaverListener):
        name = "votes"

        async def before_save(self, session: Any, global_step_value: int) -> None:
            clock.advance(2)

        async def after_save(self, session: Any, global_step_value: int) -> Any:
            clock.advance(3)
            return Stop("enough") if global_step_value == 2 else None

    hook = CheckpointSaverHook(
        tmp_path, state, save_steps=1, initial_save="never", max_to_keep=1, listeners=[Votes()], blocking=True
    )
    session = MonitoredTrainingSession(hooks=[hook], clock=clock)
    # Progress is told by the loop's own clock: on a busy machine a save of a few bytes may take that long.
    session.subscribe(lambda event: None if isinstance(event, events.SaveProgress) else log(event))
    async with session:
        await train(session, state, 2)
    assert log.names == [
        "SessionBegan",
        "SaveRequested", "SaveStaged", "SaveCommitted",
        "SaveRequested", "SaveStaged", "SaveCommitted", "StopVoted", "StopDecided", "CheckpointDeleted",
        "SessionEnded",
    ]  # fmt: skip
    first: list[Any] = log.events[:4]
    last: list[Any] = log.events[7:]
    began, requested, staged, committed = first
    assert (began.step, began.resumed) == (0, False)
    assert (requested.at, requested.step, requested.directory) == (100.0, 1, str(tmp_path))
    assert (staged.at, staged.seconds) == (102.0, 2.0)
    assert committed.path == str(tmp_path / "step-00000001")
    assert committed.seconds == 2.0
    assert committed.bytes == staged.bytes > 0
    voted, decided, deleted, ended = last
    assert (voted.listener, voted.step, voted.reason) == ("votes", 2, "enough")
    assert decided.step == 2
    assert "enough" in decided.reason
    assert deleted.step == 1
    assert (ended.step, ended.error) == (2, None)
    assert [event.at for event in log.events] == sorted(event.at for event in log.events)
    assert began.wall == 1_700_000_000.0


async def test_events_are_frozen() -> None:
    event = events.SessionBegan(at=0.0, wall=0.0, step=1, resumed=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.step = 2  # type: ignore[misc]


async def test_a_failed_save_is_told_with_its_reason_and_the_next_one_is_told_too() -> None:
    store, state, log = SlowStore(), new_state(), Log()
    saver, hook = on(store, state)
    store.fail("write", 1)
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    async with saver, session:
        await train(session, state, 1)
        await session.drain()
        with pytest.raises(SaveError):
            await train(session, state, 1)
    assert log.names == [
        "SessionBegan", "SaveRequested", "SaveStaged", "SaveFailed",
        "SaveRequested", "SaveStaged", "SaveCommitted", "SessionEnded",
    ]  # fmt: skip
    failed = log.of(events.SaveFailed)[0]
    assert failed.step == 1
    assert "space" in failed.reason.lower() or "Error" in failed.reason


async def test_an_error_behind_the_rename_is_told_as_unknown() -> None:
    store, state, log = SlowStore(), new_state(), Log()
    saver, hook = on(store, state)
    store.fail("committed", 1)
    session = MonitoredTrainingSession(hooks=[hook], final_save="never")
    session.subscribe(log)
    with pytest.raises(SaveError) as caught:
        async with saver, session:
            await train(session, state, 1)
    assert caught.value.outcome == "unknown"
    assert "SaveUnknown" in log.names
    assert "SaveFailed" not in log.names
    assert "SaveCommitted" not in log.names


async def test_a_save_that_is_dropped_is_told() -> None:
    store, state, log = SlowStore(), new_state(), Log()
    saver, hook = on(store, state, when_busy="skip")
    gate = store.hold("write", 1)
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    async with saver, session:
        await train(session, state, 2)
        (skipped,) = log.of(events.SaveSkipped)
        assert (skipped.step, skipped.reason, skipped.directory) == (2, "busy", store.location)
        gate.open()


async def test_the_error_that_leaves_is_in_the_last_event() -> None:
    state, log = new_state(), Log()
    saver, hook = on(SlowStore(), state)
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    with pytest.raises(LookupError):
        async with saver, session:
            raise LookupError("mine")
    assert log.of(events.SessionEnded)[0].error == "LookupError('mine')"


async def test_a_slow_plain_callback_is_told_and_waited_for() -> None:
    import threading

    state, log, gate = new_state(), Log(), threading.Event()
    heard = asyncio.Event()

    class Slow:
        def after_save(self, session: Any, step: int) -> None:
            gate.wait(30)

    saver, hook = on(SlowStore(), state, listeners=[Slow()], listener_timeout_secs=0.01)
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    session.subscribe(lambda event: heard.set() if isinstance(event, events.ListenerSlow) else None)
    async with saver, session:
        await train(session, state, 1)
        await soon(heard.wait())
        gate.set()
    (slow,) = log.of(events.ListenerSlow)
    assert (slow.phase, slow.step, slow.seconds) == ("after_save", 1, 0.01)


async def test_what_a_listener_sees_has_been_told_before() -> None:
    """``after_save`` comes behind SaveCommitted, ``before_save`` behind SaveRequested."""
    state = new_state()
    together: list[Any] = []
    saver, hook = on(SlowStore(), state, listeners=[RecordingListener("l", together)])
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(lambda event: together.append(type(event).__name__))
    async with saver, session:
        await train(session, state, 1)
    assert together == [
        ("l", "begin", None), "SessionBegan",
        "SaveRequested", ("l", "before_save", 1), "SaveStaged", "SaveCommitted", ("l", "after_save", 1),
        ("l", "end", 1), "SessionEnded",
    ]  # fmt: skip


# -- observers -------------------------------------------------------------------------------------


async def test_an_observer_that_raises_is_logged_and_removed_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state, before, behind, calls = new_state(), Log(), Log(), []

    def bad(event: events.Event) -> None:
        calls.append(event)
        raise LookupError("bad observer")

    saver, hook = on(SlowStore(), state)
    session = MonitoredTrainingSession(hooks=[hook])
    for observer in (before, bad, behind):
        session.subscribe(observer)
    async with saver, session:
        await train(session, state, 1)
    assert len(calls) == 1
    assert before.events == behind.events
    assert len(before.events) > 3
    assert "bad observer" in caplog.text
    assert "Traceback" in caplog.text
    assert session.errors == ()


async def test_an_observer_may_take_itself_back_and_fail_while_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state, log = new_state(), Log()
    saver, hook = on(SlowStore(), state)
    session = MonitoredTrainingSession(hooks=[hook])

    def once(event: events.Event) -> None:
        take_back()
        raise LookupError("last words")

    take_back = session.subscribe(once)
    session.subscribe(log)
    async with saver, session:
        await train(session, state, 1)
    assert "last words" in caplog.text
    assert log.names[-1] == "SessionEnded"


async def test_taking_an_observer_back_twice_is_harmless() -> None:
    state, log = new_state(), Log()
    saver, hook = on(SlowStore(), state)
    session = MonitoredTrainingSession(hooks=[hook])
    take_back = session.subscribe(log)
    async with saver, session:
        take_back()
        take_back()
        await train(session, state, 1)
    assert log.names == ["SessionBegan"]


# -- progress --------------------------------------------------------------------------------------


class SecondFileWaits(MemoryStore):
    """Holds back every file but the first."""

    def __init__(self) -> None:
        super().__init__(hops=False)
        self.gate = Gate()
        self.files = 0

    async def write(self, attempt: str, name: str, data: memoryview | Pieces, **more: Any) -> None:
        self.files += 1
        if self.files > 1:
            await self.gate()
        await super().write(attempt, name, data, **more)


async def test_progress_is_told_while_a_slow_disk_writes_and_no_task_is_left_for_it() -> None:
    state = {"a": {"w": np.zeros(1000)}, "b": {"w": np.zeros(3000)}}
    store, log, heard = SecondFileWaits(), Log(), asyncio.Event()
    saver, hook = on(store, state)
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    session.subscribe(lambda event: heard.set() if isinstance(event, events.SaveProgress) else None)
    async with saver, session:
        await session.advance()
        await store.gate.reached()
        tasks = {task.get_name() for task in asyncio.all_tasks()}
        await soon(heard.wait())
        assert tasks == {task.get_name() for task in asyncio.all_tasks()}
        (told,) = log.of(events.SaveProgress)
        total = log.of(events.SaveStaged)[0].bytes
        assert (told.step, told.bytes_total, told.directory) == (1, total, store.location)
        assert 8000 <= told.bytes_done < total
        assert log.names[-2:] == ["SaveStaged", "SaveProgress"]
        store.gate.open()
    assert log.names[-2:] == ["SaveCommitted", "SessionEnded"]


async def test_where_nobody_observes_no_timer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    store, state = SlowStore(), new_state()
    saver, hook = on(store, state)
    gate = store.hold("write", 1)
    timers: list[float] = []
    async with saver, MonitoredTrainingSession(hooks=[hook], grace_secs=float("inf")) as session:
        loop = asyncio.get_running_loop()
        later = loop.call_later

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

            def call_later(self, delay: float, *args: Any) -> Any:
                timers.append(delay)
                return later(delay, *args)

        from async_ckpt.runtime import runner

        class Asyncio:
            def __getattr__(self, name: str) -> Any:
                return getattr(asyncio, name)

            def get_running_loop(self) -> Any:
                return Counting()

        monkeypatch.setattr(runner, "asyncio", Asyncio())
        await session.advance()
        await gate.reached()
        gate.open()
        await session.drain()
    assert timers == []


async def test_with_overlap_staged_is_told_when_the_copy_is_over() -> None:
    state, log = new_state(), Log()
    saver, hook = on(SlowStore(), state, staging="overlap")
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    async with saver, session:
        async with session.mutating():
            state["w"] += 1
        await session.advance()
        await session.drain()
    assert log.names[1:4] == ["SaveRequested", "SaveStaged", "SaveCommitted"]
    assert log.of(events.SaveStaged)[0].bytes > 0
