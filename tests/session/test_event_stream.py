"""``session.events()`` and observers that choose: bounded, ordered, and never in the session's way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, events
from async_ckpt.testing import FakeClock, RecordingListener
from tests.session.lives import Log, new_state, train

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]

SAVE = ["SaveRequested", "SaveStaged", "SaveCommitted"]


def names(found: list[events.Event]) -> list[str]:
    return [type(event).__name__ for event in found]


def session_on(
    directory: Path, state: Any, *, clock: FakeClock | None = None, **more: Any
) -> MonitoredTrainingSession:
    hook = CheckpointSaverHook(directory, state, **{"save_steps": 1, "initial_save": "never", **more})
    return MonitoredTrainingSession(hooks=[hook], clock=clock)


async def test_a_stream_gives_every_event_and_ends_with_the_session(tmp_path: Path) -> None:
    state = new_state()
    session = session_on(tmp_path, state, blocking=True)
    stream = session.events(kinds=[events.Event])
    seen: list[events.Event] = []

    async def read() -> None:
        seen.extend([event async for event in stream if not isinstance(event, events.SaveProgress)])

    reading = asyncio.create_task(read())
    async with session:
        await train(session, state, 1)
    await reading
    assert names(seen) == [
        "SessionBegan", "StepTaken", "SaveRequested", "SaveStaged", "SaveWritten", "SaveCommitted",
        "SaveSettled", "SessionEnded",
    ]  # fmt: skip
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert [event async for event in session.events()] == []


async def test_a_stream_nobody_reads_holds_nothing_up_and_counts_what_it_left_out(tmp_path: Path) -> None:
    state = new_state()
    session = session_on(tmp_path, state, blocking=True)
    stream = session.events(capacity=2, kinds=[events.SaveCommitted])
    async with session:
        await train(session, state, 5)
        first = await anext(stream)
        await train(session, state, 1)
    rest = [event async for event in stream]
    assert isinstance(first, events.SaveCommitted)
    assert first.step == 1
    assert [(type(event).__name__, getattr(event, "step", None) or event.count) for event in rest] == [  # type: ignore[attr-defined]
        ("SaveCommitted", 2), ("EventsDropped", 3), ("EventsDropped", 1), ("SessionEnded", 6),
    ]  # fmt: skip


async def test_what_was_left_out_stands_between_its_neighbours(tmp_path: Path) -> None:
    state = new_state()
    session = session_on(tmp_path, state, blocking=True)
    stream = session.events(capacity=1, kinds=[events.SaveCommitted])
    async with session:
        await train(session, state, 3)
        assert (await anext(stream)).step == 1  # type: ignore[attr-defined]
        dropped = await anext(stream)
        assert isinstance(dropped, events.EventsDropped)
        assert dropped.count == 2
        await train(session, state, 1)
        assert (await anext(stream)).step == 4  # type: ignore[attr-defined]


async def test_a_cancelled_reader_loses_no_event(tmp_path: Path) -> None:
    state = new_state()
    session = session_on(tmp_path, state, blocking=True)
    stream = session.events(kinds=[events.SaveCommitted])
    async with session:
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await train(session, state, 1)
        assert (await anext(stream)).step == 1  # type: ignore[attr-defined]


async def test_a_closed_stream_gives_what_waits_and_ends(tmp_path: Path) -> None:
    state = new_state()
    session = session_on(tmp_path, state, blocking=True)
    stream = session.events()
    async with session:
        stream.close()
        stream.close()
        await train(session, state, 1)
        assert names([event async for event in stream]) == ["SessionBegan"]


@pytest.mark.parametrize("capacity", [0, -1, True, 1.5])
async def test_a_capacity_that_is_none_is_refused(tmp_path: Path, capacity: Any) -> None:
    with pytest.raises(ValueError, match="capacity"):
        session_on(tmp_path, new_state()).events(capacity=capacity)


async def test_an_observer_that_cannot_be_called_and_a_kind_that_is_none_are_refused(tmp_path: Path) -> None:
    session = session_on(tmp_path, new_state())
    with pytest.raises(TypeError, match="called"):
        session.subscribe(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="kinds"):
        session.subscribe(print, kinds=[int])  # type: ignore[list-item]


async def test_an_observer_is_told_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    state, named, everything, log = new_state(), Log(), Log(), Log()

    class Chooses:
        kinds = (events.SaveCommitted, events.StepTaken)

        def __call__(self, event: events.Event) -> None:
            named(event)

    session = session_on(tmp_path, state, blocking=True)
    session.subscribe(Chooses())
    session.subscribe(everything, kinds=[events.Event])
    session.subscribe(log, kinds=[events.SessionBegan])
    async with session:
        await train(session, state, 2)
    assert named.names == ["StepTaken", "SaveCommitted"] * 2
    assert log.names == ["SessionBegan"]
    assert [name for name in everything.names if name in {"StepTaken", "SaveCommitted"}] == named.names


async def test_steps_are_told_from_the_moment_somebody_asks_and_each_with_its_time(tmp_path: Path) -> None:
    state, clock, log = new_state(), FakeClock(), Log()
    session = session_on(tmp_path, state, clock=clock, save_steps=100)

    async def step() -> None:
        clock.advance(2)

    async with session:
        await session.advance()
        await session.advance()
        stop = session.subscribe(log, kinds=[events.StepTaken])
        await session.run(step, steps=3)
        clock.advance(5)
        await session.advance()
        stop()
        await session.advance()
    told: list[Any] = log.events
    assert [(event.step, event.steps, event.seconds) for event in told] == [(5, 3, 2.0), (6, 1, 5.0)]


async def test_each_call_of_a_listener_is_told_with_its_time_and_its_error(tmp_path: Path) -> None:
    state, clock, log = new_state(), FakeClock(), Log()

    class Slow(RecordingListener):
        async def after_save(self, session: Any, global_step_value: int) -> None:
            clock.advance(3)
            raise LookupError("mine")

    session = session_on(tmp_path, state, clock=clock, listeners=[Slow("slow")], on_listener_error="log")
    session.subscribe(log, kinds=[events.ListenerCalled])
    async with session:
        await train(session, state, 1)
    told: list[Any] = log.events
    assert [(event.phase, event.step, event.seconds, event.error) for event in told] == [
        ("begin", None, 0.0, None),
        ("before_save", 1, 0.0, None),
        ("after_save", 1, 3.0, "LookupError('mine')"),
        ("end", 1, 0.0, None),
    ]


async def test_what_only_details_would_tell_is_not_told_to_others(tmp_path: Path) -> None:
    state, log = new_state(), Log()
    session = session_on(tmp_path, state, blocking=True, listeners=[RecordingListener("l")])
    session.subscribe(log)
    async with session:
        await train(session, state, 1)
    assert set(log.names) <= {"SessionBegan", *SAVE, "SaveProgress", "SessionEnded"}
