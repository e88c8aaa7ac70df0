"""A save falls due while a round is in flight: wait, skip, coalesce."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from async_ckpt import MonitoredTrainingSession
from async_ckpt.events import SaveRequested, SaveSkipped
from async_ckpt.testing import RecordingListener
from tests.session.support import SlowStore, advance, events_of, saver_on, soon, training, until

pytestmark = pytest.mark.loop_flavours


def saved(store: SlowStore) -> list[int | None]:
    return [step for what, step in store.done if what == "commit"]


def held(session: MonitoredTrainingSession) -> bool:
    return session._scheduler.machine.held is not None


@pytest.mark.asyncio
async def test_wait_holds_the_step_until_the_round_is_over_after_save_included() -> None:
    store, log = SlowStore(), RecordingListener("A", log_exits=True)
    async with training(store, listeners=[log]) as session:
        gate = store.hold("commit", 2)
        report = store.hold("add", 2)
        await advance(session, 3)
        step = asyncio.create_task(session.advance())
        await until(lambda: held(session))
        gate.open()
        await soon(report.reached())
        # The report belongs to the round as well.
        assert not step.done()
        assert ("A", "before_save", 4) not in log.log
        report.open()
        await soon(step)
        assert ("A", "before_save", 4) in log.log
    assert saved(store) == [2, 4]


@pytest.mark.asyncio
async def test_a_step_that_saves_nothing_never_waits_for_the_disk() -> None:
    store = SlowStore()
    async with training(store, save_steps=10) as session:
        gate = store.hold("write", 10)
        await advance(session, 19)
        assert session.global_step == 19
        gate.open()


@pytest.mark.asyncio
async def test_skip_drops_the_save_with_an_event_and_the_next_grid_step_is_the_next_save() -> None:
    store, log = SlowStore(), RecordingListener("A")
    async with training(store, listeners=[log], when_busy="skip") as session:
        skips = events_of(session, SaveSkipped)
        gate = store.hold("write", 2)
        await advance(session, 5)
        assert [(event.step, event.reason) for event in skips] == [(4, "busy")]
        assert all(event.directory == store.location for event in skips)
        gate.open()
        await soon(session.drain())
        await advance(session, 2)
    assert saved(store) == [2, 6, 7]
    assert [step for _, phase, step in log.log if phase == "before_save"] == [2, 6, 7]
    assert len(skips) == 1


@pytest.mark.asyncio
async def test_coalesce_takes_the_save_at_the_first_free_boundary_with_that_boundarys_step() -> None:
    store = SlowStore()
    state: dict[str, Any] = {"w": np.zeros(2)}
    async with saver_on(store) as reader:
        async with training(store, state=state, when_busy="coalesce") as session:
            skips = events_of(session, SaveSkipped)
            requests = events_of(session, SaveRequested)
            gate = store.hold("write", 2)
            await advance(session, 6)
            gate.open()
            await soon(session.drain())
            # Remembered, not taken behind the back of the training: the next boundary takes it.
            assert saved(store) == [2]
            state["w"][:] = 7
            await advance(session, 1)
            await soon(session.drain())
            assert saved(store) == [2, 7]
            assert np.array_equal((await reader.restore(7)).state["w"], np.full(2, 7.0))
            # The grid goes on from the save that was taken, and several due points gave one save.
            await advance(session, 2)
            await soon(session.drain())
        assert saved(store) == [2, 7, 9]
        assert [event.step for event in requests] == [2, 7, 9]
        assert skips == []


@pytest.mark.asyncio
async def test_coalesce_remembers_what_a_predicate_asked_for_once() -> None:
    store = SlowStore()
    options = {"final_save": "never"}
    async with training(
        store,
        save_when=lambda session: session.global_step in (2, 4),
        when_busy="coalesce",
        session_options=options,
    ) as session:
        gate = store.hold("write", 2)
        await advance(session, 5)
        gate.open()
        await soon(session.drain())
        await advance(session, 3)
    assert saved(store) == [2, 6]


@pytest.mark.asyncio
@pytest.mark.parametrize("when_busy", ["skip", "coalesce"])
async def test_while_nothing_is_in_flight_skip_and_coalesce_save_the_grid(when_busy: str) -> None:
    store = SlowStore()
    async with training(store, when_busy=when_busy) as session:
        skips = events_of(session, SaveSkipped)
        for _ in range(6):
            await advance(session, 1)
            await soon(session.drain())
    assert saved(store) == [2, 4, 6]
    assert skips == []


@pytest.mark.asyncio
@pytest.mark.parametrize("when_busy", ["skip", "coalesce"])
async def test_a_save_asked_for_waits_whatever_when_busy_says(when_busy: str) -> None:
    store = SlowStore()
    async with training(store, when_busy=when_busy) as session:
        skips = events_of(session, SaveSkipped)
        gate = store.hold("write", 2)
        await advance(session, 3)

        async def open_it() -> None:
            await until(lambda: held(session))
            gate.open()

        opener = asyncio.create_task(open_it())
        checkpoint = await soon(session.save())
        await opener
        assert not isinstance(checkpoint, tuple)
        assert checkpoint.step == 3
    assert saved(store) == [2, 3]
    assert skips == []


@pytest.mark.asyncio
async def test_a_remembered_save_that_never_found_a_free_boundary_is_taken_at_the_exit() -> None:
    store = SlowStore()
    async with training(store, when_busy="coalesce") as session:
        gate = store.hold("write", 2)
        await advance(session, 5)
        gate.open()
    assert saved(store) == [2, 5]


@pytest.mark.asyncio
async def test_after_a_step_that_waited_the_grid_stays_where_it_was() -> None:
    store = SlowStore()
    async with training(store, save_steps=3) as session:
        gate = store.hold("write", 3)
        await advance(session, 5)
        step = asyncio.create_task(session.advance())
        await until(lambda: held(session))
        gate.open()
        await soon(step)
        await advance(session, 3)
    assert saved(store) == [3, 6, 9]
