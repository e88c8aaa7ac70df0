"""``blocking=True``: the whole sequence at the hook's place in the boundary."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_ckpt import (
    CheckpointSaverHook,
    MonitoredTrainingSession,
    SaveError,
    SessionRunHook,
    StepRun,
)
from async_ckpt.testing import Gate, RecordingListener
from tests.session.support import SlowStore, advance, saver_on, soon, training, weights

pytestmark = pytest.mark.loop_flavours

Log = list[tuple[str, str, int | None]]


class Watch(SessionRunHook):
    """Writes down when its ``after_run`` is called."""

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.log = log

    async def after_run(self, run: StepRun) -> None:
        self.log.append((self.name, "after_run", run.step))


@pytest.mark.asyncio
async def test_a_blocking_save_is_durable_and_reported_when_the_boundary_ends() -> None:
    store, listener = SlowStore(), RecordingListener("A")
    async with training(store, listeners=[listener], blocking=True) as session:
        await advance(session, 2)
        assert store.done == [("commit", 2), ("add", 2)]
        assert listener.log[1:] == [("A", "before_save", 2), ("A", "after_save", 2)]


@pytest.mark.asyncio
async def test_a_blocking_save_holds_the_step_until_the_disk_is_done() -> None:
    store = SlowStore()
    async with training(store, blocking=True) as session:
        await advance(session, 1)
        gate = store.hold("commit", 2)
        step = asyncio.create_task(session.advance())
        await soon(gate.reached())
        assert not step.done()
        gate.open()
        await soon(step)
        assert store.done[0] == ("commit", 2)


@pytest.mark.asyncio
async def test_the_sequence_stands_at_the_place_of_the_hook_between_its_neighbours() -> None:
    log: Log = []
    async with saver_on(SlowStore()) as one, saver_on(SlowStore()) as other:
        hooks: list[SessionRunHook] = [
            Watch("first", log),
            CheckpointSaverHook(
                one,
                weights(),
                save_steps=1,
                blocking=True,
                initial_save="never",
                listeners=[RecordingListener("A", log)],
            ),
            Watch("between", log),
            CheckpointSaverHook(
                other,
                weights(),
                save_steps=1,
                initial_save="never",
                listeners=[RecordingListener("B", log)],
            ),
            Watch("last", log),
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            await advance(session, 1)
            await soon(session.drain())
    assert [entry for entry in log if entry[1] not in ("begin", "end")] == [
        ("first", "after_run", 1),
        ("A", "before_save", 1),
        ("A", "after_save", 1),
        ("between", "after_run", 1),
        ("B", "before_save", 1),
        ("last", "after_run", 1),
        ("B", "after_save", 1),
    ]


@pytest.mark.asyncio
async def test_a_blocking_hook_runs_through_beside_a_save_of_the_same_round_that_is_being_written() -> None:
    log: Log = []
    slow = SlowStore()
    async with saver_on(slow) as one, saver_on(SlowStore()) as other:
        hooks = [
            CheckpointSaverHook(
                saver,
                weights(),
                save_steps=1,
                blocking=blocking,
                initial_save="never",
                listeners=[RecordingListener(name, log)],
            )
            for saver, name, blocking in ((one, "A", False), (other, "B", True))
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            gate = slow.hold("write", 1)
            await advance(session, 1)
            assert log[2:] == [("A", "before_save", 1), ("B", "before_save", 1), ("B", "after_save", 1)]
            gate.open()
            await soon(session.drain())
            assert log[-1] == ("A", "after_save", 1)


@pytest.mark.asyncio
async def test_a_blocking_vote_stops_at_its_own_boundary() -> None:
    listener = RecordingListener("A", vote_at=(2,))
    async with training(SlowStore(), listeners=[listener], blocking=True) as session:
        steps = 0
        while not session.should_stop():
            await advance(session, 1)
            steps += 1
    assert steps == 2


@pytest.mark.asyncio
async def test_a_vote_of_a_blocking_initial_save_stops_before_step_1() -> None:
    listener = RecordingListener("A", vote_at=(0,))
    async with training(SlowStore(), listeners=[listener], blocking=True, initial_save="fresh") as session:
        assert session.should_stop()
    assert session.global_step == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("operation", ["write", "commit"])
async def test_a_blocking_save_that_fails_leaves_at_its_own_boundary(operation: str) -> None:
    store, listener = SlowStore(), RecordingListener("A")
    async with training(store, listeners=[listener], blocking=True) as session:
        store.fail(operation, 2)
        await advance(session, 1)
        with pytest.raises(SaveError) as caught:
            await soon(session.advance())
        assert caught.value.step == 2
        await advance(session, 1)
    assert [step for _, phase, step in listener.log if phase == "after_save"] == [3]
    assert store.done == [("commit", 3), ("add", 3)]


@pytest.mark.asyncio
async def test_a_blocking_hook_waits_for_the_round_of_another_hook() -> None:
    log: Log = []
    slow = SlowStore()
    async with saver_on(slow) as one, saver_on(SlowStore()) as other:
        hooks = [
            CheckpointSaverHook(
                saver,
                weights(),
                save_steps=every,
                blocking=blocking,
                initial_save="never",
                listeners=[RecordingListener(name, log)],
            )
            for saver, name, every, blocking in ((one, "A", 2, False), (other, "B", 3, True))
        ]
        options: dict[str, Any] = {"final_save": "never"}
        async with MonitoredTrainingSession(hooks=hooks, **options) as session:
            gate = slow.hold("commit", 2)
            await advance(session, 2)
            step = asyncio.create_task(session.advance())
            await soon(gate.reached())
            assert not step.done()
            gate.open()
            await soon(step)
    assert [entry for entry in log if entry[2] is not None][:4] == [
        ("A", "before_save", 2),
        ("A", "after_save", 2),
        ("B", "before_save", 3),
        ("B", "after_save", 3),
    ]


@pytest.mark.asyncio
async def test_a_blocking_save_whose_step_was_cancelled_is_reported_in_one_piece() -> None:
    """The round is sealed then, and the other hook's save comes behind it, not in between."""
    log: Log = []
    gate = Gate()
    async with saver_on(SlowStore()) as one, saver_on(SlowStore()) as other:
        listeners = (
            [RecordingListener("A", log)],
            [RecordingListener("B", log, gates={"after_save": gate}), RecordingListener("C", log)],
        )
        hooks = [
            CheckpointSaverHook(
                saver, weights(), save_steps=1, blocking=blocking, initial_save="never", listeners=called
            )
            for saver, blocking, called in ((one, False, listeners[0]), (other, True, listeners[1]))
        ]
        options: dict[str, Any] = {"final_save": "never"}
        async with MonitoredTrainingSession(hooks=hooks, **options) as session:
            step = asyncio.create_task(session.advance())
            await soon(gate.reached())
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(step)
            await soon(one._line._current.pending.written())  # type: ignore[union-attr]
            gate.open()
            await soon(session.drain())
    assert [name for name, phase, _ in log if phase == "after_save"] == ["B", "C", "A"]
